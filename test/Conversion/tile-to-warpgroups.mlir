// What each warpgroup of a prefill kernel does.
// RUN: pmkvq-opt %s --pass-pipeline="builtin.module(pmkvq-split-rows,convert-pmkvq-tile-to-warpgroups{keys=16,4 values=4})" | FileCheck %s
// RUN: pmkvq-opt %s --pass-pipeline="builtin.module(pmkvq-split-rows,convert-pmkvq-tile-to-warpgroups{wide-ranges keys=16,4 values=4})" | FileCheck %s --check-prefix=WIDE

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 128, key = <per_channel>, value = <per_token>, ladder = [16, 8, 4]>
// CHECK: gpu.module @prefill_kernels
// CHECK: llvm.mlir.global external @prefill_tiles() {addr_space = 3 : i32, alignment = 1024 : i64}
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
// Two stages of four barriers.
// CHECK-COUNT-8: nvvm.mbarrier.init
// CHECK: nvvm.barrier0
// The first two give registers back, and write tiles: keys, at two levels.
// CHECK: nvvm.setmaxregister decrease 64
// CHECK: scf.for
// CHECK: scf.if
// CHECK: pmkvq.load_fragments key 16
// CHECK: nvvm.mbarrier.try_wait.parity
// CHECK: pmkvq.dequantize_fragments key 16 vectors
// CHECK: } else {
// Loads are under way while the warp waits.
// CHECK: pmkvq.load_fragments key 4
// CHECK: pmkvq.load_groups key 4
// CHECK: nvvm.mbarrier.try_wait.parity
// CHECK: pmkvq.dequantize_fragments key 4 format <per_channel>
// CHECK: nvvm.fence.proxy
// CHECK: nvvm.mbarrier.arrive
// Values, at one.
// CHECK: scf.for
// CHECK-NOT: load_fragments value 16
// CHECK: pmkvq.dequantize_fragments value 4 format <per_token>
// The others take registers, stage queries, and multiply.
// CHECK: nvvm.setmaxregister increase 192
// CHECK: pmkvq.score_product
// CHECK: pmkvq.await_products %{{.*}} pending 0
// CHECK: pmkvq.mask_scores
// CHECK: pmkvq.tile_softmax first
// CHECK: pmkvq.pack_weights
// The next scores are on their way before these outputs are.
// CHECK: scf.for
// CHECK: pmkvq.score_product
// CHECK: pmkvq.value_product
// CHECK: pmkvq.await_products %{{.*}} pending 1
// CHECK: pmkvq.tile_softmax
// CHECK: pmkvq.await_products %{{.*}} pending 0
// CHECK: pmkvq.pack_weights
// CHECK: pmkvq.value_product
// Raw parts have no ranges.
// WIDE: pmkvq.dequantize_fragments key 16 vectors
// WIDE: pmkvq.dequantize_fragments key 4 format <per_channel> wide vectors
// WIDE: pmkvq.dequantize_fragments value 4 format <per_token> wide vectors
