// What the warpgroups of a kernel over segments of pages do: three attend, one
// copies.
// RUN: pmkvq-opt %s --pass-pipeline="builtin.module(pmkvq-split-rows{rows=4},convert-pmkvq-tile-to-warpgroups{keys=16,4 values=4})" | FileCheck %s
// RUN: pmkvq-opt %s --pass-pipeline="builtin.module(pmkvq-split-rows{rows=4},convert-pmkvq-tile-to-warpgroups{wide-ranges keys=16,4 values=4})" | FileCheck %s --check-prefix=WIDE
// RUN: pmkvq-opt %s --pass-pipeline="builtin.module(pmkvq-split-rows{rows=16},convert-pmkvq-tile-to-warpgroups{keys=16,4 values=4})" | FileCheck %s --check-prefix=MANY

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 128, key = <per_channel>, value = <per_token>, ladder = [16, 8, 4]>
// CHECK: llvm.func @attend({{.*}}) attributes {nvvm.kernel, nvvm.minctasm = 1 : i32, nvvm.reqntid = array<i32: 512>}
pmkvq.kernel @attend(%c: !kv, %batch: !pmkvq.batch, %in: memref<?x8x128xf32>, %task: index) -> i1 {
  %seq, %head, %row, %rows, %begin, %end, %fixed, %partial = pmkvq.attend_task %batch[%task]
  %loaded = pmkvq.load_rows %in[%row, %head] count %rows group 4 : memref<?x8x128xf32> -> !pmkvq.rows<4, 128>
  %by = arith.constant dense<0.125> : vector<128xf32>
  %q = pmkvq.scale %loaded, %by : !pmkvq.rows<4, 128>, vector<128xf32>
  %page = pmkvq.fetch %c[%seq, %head, %begin] : !pmkvq.page<!kv>
  %ok = arith.constant true
  pmkvq.return %ok
}
// Two barriers for each of four slots of three warpgroups.
// CHECK-COUNT-24: nvvm.mbarrier.init
// CHECK: nvvm.barrier0
// CHECK: nvvm.setmaxregister increase 160
// Queries of a segment's rows, all loads first.
// CHECK: scf.for
// CHECK: llvm.nvvm.ff2f16x2.rn
// CHECK: nvvm.barrier id = %{{.*}} number_of_threads
// Its pages, in turns.
// CHECK: scf.for
// Raw keys come a block of columns at a time; of codes all words are there.
// Weights have one tile, so that nobody may be behind.
// CHECK: nvvm.mbarrier.try_wait.parity
// CHECK: nvvm.barrier id
// CHECK: pmkvq.decode_operands key 16 exponents [0, 0, 0, 0] block 0
// CHECK: pmkvq.multiply_operands {{.*}} block 0 :
// CHECK: nvvm.mbarrier.arrive
// CHECK: nvvm.mbarrier.try_wait.parity
// CHECK: pmkvq.decode_operands key 16 exponents [0, 0, 0, 0] block 1
// CHECK: pmkvq.multiply_operands {{.*}} block 1 to
// CHECK: pmkvq.await_products {{.*}} pending 0
// Of few queries steps of keys are folded into them, and offsets are products
// of their own.
// CHECK: } else {
// CHECK: pmkvq.load_groups key 4 block 0
// CHECK-COUNT-2: nvvm.ldmatrix
// CHECK-COUNT-2: nvvm.mma.sync
// CHECK: nvvm.fence.proxy
// CHECK: nvvm.barrier id
// CHECK: pmkvq.decode_operands key 4 exponents [0, 4, 0, 4] block 0
// CHECK: pmkvq.decode_operands key 4 exponents [0, 4, 0, 4] block 3
// CHECK: nvvm.mbarrier.arrive
// CHECK: pmkvq.await_products {{.*}} pending 0
// CHECK: pmkvq.mask_columns
// Those of values go into weights.
// CHECK: nvvm.mbarrier.try_wait.parity
// CHECK: pmkvq.weigh_columns {{.*}} folding
// CHECK: pmkvq.store_weights
// CHECK: nvvm.fence.proxy
// CHECK: llvm.nvvm.barrier.cta.red.or.aligned.count
// Maxima that rise do so in all warps.
// CHECK: pmkvq.largest_of_columns
// CHECK: pmkvq.weigh_columns {{.*}} folding
// CHECK: pmkvq.store_weights
// CHECK: nvvm.barrier id
// CHECK-NOT: decode_operands value 16
// CHECK: pmkvq.decode_operands value 4 exponents [0, 4, 0, 4] block 0
// CHECK: pmkvq.multiply_operands {{.*}} block 0 to
// CHECK: pmkvq.await_products {{.*}} pending 0
// CHECK: pmkvq.merge_warpgroups {{.*}} plus {{.*}} exponents [13, 17, 13, 17] {{.*}} group 4 rows 4 more {{.*}} stride 8 warpgroups 3
// CHECK: pmkvq.merge_shares {{.*}} threads 384
// The last warpgroup copies: of raw keys four pieces of eight runs, without
// parameters.
// CHECK: nvvm.setmaxregister decrease 32
// CHECK: scf.for
// CHECK: scf.for
// CHECK-COUNT-4: nvvm.mbarrier.arrive.expect_tx
// CHECK: } else {
// CHECK: nvvm.mbarrier.try_wait.parity
// CHECK: nvvm.mbarrier.arrive.expect_tx
// CHECK-COUNT-2: nvvm.cp.async.bulk.shared.cluster.global
// Raw parts have no ranges.
// WIDE: pmkvq.decode_operands key 16 block
// WIDE: pmkvq.decode_operands key 4 format <per_channel> wide block
// WIDE: pmkvq.decode_operands value 4 format <per_token> wide block
// Of many queries they are not folded: a token's step would be an operation for
// each of them.
// MANY-NOT: exponents
// MANY: pmkvq.decode_operands key 4 format <per_channel> block
// MANY-NOT: folding
// MANY: pmkvq.decode_operands value 4 format <per_token> block
// MANY: warpgroups 2
