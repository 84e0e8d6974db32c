// Codes as left operands: products, softmax and merges of columns of queries.
// RUN: pmkvq-opt %s --pmkvq-dequantize-tiles --pmkvq-lower-tile-softmax --pmkvq-lower-tile-products --pmkvq-lower-merges --canonicalize --cse | FileCheck %s

// Four registers a word and half: an AND and a multiply-add each; steps of fields
// in the upper half of a byte follow from the others.  Nothing is stored.
// CHECK-LABEL: func @four_bits
// CHECK-COUNT-16: llvm.intr.fma({{.*}}) : (vector<2xf16>, vector<2xf16>, vector<2xf16>)
// CHECK-NOT: llvm.intr.fma
// CHECK-NOT: llvm.store
func.func @four_bits(%words: vector<16xi32>, %groups: vector<8xi32>) -> vector<16xi32> {
  %a = pmkvq.decode_operands key 4 format <per_channel> block 1 of %words
    groups(%groups : vector<8xi32>) : vector<16xi32> -> vector<16xi32>
  return %a : vector<16xi32>
}

// CHECK-LABEL: func @wide
// CHECK-COUNT-16: llvm.intr.fma({{.*}}) : (vector<2xf16>, vector<2xf16>, vector<2xf16>)
// CHECK-NOT: llvm.intr.fma
func.func @wide(%words: vector<16xi32>, %groups: vector<8xi32>) -> vector<16xi32> {
  %a = pmkvq.decode_operands key 4 format <per_channel> wide block 1 of %words
    groups(%groups : vector<8xi32>) : vector<16xi32> -> vector<16xi32>
  return %a : vector<16xi32>
}

// Raw elements are rounded to f16.
// CHECK-LABEL: func @raw
// CHECK-COUNT-16: llvm.call_intrinsic "llvm.nvvm.ff2f16x2.rn"
func.func @raw(%words: vector<16xi32>) -> vector<16xi32> {
  %a = pmkvq.decode_operands value 16 block 3 of %words : vector<16xi32> -> vector<16xi32>
  return %a : vector<16xi32>
}

// Codes alone: of 4 bits an AND each, 15 in both halves of rows g, 16 times that
// of the others.
// CHECK-LABEL: func @bare
// CHECK-DAG: %[[LOW:.*]] = arith.constant 983055 : i32
// CHECK-DAG: %[[HIGH:.*]] = arith.constant 15728880 : i32
// CHECK-NOT: fma
// CHECK: arith.andi %{{.*}}, %[[LOW]]
// CHECK: arith.andi %{{.*}}, %[[HIGH]]
// CHECK-NOT: fma
// CHECK: return
func.func @bare(%words: vector<16xi32>) -> vector<16xi32> {
  %a = pmkvq.decode_operands key 4 exponents [0, 4, 0, 4] block 1 of %words : vector<16xi32> -> vector<16xi32>
  return %a : vector<16xi32>
}

// Fields of 2 bits go where those of 4 bits would be, or stay where they are.
// CHECK-LABEL: func @bare_two_bits
// CHECK-DAG: %[[LOW:.*]] = arith.constant 196611 : i32
// CHECK-DAG: %[[HIGH:.*]] = arith.constant 3145776 : i32
// CHECK: arith.andi %{{.*}}, %[[LOW]]
// CHECK: %[[UP:.*]] = arith.shli %{{.*}}, %c2_i32
// CHECK: arith.andi %[[UP]], %[[HIGH]]
func.func @bare_two_bits(%words: vector<8xi32>) -> vector<16xi32> {
  %a = pmkvq.decode_operands key 2 exponents [0, 4, 0, 4] block 0 of %words : vector<8xi32> -> vector<16xi32>
  return %a : vector<16xi32>
}
// CHECK-LABEL: func @bare_two_bits_in_place
// CHECK-NOT: shli
// CHECK-NOT: arith.shrui %{{.*}}, %c{{[^8].*}}_i32
// CHECK-COUNT-16: arith.andi
// CHECK: return
func.func @bare_two_bits_in_place(%words: vector<8xi32>) -> vector<16xi32> {
  %a = pmkvq.decode_operands key 2 exponents [0, 2, 4, 6] block 0 of %words : vector<8xi32> -> vector<16xi32>
  return %a : vector<16xi32>
}

// Of 8 bits half are multiplied: 16 times a code is no denormal.
// CHECK-LABEL: func @bare_eight_bits
// CHECK-COUNT-8: llvm.fmul %{{.*}} : vector<2xf16>
// CHECK-NOT: fmul
// CHECK: return
func.func @bare_eight_bits(%words: vector<16xi32>) -> vector<16xi32> {
  %a = pmkvq.decode_operands value 8 exponents [0, 4, 0, 4] block 0 of %words : vector<16xi32> -> vector<16xi32>
  return %a : vector<16xi32>
}

// Parameters from shared memory, of one block whatever the warp.
// CHECK-LABEL: func @groups
// CHECK: llvm.load %{{.*}} {alignment = 16 : i64} : !llvm.ptr<3> -> vector<4xi32>
// CHECK-COUNT-4: nvvm.prmt
// CHECK: llvm.load %{{.*}} {alignment = 16 : i64} : !llvm.ptr<3> -> vector<4xi32>
// CHECK-COUNT-4: nvvm.prmt
func.func @groups(%parameters: !llvm.ptr<3>, %w: i32) -> vector<8xi32> {
  %words = pmkvq.load_groups key 8 block 2 of %w, %w from %parameters : !llvm.ptr<3> -> vector<8xi32>
  return %words : vector<8xi32>
}

// Two steps of two products; the first of a page overwrites.
// CHECK-LABEL: func @fresh
// CHECK: nvvm.wgmma.fence.aligned
// CHECK-COUNT-2: llvm.inline_asm has_side_effects {{.*}}setp.ne.b32 p, 0, 0; wgmma.mma_async.sync.aligned.m64n8k16
// CHECK-COUNT-2: llvm.inline_asm has_side_effects {{.*}}setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n8k16
// CHECK: nvvm.wgmma.commit.group.sync.aligned
func.func @fresh(%a: vector<16xi32>, %rows: !llvm.ptr<3>) -> vector<8xf32> {
  %r = pmkvq.multiply_operands %a, %rows block 0 : vector<16xi32>, !llvm.ptr<3> -> vector<8xf32>
  return %r : vector<8xf32>
}

// CHECK-LABEL: func @further
// Half a right operand of 16 rows further, and 64 bytes: 2,048 + 64 in 16 bytes.
// CHECK: arith.addi %{{.*}}, %c132_i32
// CHECK-COUNT-4: setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n16k16
func.func @further(%x: vector<16xf32>, %a: vector<16xi32>, %rows: !llvm.ptr<3>) -> vector<16xf32> {
  %r = pmkvq.multiply_operands %a, %rows block 3 to %x : vector<16xf32> : vector<16xi32>, !llvm.ptr<3> -> vector<16xf32>
  return %r : vector<16xf32>
}

// A query has tokens of rows g and g + 8 of both products: 0, 8, 16 and 24.
// CHECK-LABEL: func @mask
// CHECK: %[[LEFT:.*]] = arith.subi %{{.*}}, %{{.*}} : i32
// CHECK: arith.cmpi sgt, %[[LEFT]], %c0_i32
// CHECK: arith.cmpi sgt, %[[LEFT]], %c8_i32
// CHECK: arith.cmpi sgt, %[[LEFT]], %c16_i32
// CHECK: arith.cmpi sgt, %[[LEFT]], %c24_i32
func.func @mask(%x: vector<8xf32>, %t: i32, %n: vector<2xi32>) -> vector<8xf32> {
  %r = pmkvq.mask_columns %x from %t visible %n : vector<8xf32>, vector<2xi32>
  return %r : vector<8xf32>
}

// CHECK-LABEL: func @largest
// CHECK-COUNT-6: llvm.intr.maxnum
// CHECK-COUNT-6: nvvm.shfl.sync bfly
func.func @largest(%x: vector<8xf32>) -> vector<2xf32> {
  %r = pmkvq.largest_of_columns %x : vector<8xf32> -> vector<2xf32>
  return %r : vector<2xf32>
}

// CHECK-LABEL: func @weigh
// CHECK-DAG: %[[TWO:.*]] = arith.constant 1073741824 : i32
// CHECK-NOT: fmul
// CHECK-COUNT-8: "llvm.nvvm.ex2.approx.ftz.f32"
// CHECK-COUNT-4: "llvm.nvvm.ff2f16x2.rn"
// CHECK: arith.andi %{{.*}}, %[[TWO]]
func.func @weigh(%x: vector<8xf32>, %s: f32, %m: vector<2xf32>) -> (vector<4xi32>, vector<2xf32>, i1) {
  %w, %sums, %above = pmkvq.weigh_columns %x factors(%s, %s, %s, %s) maxima %m : vector<8xf32>, vector<2xf32> -> vector<4xi32>
  return %w, %sums, %above : vector<4xi32>, vector<2xf32>, i1
}

// Each token has a factor of its scores; a weight is multiplied by its token's
// factor, and by its offset for a sum.
// CHECK-LABEL: func @weigh_folding
// CHECK-SAME: %{{.*}}: vector<8xf32>, %[[S:.*]]: f32, %[[R:[^:]*]]: f32,
// CHECK: fma(%{{.*}}, %[[S]], %{{.*}})
// CHECK: "llvm.nvvm.ex2.approx.ftz.f32"
// CHECK-COUNT-2: arith.mulf
// CHECK: fma(%{{.*}}, %[[R]], %{{.*}})
// CHECK-COUNT-6: "llvm.nvvm.ex2.approx.ftz.f32"
func.func @weigh_folding(%x: vector<8xf32>, %s: f32, %r: f32, %m: vector<2xf32>, %f: vector<8xf32>) -> (vector<4xi32>, vector<2xf32>) {
  %w, %sums, %above, %offsets = pmkvq.weigh_columns %x factors(%s, %r, %s, %r) maxima %m folding %f : vector<8xf32> to vector<2xf32>
    : vector<8xf32>, vector<2xf32> -> vector<4xi32>
  return %w, %offsets : vector<4xi32>, vector<2xf32>
}

// Tokens become columns on the way.
// CHECK-LABEL: func @store
// CHECK-COUNT-2: nvvm.stmatrix {{.*}}layout = #nvvm.mma_layout<col>
func.func @store(%w: vector<8xi32>, %tile: !llvm.ptr<3>, %warp: i32, %lane: i32) {
  pmkvq.store_weights %w of %warp, %lane into %tile : vector<8xi32>, !llvm.ptr<3>
  return
}

// CHECK-LABEL: func @merge
// Outputs of both products, in units of the tile's elements.
// CHECK-COUNT-16: llvm.store %{{.*}} {alignment = 4 : i64} : f32, !llvm.ptr<3>
// Who copies does not wait here.
// CHECK: nvvm.barrier id = %c0_i32 number_of_threads = %c384_i32
// Of three warpgroups, their sums of four warps each.
// CHECK: "llvm.nvvm.ex2.approx.ftz.f32"
// CHECK-COUNT-4: llvm.intr.fma
// CHECK: st.relaxed.gpu.global.b128
func.func @merge(%shared: !llvm.ptr<3>, %out: !llvm.ptr<1>, %i: i32, %m: vector<4xf32>, %o: vector<16xf32>) {
  pmkvq.merge_warpgroups pair %i shares %i partial %i (%m, %m, %o) through %shared to %out, %out
    group 4 rows 4 more %i stride 32 warpgroups 3
    : vector<4xf32>, vector<16xf32>, !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  return
}

// Outputs of rows g and g + 8 in their units; offsets of the warps' tokens are
// added to each.
// CHECK-LABEL: func @merge_offsets
// CHECK-DAG: arith.constant 2.048000e+03 : f32
// CHECK-DAG: arith.constant 1.280000e+02 : f32
// CHECK-COUNT-16: llvm.store %{{.*}} {alignment = 4 : i64} : f32, !llvm.ptr<3>
// CHECK: nvvm.barrier id = %c0_i32 number_of_threads = %c384_i32
// CHECK: llvm.load %{{.*}} {alignment = 16 : i64} : !llvm.ptr<3> -> vector<4xi32>
// CHECK: st.relaxed.gpu.global.b128
func.func @merge_offsets(%shared: !llvm.ptr<3>, %out: !llvm.ptr<1>, %i: i32, %m: vector<4xf32>, %o: vector<16xf32>) {
  pmkvq.merge_warpgroups pair %i shares %i partial %i (%m, %m, %o) plus %m : vector<4xf32> exponents [13, 17, 13, 17] through %shared to %out, %out
    group 4 rows 4 more %i stride 32 warpgroups 3
    : vector<4xf32>, vector<16xf32>, !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  return
}
