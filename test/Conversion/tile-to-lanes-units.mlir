// The code of each kind of unit.
// RUN: pmkvq-opt %s --pass-pipeline="builtin.module(pmkvq.kernel(pmkvq-fold-parameters,pmkvq-hoist-constants),canonicalize,cse,convert-pmkvq-tile-to-lanes,canonicalize,cse)" | FileCheck %s

!state = !pmkvq.softmax<4, 128>
!q = !pmkvq.rows<4, 128>
!k16 = !pmkvq.tile<key, 16, 16, 128>
!v16 = !pmkvq.tile<value, 16, 16, 128>
!k2 = !pmkvq.tile<key, 2, 64, 128, <per_channel>>
!v4 = !pmkvq.tile<value, 4, 64, 128, <per_token>>
!k8 = !pmkvq.tile<key, 8, 32, 128, <per_channel>>
!v8 = !pmkvq.tile<value, 8, 32, 128, <per_token>>

pmkvq.kernel @decode(%work: !pmkvq.work, %in: memref<?x8x128xf32>,
                     %out: memref<?x8x128xf32>, %block: index) -> i1 {
  %scale = arith.constant dense<0.125> : vector<128xf32>
  pmkvq.for_segment %work[%block] kv_heads 2 {
  ^bb0(%segment: !pmkvq.segment, %row: index, %count: index, %head: index):
    %rows = pmkvq.load_rows %in[%row, %head] count %count group 4 : memref<?x8x128xf32> -> !q
    %q = pmkvq.scale %rows, %scale : !q, vector<128xf32>
    %init = pmkvq.softmax_init : !state
    %r = pmkvq.for_unit %segment from %init kinds [16, 16, 2, 4, 8, 8] : !state {
    ^bb0(%s: !state, %tokens: index, %k: !k16, %v: !v16):
      %x = pmkvq.scores %q, %k : !q, !k16 -> !pmkvq.rows<4, 16>
      %y = pmkvq.causal_mask %x visible %tokens group 4 : !pmkvq.rows<4, 16>
      %t, %w = pmkvq.softmax_update %s, %y : !state, !pmkvq.rows<4, 16>
      %u = pmkvq.accumulate %t, %w, %v : !state, !pmkvq.rows<4, 16>, !v16
      pmkvq.yield %u : !state
    }, {
    ^bb0(%s: !state, %tokens: index, %k: !k2, %v: !v4):
      %x = pmkvq.scores %q, %k : !q, !k2 -> !pmkvq.rows<4, 64>
      %t, %w = pmkvq.softmax_update %s, %x : !state, !pmkvq.rows<4, 64>
      %u = pmkvq.accumulate %t, %w, %v : !state, !pmkvq.rows<4, 64>, !v4
      pmkvq.yield %u : !state
    }, {
    ^bb0(%s: !state, %tokens: index, %k: !k8, %v: !v8):
      %x = pmkvq.scores %q, %k : !q, !k8 -> !pmkvq.rows<4, 32>
      %t, %w = pmkvq.softmax_update %s, %x : !state, !pmkvq.rows<4, 32>
      %u = pmkvq.accumulate %t, %w, %v : !state, !pmkvq.rows<4, 32>, !v8
      pmkvq.yield %u : !state
    }
    pmkvq.store_merged %r of %segment, %out[%row, %head] count %count group 4 : !state, memref<?x8x128xf32>
  }
  %ok = arith.constant true
  pmkvq.return %ok
}

// CHECK-DAG: %[[HIDDEN:.*]] = arith.constant 0xFF800000 : f32
// CHECK-DAG: %[[QUARTER:.*]] = arith.constant 2.500000e-01 : f32
// CHECK-DAG: %[[SIXTEENTH:.*]] = arith.constant 6.250000e-02 : f32
// CHECK-DAG: %[[SIXTY_FOURTH:.*]] = arith.constant 1.562500e-02 : f32
// CHECK-DAG: %[[NAN:.*]] = arith.constant 0x7FC00000 : f32

// The factor of a query that is no number is none; raw keys meet the queries
// that f16 left to the others.
// CHECK: %[[LARGEST:.*]] = nvvm.redux.sync umax
// CHECK: %[[EXPONENT:.*]] = arith.shrui %[[LARGEST]], %c23
// CHECK: %[[FINITE:.*]] = arith.cmpi ult, %[[EXPONENT]], %c255
// CHECK: %[[RESTORE:.*]] = arith.select %[[FINITE]], %{{.*}}, %[[NAN]]
// CHECK-COUNT-2: "llvm.nvvm.ff2f16x2.rn"
// CHECK: %[[LEFT:.*]] = arith.extf %{{.*}} : f16 to f32
// CHECK-NEXT: arith.mulf %[[LEFT]], %[[RESTORE]]
// CHECK: "llvm.nvvm.ff2bf16x2.rn"
// CHECK: %[[SLOT:.*]] = pmkvq.ring_wait

// Raw units: tokens g and g + 8 that do not count get minus infinity, whatever
// the other lanes have.
// CHECK: scf.if %{{.*}} -> (f32
// CHECK: pmkvq.multiply_codes key 16 tokens 16 head_dim 128 in %[[SLOT]], {{.*}} -> vector<2xf32>
// CHECK: %[[COUNTS:.*]] = arith.cmpi slt
// CHECK: %[[SCORE:.*]] = arith.select %[[COUNTS]], %{{.*}}, %[[HIDDEN]]
// CHECK: %[[COUNTS8:.*]] = arith.cmpi slt
// CHECK: %[[SCORE8:.*]] = arith.select %[[COUNTS8]], %{{.*}}, %[[HIDDEN]]
// CHECK: %[[SCORES:.*]] = vector.from_elements %[[SCORE]], %[[SCORE8]]
// CHECK: %[[MAX:.*]], %[[SUM:.*]], %[[OFFSET:.*]], %[[OUTPUTS:.*]], %[[WEIGHTS:.*]] = pmkvq.online_softmax {{.*}} products(%[[SCORES]])
// CHECK: %[[OUTPUT:.*]] = vector.extract %[[OUTPUTS]][0]
// CHECK: pmkvq.repack_raw_weights %[[WEIGHTS]] : (vector<2xf32>) -> vector<2xi32>
// CHECK: %[[VALUES:.*]] = llvm.getelementptr %[[SLOT]][4096]
// CHECK: %[[RAW:.*]] = pmkvq.multiply_codes value 16 tokens 16 head_dim 128 in %[[VALUES]], {{.*}} -> vector<16xf32>
// Raw products are outputs as they are; minima, which they have none of, would
// go to the offset.
// CHECK: %[[PRODUCT:.*]] = vector.extract %[[RAW]][0]
// CHECK: %[[ADDED:.*]] = arith.addf %[[OUTPUT]], %[[PRODUCT]]
// CHECK: scf.yield %[[MAX]], %[[SUM]], %[[OFFSET]], %[[ADDED]],

// Keys at 2 bits: minima weigh the queries, ranges scale them, both before they
// are split.  Sums of bytes go to the constant part of the offset.
// CHECK: } else {
// CHECK: scf.if %{{.*}} -> (f32
// CHECK: pmkvq.weigh_rows %{{.*}} : vector<16xi32> -> f32
// CHECK-COUNT-16: llvm.fmul {{.*}} : vector<2xf16>
// CHECK: %[[BYTES:.*]], %[[SCALE:.*]] = pmkvq.split_rows {{.*}} : vector<16xi32> -> vector<8xi32>, f32
// CHECK: pmkvq.sum_bytes %[[BYTES]]
// CHECK: %[[CODES:.*]] = llvm.getelementptr %[[SLOT]][768]
// CHECK: %[[SUMS:.*]] = pmkvq.multiply_codes key 2 tokens 64 head_dim 128 in %[[CODES]], %[[BYTES]] : !llvm.ptr<3>, vector<8xi32> -> vector<8xf32>
// A row's field is at bit 0, 2, 4 or 6: four factors in all, for sums that are
// floats already.
// CHECK-NOT: arith.sitofp
// CHECK-DAG: arith.mulf %[[SCALE]], %[[QUARTER]]
// CHECK-DAG: arith.mulf %[[SCALE]], %[[SIXTEENTH]]
// CHECK-DAG: arith.mulf %[[SCALE]], %[[SIXTY_FOURTH]]
// CHECK: %[[FACTORS:.*]] = vector.from_elements %[[F0:.*]], %[[F2:.*]], %[[F4:.*]], %[[F6:.*]], %[[F0]], %[[F2]], %[[F4]], %[[F6]] : vector<8xf32>
// No token of theirs is hidden.
// CHECK-NOT: arith.select
// CHECK: %{{.*}}, %{{.*}}, %[[OFFSET:.*]], %[[OUTPUTS:.*]], %[[WEIGHTS:.*]] = pmkvq.online_softmax {{.*}} products(%[[SUMS]]) factors(%[[FACTORS]])
// Values at 4 bits: weights take the ranges, and go to the offset times minima.
// CHECK: %[[FIRST:.*]] = vector.extract %[[OUTPUTS]][0]
// CHECK: %[[SECOND:.*]] = vector.extract %[[OUTPUTS]][1]
// CHECK: %[[RANGES:.*]] = vector.from_elements {{.*}} : vector<4xi32>
// CHECK: %[[OPERAND:.*]], %[[UNSCALE:.*]], %{{.*}} = pmkvq.repack_weights %[[RANGES]], %[[WEIGHTS]] : (vector<4xi32>, vector<8xf32>) -> (vector<4xi32>, f32, f32)
// CHECK: %[[SUMS:.*]] = pmkvq.multiply_codes value 4 tokens 64 head_dim 128 in %{{.*}}, %[[OPERAND]] : !llvm.ptr<3>, vector<4xi32> -> vector<16xf32>
// CHECK-NOT: arith.sitofp
// CHECK: %[[SUM0:.*]] = vector.extract %[[SUMS]][0]
// CHECK: %[[SUM1:.*]] = vector.extract %[[SUMS]][1]
// CHECK: arith.mulf %[[UNSCALE]], %[[SIXTEENTH]]
// CHECK: %[[O0:.*]] = llvm.intr.fma(%[[SUM0]], %{{.*}}, %[[FIRST]])
// CHECK: %[[O1:.*]] = llvm.intr.fma(%[[SUM1]], %{{.*}}, %[[SECOND]])
// CHECK: %[[MINIMA:.*]] = arith.addf %[[OFFSET]], %{{.*}}
// CHECK: scf.yield %{{[^,]*}}, %{{[^,]*}}, %[[MINIMA]], %[[O0]], %[[O1]],

// At 8 bits there is no exponent; the last kind needs no test.
// CHECK: } else {
// CHECK-NOT: scf.if
// CHECK: pmkvq.multiply_codes key 8 tokens 32 head_dim 128
// CHECK-NOT: arith.mulf %{{.*}}, %[[SIXTEENTH]]
// CHECK: pmkvq.multiply_codes value 8 tokens 32 head_dim 128
// CHECK: nvvm.bar.warp.sync
