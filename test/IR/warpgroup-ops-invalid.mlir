// Ops on tiles of warpgroups whose sizes do not agree.
// RUN: pmkvq-opt %s -split-input-file -verify-diagnostics

func.func @vectors(%codes: !llvm.ptr<1>, %block: i32, %w: i32) -> vector<16xi32> {
  // expected-error @+1 {{(C1) expected vectors of 4, got 2 to 6}}
  %words = pmkvq.load_fragments key 4 vectors 2, 4 of %w, %w from %codes at %block : !llvm.ptr<1> -> vector<16xi32>
  return %words : vector<16xi32>
}

// -----

func.func @blocks(%codes: !llvm.ptr<1>, %block: i32, %w: i32) -> vector<32xi32> {
  // expected-error @+1 {{(C2) expected 4 blocks, got 1}}
  %words = pmkvq.load_fragments key 8 vectors 0, 8 of %w, %w from %codes at %block : !llvm.ptr<1> -> vector<32xi32>
  return %words : vector<32xi32>
}

// -----

func.func @groups(%parameters: !llvm.ptr<1>, %w: i32) -> vector<8xi32> {
  // expected-error @+1 {{(C2) expected 16 words, got 8}}
  %words = pmkvq.load_groups key 2 of %w, %w from %parameters : !llvm.ptr<1> -> vector<8xi32>
  return %words : vector<8xi32>
}

// -----

func.func @format(%tile: !llvm.ptr<3>, %words: vector<16xi32>, %w: i32) {
  // expected-error @+1 {{(C2) expected a format and groups below level 16, and none at it}}
  pmkvq.dequantize_fragments key 4 vectors 0, 4 of %w, %w %words into %tile : vector<16xi32>, !llvm.ptr<3>
  return
}

// -----

func.func @halves(%tile: !llvm.ptr<3>, %words: vector<4xi32>, %w: i32) {
  // expected-error @+1 {{(C3) expected pairs of vectors, got 0 to 1}}
  pmkvq.dequantize_fragments key 16 vectors 0, 1 of %w, %w %words into %tile : vector<4xi32>, !llvm.ptr<3>
  return
}

// -----

func.func @scores(%x: vector<32xf32>, %q: !llvm.ptr<3>) -> vector<32xf32> {
  // expected-error @+1 {{(C1) expected 64 accumulators, got 32}}
  %s = pmkvq.score_product %q, %q in %x : !llvm.ptr<3>, !llvm.ptr<3>, vector<32xf32>
  return %s : vector<32xf32>
}

// -----

func.func @weights(%o: vector<64xf32>, %p: vector<16xi32>, %v: !llvm.ptr<3>) -> vector<64xf32> {
  // expected-error @+1 {{(C1) expected 32 words of weights, got 16}}
  %n = pmkvq.value_product %o, %p, %v : vector<64xf32>, vector<16xi32>, !llvm.ptr<3>
  return %n : vector<64xf32>
}

// -----

!k4 = !pmkvq.tile<key, 4, 128, 128, <per_channel>>
func.func @dequantize(%tile: !k4) -> !k4 {
  // expected-error @+1 {{(C1) expected a result of type '!pmkvq.tile<key, 16, 128, 128>'}}
  %x = pmkvq.dequantize %tile : !k4 -> !k4
  return %x : !k4
}
