// Attention over pages, one row a task, becomes attention over units.
// RUN: pmkvq-opt %s -split-input-file --pmkvq-split-units | FileCheck %s
// RUN: pmkvq-opt %s -split-input-file --pass-pipeline="builtin.module(pmkvq-split-units{kinds=16,16,4,2,16,2})" | FileCheck %s --check-prefix=KINDS
// RUN: pmkvq-opt %s -split-input-file --pass-pipeline="builtin.module(pmkvq-split-units{rows=4})" | FileCheck %s --check-prefix=MANY
// RUN: pmkvq-opt %s -split-input-file --pass-pipeline="builtin.module(pmkvq-split-units{kinds=16,16,8,8,4,2,16,4 lowers=true})" | FileCheck %s --check-prefix=LOWERS

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 128, key = <per_channel>, value = <per_token>, ladder = [16, 8, 4, 2]>
// CHECK-LABEL: kernel @attend
// CHECK-SAME: (%{{.*}}: !pmkvq.work, %[[Q:.*]]: memref<?x8x128xf32>, %[[OUT:.*]]: memref<?x8x128xf32>, %[[BLOCK:.*]]: index) -> i1
// CHECK-NOT: pmkvq.attend_task
pmkvq.kernel @attend(%c: !kv, %batch: !pmkvq.batch, %in: memref<?x8x128xf32>, %task: index) -> i1 {
  %seq, %head, %row, %rows, %begin, %end, %fixed, %partial = pmkvq.attend_task %batch[%task]
  %single = pmkvq.single_rows %batch
  scf.if %single {
    %loaded = pmkvq.load_rows %in[%row, %head] count %rows group 4 : memref<?x8x128xf32> -> !pmkvq.rows<4, 128>
    %by = arith.constant dense<0.125> : vector<128xf32>
    %q = pmkvq.scale %loaded, %by : !pmkvq.rows<4, 128>, vector<128xf32>
    %page = pmkvq.fetch %c[%seq, %head, %begin] : !pmkvq.page<!kv>
  }
  %ok = arith.constant true
  pmkvq.return %ok
}
// A thread block takes segments; queries are loaded once a segment.
// CHECK: pmkvq.for_segment %{{.*}}[%[[BLOCK]]] kv_heads 2 {
// CHECK: ^bb0(%[[SEGMENT:.*]]: !pmkvq.segment, %[[ROW:.*]]: index, %[[COUNT:.*]]: index, %[[HEAD:.*]]: index):
// CHECK: %[[ROWS:.*]] = pmkvq.load_rows %[[Q]][%[[ROW]], %[[HEAD]]] count %[[COUNT]] group 4
// CHECK: %[[SCALED:.*]] = pmkvq.scale %[[ROWS]],
// CHECK: %[[INIT:.*]] = pmkvq.softmax_init
// Without the option there is a kind a level, both sides alike.
// CHECK: %[[R:.*]] = pmkvq.for_unit %[[SEGMENT]] from %[[INIT]] kinds [16, 16, 8, 8, 4, 4, 2, 2]
// Raw units are masked: a fixed area ends within a unit.
// CHECK: ^bb0(%[[S:.*]]: {{.*}}, %[[TOKENS:.*]]: index, %[[K:.*]]: !pmkvq.tile<key, 16, 16, 128>, %[[V:.*]]: !pmkvq.tile<value, 16, 16, 128>):
// CHECK-NEXT: %[[X:.*]] = pmkvq.scores %[[SCALED]], %[[K]]
// CHECK-NEXT: %[[M:.*]] = pmkvq.causal_mask %[[X]] visible %[[TOKENS]] group 4
// CHECK-NEXT: %[[N:.*]], %[[W:.*]] = pmkvq.softmax_update %[[S]], %[[M]]
// CHECK-NEXT: %[[A:.*]] = pmkvq.accumulate %[[N]], %[[W]], %[[V]]
// CHECK-NEXT: pmkvq.yield %[[A]]
// Others are whole.  Fewer bits, more tokens.
// CHECK: !pmkvq.tile<key, 8, 32, 128, <per_channel>>, %{{.*}}: !pmkvq.tile<value, 8, 32, 128, <per_token>>):
// CHECK-NOT: causal_mask
// CHECK: !pmkvq.tile<key, 4, 64, 128, <per_channel>>
// CHECK: !pmkvq.tile<key, 2, 128, 128, <per_channel>>
// What was a kernel of its own, the merge, comes last.
// CHECK: pmkvq.store_merged %[[R]] of %[[SEGMENT]], %[[OUT]][%[[ROW]], %[[HEAD]]] count %[[COUNT]] group 4

// Mixed units have the tokens of the side that fills its block first.
// KINDS: kinds [16, 16, 4, 2, 16, 2]
// KINDS: !pmkvq.tile<key, 4, 64, 128, <per_channel>>, %{{.*}}: !pmkvq.tile<value, 2, 64, 128, <per_token>>):
// KINDS-NOT: pmkvq.tile<key, 8
// Pages are whole, also with keys at level 16: no mask.
// KINDS: !pmkvq.tile<key, 16, 16, 128>, %{{.*}}: !pmkvq.tile<value, 2, 16, 128, <per_token>>):
// KINDS-NOT: causal_mask

// Tokens that are decoded at once: rows of queries, each sees one token more.
// MANY: %[[ROWS:.*]] = pmkvq.load_rows %{{.*}} count %[[COUNT:.*]] group 4 : memref<?x8x128xf32> -> <16, 128>
// MANY: pmkvq.causal_mask %{{.*}} visible %{{.*}} group 4 : <16, 16>
// MANY: pmkvq.store_merged %{{.*}} count %[[COUNT]] group 4 : <16, 128>, memref<?x8x128xf32>

// Sides that can fall are stored at half their level once they have been read.
// LOWERS: kinds [16, 16, 8, 8, 4, 2, 16, 4]
// LOWERS-NOT: store_lowered
// LOWERS: ^bb0(%{{.*}}, %[[K:.*]]: !pmkvq.tile<key, 8, 32, 128, <per_channel>>, %[[V:.*]]: !pmkvq.tile<value, 8, 32, 128, <per_token>>):
// LOWERS: %[[A:.*]] = pmkvq.accumulate
// LOWERS-NEXT: %[[K4:.*]] = pmkvq.shift %[[K]] : <key, 8, 32, 128, <per_channel>> -> <key, 4, 32, 128, <per_channel>>
// LOWERS-NEXT: pmkvq.store_lowered %[[K4]]
// LOWERS-NEXT: %[[V4:.*]] = pmkvq.shift %[[V]]
// LOWERS-NEXT: pmkvq.store_lowered %[[V4]]
// LOWERS-NEXT: pmkvq.yield %[[A]]
// Values at 2 bits stay.
// LOWERS: pmkvq.store_lowered %{{.*}} : <key, 2, 64, 128, <per_channel>>
// LOWERS-NEXT: pmkvq.yield
// Half a grain beside keys at level 16 stays too.
// LOWERS-NOT: store_lowered

// -----

// Other kernels stay as they are.
// CHECK-LABEL: kernel @other
// CHECK-NOT: for_segment
pmkvq.kernel @other(%batch: !pmkvq.batch, %task: index) -> i1 {
  %ok = arith.constant true
  pmkvq.return %ok
}

// -----

// Keys are rotated: so are queries, once a segment.
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 128, key = <per_channel, hadamard>, value = <per_token>>
// CHECK-LABEL: kernel @rotates
// KINDS-LABEL: kernel @rotates
// LOWERS-LABEL: kernel @rotates
pmkvq.kernel @rotates(%c: !kv, %batch: !pmkvq.batch, %in: memref<?x8x128xf32>, %task: index) -> i1 {
  %seq, %head, %row, %rows, %begin, %end, %fixed, %partial = pmkvq.attend_task %batch[%task]
  %single = pmkvq.single_rows %batch
  scf.if %single {
    %loaded = pmkvq.load_rows %in[%row, %head] count %rows group 4 : memref<?x8x128xf32> -> !pmkvq.rows<4, 128>
    %rotated = pmkvq.hadamard %loaded : !pmkvq.rows<4, 128>
    %by = arith.constant dense<0.125> : vector<128xf32>
    %q = pmkvq.scale %rotated, %by : !pmkvq.rows<4, 128>, vector<128xf32>
    %page = pmkvq.fetch %c[%seq, %head, %begin] : !pmkvq.page<!kv>
  }
  %ok = arith.constant true
  pmkvq.return %ok
}
// CHECK: pmkvq.for_segment
// CHECK: %[[ROWS:.*]] = pmkvq.load_rows
// CHECK: %[[ROTATED:.*]] = pmkvq.hadamard %[[ROWS]]
// CHECK: pmkvq.scale %[[ROTATED]],
