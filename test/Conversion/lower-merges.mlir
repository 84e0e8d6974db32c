// States of warps and thread blocks become one.
// RUN: pmkvq-opt %s --pmkvq-lower-merges --canonicalize --cse | FileCheck %s

// CHECK-LABEL: func @warps
// CHECK-SAME: (%[[SHARED:.*]]: !llvm.ptr<3>, %[[OUT:[^:]*]]: !llvm.ptr<1>, %[[PARTIALS:[^:]*]]: !llvm.ptr<1>, %[[PAIR:[^:]*]]: i32, %[[SHARES:[^:]*]]: i32, %[[PARTIAL:[^:]*]]: i32, %[[MAX:[^:]*]]: f32, %[[SUM:[^:]*]]: f32, %[[OFFSET:[^:]*]]: f32, %[[O:[^:]*]]: f32)
func.func @warps(%shared: !llvm.ptr<3>, %out: !llvm.ptr<1>, %partials: !llvm.ptr<1>,
                 %pair: i32, %shares: i32, %partial: i32, %max: f32, %sum: f32,
                 %offset: f32, %o: f32) {
  // Sum and offset are the lanes' own; the maximum is a query's.
  // CHECK: nvvm.shfl.sync bfly %{{.*}}, %[[SUM]], %c4_i32
  // CHECK: nvvm.shfl.sync bfly %{{.*}}, %{{.*}}, %c16_i32
  // CHECK: nvvm.shfl.sync bfly %{{.*}}, %[[OFFSET]], %c4_i32
  // What all outputs lack is added when they are stored.
  // CHECK: %[[ALL:.*]] = arith.addf %[[O]], %{{.*}}
  // CHECK-COUNT-16: llvm.store %[[ALL]], %{{.*}} : f32, !llvm.ptr<3>
  // CHECK: llvm.store %[[MAX]], %{{.*}} : f32, !llvm.ptr<3>
  // CHECK: nvvm.barrier0
  // Threads of the fourth column have no query in a group of 3.
  // CHECK: %[[EXISTS:.*]] = arith.cmpi ult, %{{.*}}, %c3_i32
  // CHECK: scf.if %[[EXISTS]] {
  // The largest maximum, then the warps in their order.
  // CHECK-COUNT-7: llvm.intr.maxnum
  // CHECK-COUNT-8: llvm.call_intrinsic "llvm.nvvm.ex2.approx.ftz.f32"
  // CHECK: %[[ALONE:.*]] = arith.cmpi eq, %[[SHARES]], %c1_i32
  // CHECK: scf.if %[[ALONE]] {
  // CHECK: %[[INVERSE:.*]] = llvm.call_intrinsic "llvm.nvvm.rcp.approx.ftz.f"
  // CHECK: arith.mulf %{{.*}}, %[[INVERSE]]
  // CHECK: %[[TO:.*]] = llvm.getelementptr %[[OUT]]
  // CHECK: llvm.store %{{.*}}, %[[TO]] {alignment = 8 : i64} : vector<2xf32>
  // Others leave divided outputs, the log of their weight and a tag, at once:
  // 4 columns of 128 dims, 8 bytes each.
  // CHECK: } else {
  // CHECK: %[[BYTES:.*]] = arith.muli %[[PARTIAL]], %c4096_i32
  // CHECK: llvm.getelementptr %[[PARTIALS]][%[[BYTES]]]
  // CHECK: llvm.call_intrinsic "llvm.nvvm.rcp.approx.ftz.f"
  // CHECK: llvm.call_intrinsic "llvm.nvvm.lg2.approx.ftz.f"
  // CHECK: llvm.inline_asm has_side_effects {{.*}}st.relaxed.gpu.global.b128
  // CHECK: return
  pmkvq.merge_warps pair %pair shares %shares partial %partial
    (%max, %sum, %offset, %o, %o, %o, %o, %o, %o, %o, %o, %o, %o, %o, %o, %o, %o, %o, %o)
    through %shared to %out, %partials group 3 head_dim 128 ring_bytes 18432
    : !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  return
}

// Of up to 8 queries a lane has 2 t and 2 t + 1: their records are neighbours.
// CHECK-LABEL: func @two_queries_a_lane
// CHECK-SAME: (%[[SHARED:.*]]: !llvm.ptr<3>, %{{.*}}: !llvm.ptr<1>, %{{.*}}: !llvm.ptr<1>, %[[I:[^:]*]]: i32, %[[M0:[^:]*]]: f32, %[[S0:[^:]*]]: f32, %[[O0:[^:]*]]: f32, %[[M1:[^:]*]]: f32, %[[S1:[^:]*]]: f32, %[[O1:[^:]*]]: f32)
func.func @two_queries_a_lane(%shared: !llvm.ptr<3>, %out: !llvm.ptr<1>, %partials: !llvm.ptr<1>,
                              %i: i32, %m0: f32, %s0: f32, %o0: f32, %m1: f32, %s1: f32, %o1: f32) {
  // CHECK-DAG: %[[WARP:.*]] = arith.shrui %[[THREAD:.*]], %c5_i32
  // CHECK-DAG: %[[LANE:.*]] = arith.andi %[[THREAD]], %c31_i32
  // CHECK-DAG: %[[T:.*]] = arith.andi %[[LANE]], %c3_i32
  // CHECK: nvvm.shfl.sync bfly %{{.*}}, %[[S0]], %c4_i32
  // CHECK-DAG: %[[EVEN:.*]] = arith.muli %[[T]], %c2_i32
  // CHECK-DAG: %[[FIRST:.*]] = arith.muli %[[WARP]], %c8_i32
  // CHECK-DAG: %[[RECORD:.*]] = arith.addi %[[FIRST]], %[[EVEN]]
  // 128 dims and 4 of padding.
  // CHECK: arith.muli %[[RECORD]], %c132_i32
  // CHECK: %[[ALL0:.*]] = arith.addf %[[O0]], %{{.*}}
  // CHECK-COUNT-16: llvm.store %[[ALL0]], %{{.*}} : f32, !llvm.ptr<3>
  // CHECK: llvm.store %[[M0]], %{{.*}} : f32, !llvm.ptr<3>
  // CHECK: nvvm.shfl.sync bfly %{{.*}}, %[[S1]], %c4_i32
  // CHECK: %[[ODD:.*]] = arith.addi %[[EVEN]], %c1_i32
  // CHECK: %[[NEXT:.*]] = arith.addi %[[FIRST]], %[[ODD]]
  // CHECK: arith.muli %[[NEXT]], %c132_i32
  // CHECK: %[[ALL1:.*]] = arith.addf %[[O1]], %{{.*}}
  // CHECK-COUNT-16: llvm.store %[[ALL1]], %{{.*}} : f32, !llvm.ptr<3>
  // CHECK: llvm.store %[[M1]], %{{.*}} : f32, !llvm.ptr<3>
  // CHECK: nvvm.barrier0
  pmkvq.merge_warps pair %i shares %i partial %i
    (%m0, %s0, %o0, %o0, %o0, %o0, %o0, %o0, %o0, %o0, %o0, %o0, %o0, %o0, %o0, %o0, %o0, %o0, %o0,
     %m1, %s1, %o1, %o1, %o1, %o1, %o1, %o1, %o1, %o1, %o1, %o1, %o1, %o1, %o1, %o1, %o1, %o1, %o1)
    through %shared to %out, %partials group 5 head_dim 128 ring_bytes 18432
    : !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  return
}

// Where states are in the ring, warps tell each other where.
// CHECK-LABEL: func @in_the_ring
// CHECK-SAME: {{.*}}%[[RECORD:[a-z0-9]+]]: i32)
func.func @in_the_ring(%shared: !llvm.ptr<3>, %out: !llvm.ptr<1>, %partials: !llvm.ptr<1>,
                       %i: i32, %x: f32, %record: i32) {
  // CHECK: llvm.getelementptr %{{.*}}[%[[RECORD]]]
  // CHECK: %[[TABLE:.*]] = llvm.getelementptr %{{.*}}[76048]
  // CHECK: %[[MINE:.*]] = llvm.getelementptr %[[TABLE]][%{{.*}}]
  // CHECK: llvm.store %[[RECORD]], %[[MINE]] {{.*}} : i32, !llvm.ptr<3>
  // CHECK: nvvm.barrier0
  // CHECK: %[[ALL:.*]] = llvm.getelementptr %{{.*}}[76048]
  // CHECK: %[[PLACES:.*]] = llvm.load %[[ALL]] {{.*}} -> vector<4xi32>
  // CHECK: %[[PLACE:.*]] = llvm.extractelement %[[PLACES]][%c0_i32 : i32]
  // CHECK: llvm.getelementptr %{{.*}}[%[[PLACE]]]
  // Four queries of 64 dims: half of the threads have two elements each.
  // CHECK: llvm.load %{{.*}} : !llvm.ptr<3> -> vector<2xi32>
  pmkvq.merge_warps pair %i shares %i partial %i (%x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x)
    through %shared at %record to %out, %partials group 4 head_dim 64 ring_bytes 9216
    : !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  return
}

// Of up to 16 queries a lane has 2 t, 2 t + 1, 2 t + 8 and 2 t + 9; threads
// merge their outputs in two rounds.
// CHECK-LABEL: func @four_queries_a_lane
func.func @four_queries_a_lane(%shared: !llvm.ptr<3>, %out: !llvm.ptr<1>, %partials: !llvm.ptr<1>,
                               %i: i32, %x: f32) {
  // CHECK-DAG: %[[EVEN:.*]] = arith.muli %{{.*}}, %c2_i32
  // CHECK: arith.addi %[[EVEN]], %c1_i32
  // CHECK: arith.addi %[[EVEN]], %c8_i32
  // CHECK: arith.addi %[[EVEN]], %c9_i32
  // CHECK: nvvm.barrier0
  // CHECK: scf.for %{{.*}} = %c0_i32 to %c2_i32 step %c1_i32
  pmkvq.merge_warps pair %i shares %i partial %i
    (%x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x,
     %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x,
     %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x,
     %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x)
    through %shared to %out, %partials group 16 head_dim 128 ring_bytes 18432
    : !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  return
}

// CHECK-LABEL: func @shares
// CHECK-SAME: (%[[OUT:.*]]: !llvm.ptr<1>, %[[PARTIALS:[^:]*]]: !llvm.ptr<1>, %[[PAIR:[^:]*]]: i32, %[[SHARES:[^:]*]]: i32, %[[PARTIAL:[^:]*]]: i32)
func.func @shares(%out: !llvm.ptr<1>, %partials: !llvm.ptr<1>, %pair: i32, %shares: i32,
                  %partial: i32) {
  // Up to four at once, more sixteen at a time.
  // CHECK: %[[FEW:.*]] = arith.cmpi ule, %[[SHARES]], %c4_i32
  // CHECK: scf.if %[[FEW]]
  // Loaded whole, again until all have their tags.
  // CHECK: %[[WORDS:.*]]:12 = scf.while
  // CHECK-COUNT-4: ld.relaxed.gpu.global.b128
  // CHECK-COUNT-3: arith.ori
  // CHECK: scf.condition
  // Tags are zero for the next launch.
  // CHECK-COUNT-4: llvm.store %c0_i32, %{{.*}} : i32, !llvm.ptr<1>
  // CHECK: scf.for
  // CHECK-COUNT-16: ld.relaxed.gpu.global.b128
  // Those past the last weigh nothing.
  // CHECK: arith.cmpi ult, %{{.*}}, %[[SHARES]]
  // CHECK: arith.select
  // CHECK: rcp.approx
  // CHECK: llvm.getelementptr %[[OUT]]
  pmkvq.merge_shares pair %pair shares %shares partial %partial from %partials to %out
    group 4 head_dim 128 : !llvm.ptr<1>, !llvm.ptr<1>
  return
}

// Several rows of queries: those that exist, each with its own place, and
// perhaps none of a share's tokens are seen by the first.
// CHECK-LABEL: func @rows
// CHECK-SAME: (%{{.*}}: !llvm.ptr<1>, %{{.*}}: !llvm.ptr<1>, %[[I:[^:]*]]: i32, %[[MORE:[^:]*]]: i32)
func.func @rows(%out: !llvm.ptr<1>, %partials: !llvm.ptr<1>, %i: i32, %more: i32) {
  // CHECK: %[[TINY:.*]] = arith.constant 7.88860905E-31 : f32
  // CHECK: %[[QUERY:.*]] = arith.divui %{{.*}}, %c128_i32
  // CHECK: %[[ROWS:.*]] = arith.addi %[[MORE]], %c1_i32
  // CHECK: %[[COUNT:.*]] = arith.muli %[[ROWS]], %c2_i32
  // CHECK: %[[EXISTS:.*]] = arith.cmpi ult, %[[QUERY]], %[[COUNT]]
  // CHECK: scf.if %[[EXISTS]] {
  // CHECK: %[[SUM:.*]] = llvm.intr.maxnum(%{{.*}}, %[[TINY]]) : (f32, f32) -> f32
  // CHECK-NEXT: rcp.approx.ftz.f"(%[[SUM]])
  // 6 queries from row to row, of which 2 are this head's.
  // CHECK: %[[ROW:.*]] = arith.divui %[[QUERY]], %c2_i32
  // CHECK: arith.muli %[[ROW]], %c512_i32
  pmkvq.merge_shares pair %i shares %i partial %i from %partials to %out
    group 2 rows 4 more %more stride 6 head_dim 128 : !llvm.ptr<1>, !llvm.ptr<1>
  return
}
