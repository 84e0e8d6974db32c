// Kernels over units become loops of a warp over its share of a work list.
// RUN: pmkvq-opt %s --convert-pmkvq-tile-to-lanes | FileCheck %s
// RUN: pmkvq-opt %s --convert-pmkvq-tile-to-lanes | FileCheck %s --check-prefix=QUERIES-FIRST
// RUN: pmkvq-opt %s --pass-pipeline="builtin.module(convert-pmkvq-tile-to-lanes{dependent-launch=true})" | FileCheck %s --check-prefix=DEPENDENT

!state = !pmkvq.softmax<3, 128>
!q = !pmkvq.rows<3, 128>
!k = !pmkvq.tile<key, 16, 16, 128>
!v = !pmkvq.tile<value, 16, 16, 128>

pmkvq.kernel @decode(%work: !pmkvq.work, %in: memref<?x6x128xf32>,
                     %out: memref<?x6x128xf32>, %block: index) -> i1 {
  %scale = arith.constant dense<0.125> : vector<128xf32>
  pmkvq.for_segment %work[%block] kv_heads 2 {
  ^bb0(%segment: !pmkvq.segment, %row: index, %count: index, %head: index):
    %rows = pmkvq.load_rows %in[%row, %head] count %count group 3 : memref<?x6x128xf32> -> !q
    %q = pmkvq.scale %rows, %scale : !q, vector<128xf32>
    %init = pmkvq.softmax_init : !state
    %r = pmkvq.for_unit %segment from %init kinds [16, 16] : !state {
    ^bb0(%s: !state, %tokens: index, %k: !k, %v: !v):
      pmkvq.yield %s : !state
    }
    pmkvq.store_merged %r of %segment, %out[%row, %head] count %count group 3 : !state, memref<?x6x128xf32>
  }
  %ok = arith.constant true
  pmkvq.return %ok
}

// A function of one struct by value, on 8 warps; shared memory is the launch's.
// CHECK-NOT: pmkvq.kernel
// CHECK: gpu.module @kernels
// CHECK: llvm.mlir.global external @shared_memory() {addr_space = 3 : i32, alignment = 128 : i64} : !llvm.array<0 x i8>
// CHECK: llvm.func @decode(%[[ARGS:.*]]: !llvm.ptr {llvm.align = 8 : i64, llvm.byval = !llvm.array<7 x i64>})
// CHECK-SAME: nvvm.kernel
// CHECK-SAME: nvvm.reqntid = array<i32: 256>

// One load hop to header, the first two tasks and the first segment.
// CHECK: %[[THREAD:.*]] = nvvm.read.ptx.sreg.tid.x
// CHECK: %[[WARP:.*]] = arith.shrui %[[THREAD]], %c5
// CHECK: %[[LANE:.*]] = arith.andi %[[THREAD]], %c31
// CHECK-COUNT-4: llvm.load %{{.*}} {alignment = 16 : i64} : !llvm.ptr<1> -> vector<4xi32>

// One lane of each warp makes the barriers of its two slots.
// CHECK: %[[LEADER:.*]] = arith.cmpi eq, %[[LANE]]
// CHECK: scf.if %[[LEADER]] {
// CHECK-COUNT-2: nvvm.mbarrier.init
// CHECK-NOT: nvvm.mbarrier.init
// CHECK: nvvm.fence.mbarrier.init

// Segments, then the warp's units of each.
// CHECK: scf.for {{.*}} iter_args
// CHECK: nvvm.barrier0
// The next segment's queries are loaded before the work on this one.
// CHECK: scf.if %{{.*}} -> (f32, f32, f32, f32)
// CHECK: scf.for %[[N:.*]] = {{.*}} iter_args
// The next copy is issued after the current one has arrived.
// CHECK: pmkvq.ring_wait %[[N]] of %[[RING:.*]], %[[BARRIERS:.*]] slots 2 slot_bytes 8192
// CHECK: %[[NEXT:.*]] = arith.addi %[[N]], %c1
// CHECK: pmkvq.ring_issue %[[NEXT]] into %[[RING]], %[[BARRIERS]]
// CHECK-SAME: kinds [16, 16] slots 2 slot_bytes 8192 head_dim 128 keys_per_token false
// The task after the next: 2 * 8 tasks on.
// CHECK: arith.addi %[[N]], %c2
// CHECK: llvm.load %{{.*}} !llvm.ptr<1> -> vector<4xi32>
// A slot is free once all lanes have worked on it.
// CHECK: nvvm.bar.warp.sync
// CHECK-NEXT: scf.yield
// CHECK: pmkvq.merge_warps {{.*}} group 3 head_dim 128 ring_bytes 16384

// The last share merges after all segments, so that none waits for another.
// CHECK: scf.for
// CHECK: %[[SHARED:.*]] = arith.cmpi ugt
// CHECK: %[[LAST:.*]] = arith.cmpi eq
// CHECK: %[[MERGES:.*]] = arith.andi %[[SHARED]], %[[LAST]]
// CHECK: scf.if %[[MERGES]]
// CHECK: pmkvq.merge_shares {{.*}} group 3 head_dim 128
// CHECK: llvm.return

// Queries are loaded before the first copy, or they wait behind the flood.
// QUERIES-FIRST-NOT: nvvm.griddepcontrol
// QUERIES-FIRST-NOT: pmkvq.ring_issue
// QUERIES-FIRST: scf.if %{{.*}} -> (f32, f32, f32, f32)
// QUERIES-FIRST: pmkvq.ring_issue

// With dependent launch after it: the cache is there, queries are not yet.
// DEPENDENT: nvvm.fence.mbarrier.init
// DEPENDENT: nvvm.griddepcontrol launch_dependents
// DEPENDENT-NOT: -> (f32, f32, f32, f32)
// DEPENDENT: pmkvq.ring_issue
// DEPENDENT: nvvm.griddepcontrol wait
// What the launch before may write is copied after it.
// DEPENDENT: pmkvq.ring_issue
// DEPENDENT: scf.if %{{.*}} -> (f32, f32, f32, f32)
// DEPENDENT: scf.for
// DEPENDENT-NOT: nvvm.griddepcontrol
