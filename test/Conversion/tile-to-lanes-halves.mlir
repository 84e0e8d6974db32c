// Units with one side at level 16: of the other a grain of 32 tokens was copied,
// and one half of it counts.
// RUN: pmkvq-opt %s --pass-pipeline="builtin.module(pmkvq.kernel(pmkvq-fold-parameters,pmkvq-hoist-constants),canonicalize,cse,convert-pmkvq-tile-to-lanes,canonicalize,cse)" | FileCheck %s

!state = !pmkvq.softmax<4, 128>
!q = !pmkvq.rows<4, 128>
!x = !pmkvq.rows<4, 16>
!k16 = !pmkvq.tile<key, 16, 16, 128>
!v4 = !pmkvq.tile<value, 4, 16, 128, <per_token>>
!k2 = !pmkvq.tile<key, 2, 16, 128, <per_channel>>
!v16 = !pmkvq.tile<value, 16, 16, 128>

pmkvq.kernel @decode(%work: !pmkvq.work, %in: memref<?x8x128xf32>,
                     %out: memref<?x8x128xf32>, %block: index) -> i1 {
  %scale = arith.constant dense<0.125> : vector<128xf32>
  pmkvq.for_segment %work[%block] kv_heads 2 {
  ^bb0(%segment: !pmkvq.segment, %row: index, %count: index, %head: index):
    %rows = pmkvq.load_rows %in[%row, %head] count %count group 4 : memref<?x8x128xf32> -> !q
    %q = pmkvq.scale %rows, %scale : !q, vector<128xf32>
    %init = pmkvq.softmax_init : !state
    %r = pmkvq.for_unit %segment from %init kinds [16, 4, 2, 16] : !state {
    ^bb0(%s: !state, %tokens: index, %k: !k16, %v: !v4):
      %x = pmkvq.scores %q, %k : !q, !k16 -> !x
      %t, %w = pmkvq.softmax_update %s, %x : !state, !x
      %u = pmkvq.accumulate %t, %w, %v : !state, !x, !v4
      pmkvq.yield %u : !state
    }, {
    ^bb0(%s: !state, %tokens: index, %k: !k2, %v: !v16):
      %x = pmkvq.scores %q, %k : !q, !k2 -> !x
      %t, %w = pmkvq.softmax_update %s, %x : !state, !x
      %u = pmkvq.accumulate %t, %w, %v : !state, !x, !v16
      pmkvq.yield %u : !state
    }
    pmkvq.store_merged %r of %segment, %out[%row, %head] count %count group 4 : !state, memref<?x8x128xf32>
  }
  %ok = arith.constant true
  pmkvq.return %ok
}

// CHECK: %[[SLOT:.*]] = pmkvq.ring_wait

// Values: the half's ranges; weights of the other half are zero, so that the
// product over all 32 tokens is that of the half.
// CHECK: %[[BIT:.*]] = arith.andi %{{.*}}, %c33554432_i32
// CHECK: %[[SECOND:.*]] = arith.cmpi ne, %[[BIT]], %c0_i32
// CHECK: pmkvq.multiply_codes key 16 tokens 16 head_dim 128 in %{{.*}} -> vector<2xf32>
// CHECK: %{{.*}}, %{{.*}}, %{{.*}}, %{{.*}}, %[[WEIGHTS:.*]] = pmkvq.online_softmax
// CHECK: %[[WEIGHT:.*]] = vector.extract %[[WEIGHTS]][0]
// CHECK: %[[WEIGHT8:.*]] = vector.extract %[[WEIGHTS]][1]
// CHECK: %[[RANGE:.*]] = arith.select %[[SECOND]], %{{.*}}, %{{.*}} : i32
// CHECK: %[[MINIMUM:.*]] = arith.select %[[SECOND]], %{{.*}}, %{{.*}} : i32
// CHECK: %[[A:.*]] = arith.select %[[SECOND]], %[[ZERO:cst[^,]*]], %[[WEIGHT]] : f32
// CHECK: %[[A8:.*]] = arith.select %[[SECOND]], %[[ZERO]], %[[WEIGHT8]] : f32
// CHECK: %[[B:.*]] = arith.select %[[SECOND]], %[[WEIGHT]], %[[ZERO]] : f32
// CHECK: %[[B8:.*]] = arith.select %[[SECOND]], %[[WEIGHT8]], %[[ZERO]] : f32
// CHECK-DAG: %[[WIDE:.*]] = vector.from_elements %[[A]], %[[A8]], %[[B]], %[[B8]] : vector<4xf32>
// CHECK-DAG: %[[RANGES:.*]] = vector.broadcast %[[RANGE]] : i32 to vector<2xi32>
// CHECK: pmkvq.repack_weights %[[RANGES]], %[[WIDE]] : (vector<2xi32>, vector<4xf32>) -> (vector<2xi32>, f32, f32)
// CHECK: pmkvq.multiply_codes value 4 tokens 32 head_dim 128 in

// Keys: scores of all 32 tokens, of which the half stays; at 2 bits the halves
// are in fields of their own, so factors are picked too.
// CHECK: %[[SUMS:.*]] = pmkvq.multiply_codes key 2 tokens 32 head_dim 128 in %{{.*}} -> vector<4xf32>
// CHECK: %[[S0:.*]] = vector.extract %[[SUMS]][0]
// CHECK: %[[S1:.*]] = vector.extract %[[SUMS]][1]
// CHECK: %[[S2:.*]] = vector.extract %[[SUMS]][2]
// CHECK: %[[S3:.*]] = vector.extract %[[SUMS]][3]
// CHECK: %[[SCORE:.*]] = arith.select %[[SECOND]], %[[S2]], %[[S0]] : f32
// CHECK: %[[SCORE8:.*]] = arith.select %[[SECOND]], %[[S3]], %[[S1]] : f32
// CHECK-COUNT-2: arith.select %[[SECOND]], {{.*}} : f32
// CHECK-NOT: arith.select
// CHECK: %[[SCORES:.*]] = vector.from_elements %[[SCORE]], %[[SCORE8]] : vector<2xf32>
// CHECK: pmkvq.online_softmax {{.*}} products(%[[SCORES]])
// CHECK-NOT: arith.select
// CHECK: pmkvq.repack_raw_weights %{{.*}} : (vector<2xf32>) -> vector<2xi32>
// CHECK: pmkvq.multiply_codes value 16 tokens 16 head_dim 128 in
