// Codes become elements of a swizzled f16 tile.
// RUN: pmkvq-opt %s --pmkvq-dequantize-tiles --canonicalize --cse | FileCheck %s

// A vector of keys at 4 bits is 32 columns twice, rows g and g + 8: for a pair
// one AND and one multiply-add, and bytes 1 and 3 are shifted down.  The range's
// factor is 3840 / 15 = 256, in f16 0x5c00 twice.
// CHECK-LABEL: func @four_bits
// CHECK-DAG: %[[LOW:.*]] = arith.constant 983055 : i32
// CHECK-DAG: %[[HIGH:.*]] = arith.constant 15728880 : i32
// CHECK-DAG: %[[BY:.*]] = arith.constant 1543527424 : i32
// CHECK: %[[F:.*]] = arith.andi %{{.*}}, %[[LOW]]
// CHECK: llvm.intr.fma
// CHECK: arith.shrui
// CHECK: llvm.store %{{.*}} {alignment = 16 : i64} : vector<4xi32>, !llvm.ptr<3>
// CHECK: arith.andi %{{.*}}, %[[HIGH]]
// Two rows of each of two operands.
// CHECK-COUNT-3: llvm.store
// CHECK-NOT: llvm.store
func.func @four_bits(%tile: !llvm.ptr<3>, %words: vector<4xi32>, %groups: vector<16xi32>, %warp: i32, %lane: i32) {
  pmkvq.dequantize_fragments key 4 format <per_channel> vectors 0, 1 of %warp, %lane
    %words groups(%groups : vector<16xi32>) into %tile : vector<4xi32>, !llvm.ptr<3>
  return
}

// Of wide ranges fields are multiplied by 2^11 first, 0x6800 twice, and the
// factor is 256 / 2^11 = 1 / 8, 0x3000 twice.
// CHECK-LABEL: func @wide
// CHECK-DAG: %[[LOW:.*]] = arith.constant 983055 : i32
// CHECK-DAG: %[[BY:.*]] = arith.constant 805318656 : i32
// CHECK-DAG: %[[UP:.*]] = arith.constant 1744857088 : i32
// CHECK: %[[F:.*]] = arith.andi %{{.*}}, %[[LOW]]
// CHECK: llvm.fmul
// CHECK: llvm.intr.fma
func.func @wide(%tile: !llvm.ptr<3>, %words: vector<4xi32>, %groups: vector<16xi32>, %warp: i32, %lane: i32) {
  pmkvq.dequantize_fragments key 4 format <per_channel> wide vectors 0, 1 of %warp, %lane
    %words groups(%groups : vector<16xi32>) into %tile : vector<4xi32>, !llvm.ptr<3>
  return
}

// At 2 bits the offset has a part of the range, and four row blocks' fields
// need two steps only: those of odd blocks are shifted to where even ones are.
// CHECK-LABEL: func @two_bits
// CHECK-DAG: %[[BIT0:.*]] = arith.constant 196611 : i32
// CHECK-DAG: %[[BIT2:.*]] = arith.constant 786444 : i32
// CHECK-NOT: arith.constant 3145776 : i32
// CHECK-COUNT-8: llvm.store
// CHECK-NOT: llvm.store
func.func @two_bits(%tile: !llvm.ptr<3>, %words: vector<4xi32>, %groups: vector<8xi32>, %warp: i32, %lane: i32) {
  pmkvq.dequantize_fragments value 2 format <per_token> vectors 0, 1 of %warp, %lane
    %words groups(%groups : vector<8xi32>) into %tile : vector<4xi32>, !llvm.ptr<3>
  return
}

// Raw elements are bf16, scaled by the unit and rounded to f16; a chunk takes
// both vectors of 32 columns.
// CHECK-LABEL: func @raw
// CHECK: arith.mulf
// CHECK: llvm.call_intrinsic "llvm.nvvm.ff2f16x2.rn"
// CHECK-COUNT-2: llvm.store
// CHECK-NOT: llvm.store
func.func @raw(%tile: !llvm.ptr<3>, %words: vector<8xi32>, %warp: i32, %lane: i32) {
  pmkvq.dequantize_fragments value 16 vectors 0, 2 of %warp, %lane %words into %tile : vector<8xi32>, !llvm.ptr<3>
  return
}

// A warp's vectors of 4 bits all lie in one block.
// CHECK-LABEL: func @load
// CHECK: arith.extui
// CHECK-COUNT-4: llvm.load %{{.*}} invariant {alignment = 16 : i64} : !llvm.ptr<1> -> vector<4xi32>
// CHECK-NOT: arith.extui
func.func @load(%codes: !llvm.ptr<1>, %block: i32, %warp: i32, %lane: i32) -> vector<16xi32> {
  %words = pmkvq.load_fragments key 4 vectors 0, 4 of %warp, %lane from %codes at %block
    : !llvm.ptr<1> -> vector<16xi32>
  return %words : vector<16xi32>
}

// Parameters of tokens 2 t and 2 t + 1 meet in a word.
// CHECK-LABEL: func @groups
// CHECK-COUNT-2: llvm.load %{{.*}} invariant
// CHECK-COUNT-8: nvvm.prmt
func.func @groups(%parameters: !llvm.ptr<1>, %warp: i32, %lane: i32) -> vector<8xi32> {
  %words = pmkvq.load_groups value 8 of %warp, %lane from %parameters : !llvm.ptr<1> -> vector<8xi32>
  return %words : vector<8xi32>
}
