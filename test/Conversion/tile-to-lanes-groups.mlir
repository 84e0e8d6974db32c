// Groups of queries, and keys with groups per token.
// RUN: pmkvq-opt %s --pass-pipeline="builtin.module(pmkvq.kernel(pmkvq-fold-parameters,pmkvq-hoist-constants),canonicalize,cse,convert-pmkvq-tile-to-lanes,canonicalize,cse)" | FileCheck %s

!state8 = !pmkvq.softmax<8, 128>
!q8 = !pmkvq.rows<8, 128>
!k16 = !pmkvq.tile<key, 16, 16, 128>
!v16 = !pmkvq.tile<value, 16, 16, 128>
!state = !pmkvq.softmax<5, 128>
!q = !pmkvq.rows<5, 128>
!k4 = !pmkvq.tile<key, 4, 64, 128, <per_token>>
!v4 = !pmkvq.tile<value, 4, 64, 128, <per_token>>

pmkvq.kernel @decode(%work: !pmkvq.work, %in: memref<?x10x128xf32>,
                     %out: memref<?x10x128xf32>, %block: index) -> i1 {
  %scale = arith.constant dense<0.125> : vector<128xf32>
  pmkvq.for_segment %work[%block] kv_heads 2 {
  ^bb0(%segment: !pmkvq.segment, %row: index, %count: index, %head: index):
    %rows = pmkvq.load_rows %in[%row, %head] count %count group 5 : memref<?x10x128xf32> -> !q
    %q = pmkvq.scale %rows, %scale : !q, vector<128xf32>
    %init = pmkvq.softmax_init : !state
    %r = pmkvq.for_unit %segment from %init kinds [4, 4] : !state {
    ^bb0(%s: !state, %tokens: index, %k: !k4, %v: !v4):
      %x = pmkvq.scores %q, %k : !q, !k4 -> !pmkvq.rows<5, 64>
      %t, %w = pmkvq.softmax_update %s, %x : !state, !pmkvq.rows<5, 64>
      %u = pmkvq.accumulate %t, %w, %v : !state, !pmkvq.rows<5, 64>, !v4
      pmkvq.yield %u : !state
    }
    pmkvq.store_merged %r of %segment, %out[%row, %head] count %count group 5 : !state, memref<?x10x128xf32>
  }
  %ok = arith.constant true
  pmkvq.return %ok
}

// CHECK-LABEL: llvm.func @decode
// CHECK-DAG: %[[SIXTEENTH:.*]] = arith.constant 6.250000e-02 : f32
// Parameters of tokens are copied from where the unit's begin.
// CHECK: pmkvq.ring_issue {{.*}} kinds [4, 4] slots 2 slot_bytes 8704 head_dim 128 keys_per_token true
// Of up to 8 queries each is one column, 64 bytes on from the one before.
// CHECK: arith.cmpi ult, %{{.*}}, %c8_i32
// CHECK: %[[COLUMN:.*]] = arith.muli %{{.*}}, %c64_i32
// CHECK: %[[PLACE:.*]] = llvm.getelementptr %{{.*}}[%[[COLUMN]]]
// CHECK: %[[TO:.*]] = llvm.getelementptr %[[PLACE]]
// CHECK: llvm.store %{{.*}}, %[[TO]] {alignment = 8 : i64} : vector<2xi32>
// CHECK-NOT: llvm.store
// CHECK: nvvm.barrier0
// A lane has queries 2 t and 2 t + 1: their factors are 8 t bytes on.
// CHECK: %[[T:.*]] = arith.muli %{{.*}}, %c8_i32
// CHECK: %[[FACTORS:.*]] = llvm.getelementptr %{{.*}}[%[[T]]]
// CHECK: %[[FACTOR0:.*]] = llvm.load %[[FACTORS]] {alignment = 4 : i64}
// CHECK: %[[NEXT:.*]] = llvm.getelementptr %[[FACTORS]][4]
// CHECK: %[[FACTOR1:.*]] = llvm.load %[[NEXT]] {alignment = 4 : i64}
// Queries are split without ranges, once for both operands: high and low bytes.
// CHECK: pmkvq.ring_wait
// CHECK-NOT: llvm.fmul
// CHECK: %[[BYTES:.*]]:2, %[[SCALES:.*]]:2 = pmkvq.split_rows %{{.*}} : vector<16xi32> -> vector<8xi32>, vector<8xi32>, f32, f32
// CHECK-NOT: pmkvq.weigh_rows
// Codes are read once for both.
// CHECK: %[[SUMS:.*]]:2 = pmkvq.multiply_codes key 4 tokens 64 head_dim 128 in %{{.*}}, %[[BYTES]]#0, %[[BYTES]]#1 : !llvm.ptr<3>, vector<8xi32>, vector<8xi32> -> vector<8xf32>, vector<8xf32>
// CHECK-DAG: arith.mulf %[[SCALES]]#0, %[[SIXTEENTH]]
// CHECK-DAG: arith.mulf %[[SCALES]]#1, %[[SIXTEENTH]]
// Ranges and minima of a token come to its scores as f32, two in a word, for
// both queries.
// CHECK: llvm.bitcast %{{.*}} : i32 to vector<2xf16>
// CHECK: %[[RANGE:.*]] = arith.extf
// CHECK-DAG: arith.mulf %[[SCALES]]#0, %[[RANGE]]
// CHECK-DAG: arith.mulf %[[SCALES]]#1, %[[RANGE]]
// CHECK: %[[ROWSUMS:.*]]:2 = pmkvq.sum_bytes %[[BYTES]]#0, %[[BYTES]]#1
// CHECK-DAG: arith.mulf %[[ROWSUMS]]#0, %[[SCALES]]#0
// CHECK-DAG: arith.mulf %[[ROWSUMS]]#1, %[[SCALES]]#1
// CHECK: arith.mulf %{{.*}}, %[[FACTOR0]]
// CHECK: arith.mulf %{{.*}}, %[[FACTOR1]]
// One softmax and one repacking for both; maxima, sums and offsets are carried
// query by query.
// CHECK: %[[MAXIMA:.*]]:2, %[[PARTS:.*]]:2, %[[OFFSETS:.*]]:2, %[[OUTPUTS:.*]]:2, %[[WEIGHTS:.*]]:2 = pmkvq.online_softmax {{.*}} products(%[[SUMS]]#0, %[[SUMS]]#1)
// CHECK: %[[COLUMNS:.*]]:2, %[[UNSCALE:.*]], %{{.*}}:2 = pmkvq.repack_weights %{{.*}}, %[[WEIGHTS]]#0, %[[WEIGHTS]]#1 : (vector<4xi32>, vector<8xf32>, vector<8xf32>) -> (vector<4xi32>, vector<4xi32>, f32, f32, f32)
// CHECK: %[[PRODUCTS:.*]]:2 = pmkvq.multiply_codes value 4 tokens 64 head_dim 128 in %{{.*}}, %[[COLUMNS]]#0, %[[COLUMNS]]#1 : !llvm.ptr<3>, vector<4xi32>, vector<4xi32> -> vector<16xf32>, vector<16xf32>
// CHECK-DAG: arith.mulf %[[UNSCALE]], %[[SIXTEENTH]]
// CHECK-DAG: %[[OFFSET0:.*]] = arith.addf %[[OFFSETS]]#0,
// CHECK-DAG: %[[OFFSET1:.*]] = arith.addf %[[OFFSETS]]#1,
// CHECK: scf.yield {{.*}} %[[MAXIMA]]#0, %[[PARTS]]#0, %[[OFFSET0]], {{.*}} %[[MAXIMA]]#1, %[[PARTS]]#1, %[[OFFSET1]],
// 19 values a query.
// CHECK: pmkvq.merge_warps {{.*}}(%[[R:.*]]#5, {{.*}}, %[[R]]#42) through {{.*}} group 5 head_dim 128

pmkvq.kernel @raw(%work: !pmkvq.work, %in: memref<?x16x128xf32>,
                  %out: memref<?x16x128xf32>, %block: index) -> i1 {
  %scale = arith.constant dense<0.125> : vector<128xf32>
  pmkvq.for_segment %work[%block] kv_heads 2 {
  ^bb0(%segment: !pmkvq.segment, %row: index, %count: index, %head: index):
    %rows = pmkvq.load_rows %in[%row, %head] count %count group 8 : memref<?x16x128xf32> -> !q8
    %q = pmkvq.scale %rows, %scale : !q8, vector<128xf32>
    %init = pmkvq.softmax_init : !state8
    %r = pmkvq.for_unit %segment from %init kinds [16, 16] : !state8 {
    ^bb0(%s: !state8, %tokens: index, %k: !k16, %v: !v16):
      %x = pmkvq.scores %q, %k : !q8, !k16 -> !pmkvq.rows<8, 16>
      %t, %w = pmkvq.softmax_update %s, %x : !state8, !pmkvq.rows<8, 16>
      %u = pmkvq.accumulate %t, %w, %v : !state8, !pmkvq.rows<8, 16>, !v16
      pmkvq.yield %u : !state8
    }
    pmkvq.store_merged %r of %segment, %out[%row, %head] count %count group 8 : !state8, memref<?x16x128xf32>
  }
  %ok = arith.constant true
  pmkvq.return %ok
}

// What rounding to bf16 left is an operand of its own, 2048 bytes on.
// CHECK-LABEL: llvm.func @raw
// CHECK: arith.muli %{{.*}}, %c64_i32
// CHECK: llvm.store %{{.*}}, %[[AT:.*]] {alignment = 8 : i64} : vector<2xi32>
// CHECK: %[[RESTAT:.*]] = llvm.getelementptr %[[AT]][2048]
// CHECK: llvm.store %{{.*}}, %[[RESTAT]] {alignment = 8 : i64} : vector<2xi32>
// CHECK: nvvm.barrier0
// CHECK: pmkvq.ring_wait
// CHECK: %[[QUERIES:.*]] = vector.from_elements {{.*}} : vector<16xi32>
// CHECK: %[[RESTS:.*]] = vector.from_elements {{.*}} : vector<16xi32>
// CHECK: %[[SCORES:.*]]:2 = pmkvq.multiply_codes key 16 tokens 16 head_dim 128 in %{{.*}}, %[[QUERIES]], %[[RESTS]] : !llvm.ptr<3>, vector<16xi32>, vector<16xi32> -> vector<2xf32>, vector<2xf32>
// CHECK: %{{.*}}:2, %{{.*}}:2, %{{.*}}:2, %{{.*}}:2, %[[WEIGHTS:.*]]:2 = pmkvq.online_softmax {{.*}} products(%[[SCORES]]#0, %[[SCORES]]#1)
// CHECK: %[[COLUMNS:.*]]:2 = pmkvq.repack_raw_weights %[[WEIGHTS]]#0, %[[WEIGHTS]]#1 : (vector<2xf32>, vector<2xf32>) -> (vector<2xi32>, vector<2xi32>)
// CHECK: pmkvq.multiply_codes value 16 tokens 16 head_dim 128 in %{{.*}}, %[[COLUMNS]]#0, %[[COLUMNS]]#1 : !llvm.ptr<3>, vector<2xi32>, vector<2xi32> -> vector<16xf32>, vector<16xf32>
// CHECK: pmkvq.merge_warps {{.*}} group 8 head_dim 128
