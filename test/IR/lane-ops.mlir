// Round trip of the ops on lanes, custom form and generic form.
// RUN: pmkvq-opt %s | pmkvq-opt | FileCheck %s
// RUN: pmkvq-opt %s --mlir-print-op-generic | pmkvq-opt | FileCheck %s

// CHECK-LABEL: func @queries
func.func @queries(%rows: vector<16xi32>) {
  // CHECK: pmkvq.split_rows %{{.*}} : vector<16xi32> -> vector<8xi32>
  %bytes, %scale = pmkvq.split_rows %rows : vector<16xi32> -> vector<8xi32>
  // CHECK: pmkvq.weigh_rows %{{.*}}, %{{.*}} : vector<16xi32>
  %w = pmkvq.weigh_rows %rows, %rows : vector<16xi32>
  // CHECK: pmkvq.sum_bytes %{{.*}} : vector<8xi32>
  %s = pmkvq.sum_bytes %bytes : vector<8xi32>
  return
}

// CHECK-LABEL: func @products
func.func @products(%codes: !llvm.ptr<3>, %bytes: vector<8xi32>, %weights: vector<2xi32>) {
  // CHECK: pmkvq.multiply_codes key 2 tokens 128 head_dim 128 in %{{.*}}, %{{.*}}, %{{.*}} : !llvm.ptr<3>, vector<8xi32>, vector<8xi32> -> vector<32xi32>, vector<32xi32>
  %two:2 = pmkvq.multiply_codes key 2 tokens 128 head_dim 128 in %codes, %bytes, %bytes
    : !llvm.ptr<3>, vector<8xi32>, vector<8xi32> -> vector<32xi32>, vector<32xi32>
  // CHECK: pmkvq.multiply_codes value 16 tokens 16 head_dim 128 in {{.*}} : !llvm.ptr<3>, vector<2xi32> -> vector<32xf32>
  %raw = pmkvq.multiply_codes value 16 tokens 16 head_dim 128 in %codes, %weights
    : !llvm.ptr<3>, vector<2xi32> -> vector<32xf32>
  return
}

// CHECK-LABEL: func @softmax
func.func @softmax(%m: f32, %outputs: vector<16xf32>, %x: vector<8xf32>) {
  // CHECK: pmkvq.lazy_softmax %[[M:.*]] sums(%[[M]], %[[M]]) outputs %{{.*}} products %[[X:.*]] factors %[[X]] bias %[[X]] : (f32, f32, f32, vector<16xf32>, vector<8xf32>, vector<8xf32>, vector<8xf32>) -> (f32, f32, f32, vector<16xf32>, vector<8xf32>, vector<4xi32>)
  %r:6 = pmkvq.lazy_softmax %m sums(%m, %m) outputs %outputs products %x factors %x bias %x
    : (f32, f32, f32, vector<16xf32>, vector<8xf32>, vector<8xf32>, vector<8xf32>)
      -> (f32, f32, f32, vector<16xf32>, vector<8xf32>, vector<4xi32>)
  // CHECK: pmkvq.repack_weights %{{.*}}, %{{.*}} : vector<8xf32>, vector<4xi32> -> vector<4xi32>
  %b, %unscale = pmkvq.repack_weights %r#4, %r#5 : vector<8xf32>, vector<4xi32> -> vector<4xi32>
  // CHECK: pmkvq.repack_raw_weights %{{.*}} : vector<8xf32> -> vector<8xi32>
  %raw = pmkvq.repack_raw_weights %x : vector<8xf32> -> vector<8xi32>
  return
}

// CHECK-LABEL: func @ring
func.func @ring(%s: !llvm.ptr<3>, %g: !llvm.ptr<1>, %n: i32, %leader: i1, %policy: i64) {
  // CHECK: pmkvq.ring_issue %[[N:.*]] into %[[S:.*]], %[[S]] if %{{.*}} from %[[G:.*]], %[[G]] at %[[N]], %[[N]], %[[N]] info %[[N]] policy %{{.*}} kinds [16, 16, 4, 2] slot_bytes 8192 head_dim 128 keys_per_token false : !llvm.ptr<3>, !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  pmkvq.ring_issue %n into %s, %s if %leader from %g, %g at %n, %n, %n info %n policy %policy
    kinds [16, 16, 4, 2] slot_bytes 8192 head_dim 128 keys_per_token false
    : !llvm.ptr<3>, !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  // CHECK: pmkvq.ring_wait %[[N]] of %[[S]], %[[S]] slot_bytes 8192 : !llvm.ptr<3>, !llvm.ptr<3> -> !llvm.ptr<3>
  %slot = pmkvq.ring_wait %n of %s, %s slot_bytes 8192 : !llvm.ptr<3>, !llvm.ptr<3> -> !llvm.ptr<3>
  return
}

// CHECK-LABEL: func @merges
func.func @merges(%s: !llvm.ptr<3>, %g: !llvm.ptr<1>, %i: i32, %x: f32) {
  // CHECK: pmkvq.merge_warps pair %[[I:.*]] shares %[[I]] partial %[[I]](%{{.*}}) through %[[S:.*]] to %[[G:.*]], %[[G]] group 4 head_dim 128 slot_bytes 128 : !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  pmkvq.merge_warps pair %i shares %i partial %i (%x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x) through %s to %g, %g
    group 4 head_dim 128 slot_bytes 128 : !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  // CHECK: pmkvq.merge_shares pair %[[I]] shares %[[I]] partial %[[I]] from %[[G]] to %[[G]] group 5 head_dim 128 : !llvm.ptr<1>, !llvm.ptr<1>
  pmkvq.merge_shares pair %i shares %i partial %i from %g to %g group 5 head_dim 128
    : !llvm.ptr<1>, !llvm.ptr<1>
  return
}
