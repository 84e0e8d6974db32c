// Units whose pages fall: entries of 32 bytes, and what they say.
// RUN: pmkvq-opt %s --pass-pipeline="builtin.module(pmkvq.kernel(pmkvq-fold-parameters,pmkvq-hoist-constants),canonicalize,cse,convert-pmkvq-tile-to-lanes,canonicalize,cse)" | FileCheck %s

!state = !pmkvq.softmax<4, 128>
!q = !pmkvq.rows<4, 128>
!k4 = !pmkvq.tile<key, 4, 64, 128, <per_channel>>
!v2 = !pmkvq.tile<value, 2, 64, 128, <per_token>>
!k2 = !pmkvq.tile<key, 2, 64, 128, <per_channel>>

// CHECK-LABEL: llvm.func @decode
pmkvq.kernel @decode(%work: !pmkvq.work, %in: memref<?x8x128xf32>,
                     %out: memref<?x8x128xf32>, %block: index) -> i1 {
  %scale = arith.constant dense<0.125> : vector<128xf32>
  pmkvq.for_segment %work[%block] kv_heads 2 {
  ^bb0(%segment: !pmkvq.segment, %row: index, %count: index, %head: index):
    %rows = pmkvq.load_rows %in[%row, %head] count %count group 4 : memref<?x8x128xf32> -> !q
    %q = pmkvq.scale %rows, %scale : !q, vector<128xf32>
    %init = pmkvq.softmax_init : !state
    %r = pmkvq.for_unit %segment from %init kinds [4, 2] : !state {
    ^bb0(%s: !state, %tokens: index, %k: !k4, %v: !v2):
      %x = pmkvq.scores %q, %k : !q, !k4 -> !pmkvq.rows<4, 64>
      %t, %w = pmkvq.softmax_update %s, %x : !state, !pmkvq.rows<4, 64>
      %u = pmkvq.accumulate %t, %w, %v : !state, !pmkvq.rows<4, 64>, !v2
      %low = pmkvq.shift %k : !k4 -> !k2
      pmkvq.store_lowered %low : !k2
      pmkvq.yield %u : !state
    }
    pmkvq.store_merged %r of %segment, %out[%row, %head] count %count group 4 : !state, memref<?x8x128xf32>
  }
  %ok = arith.constant true
  pmkvq.return %ok
}

// CHECK-DAG: %[[KEYS:.*]] = arith.constant 67108864 : i32
// A warp's first entry, and the next, eight entries of 32 bytes on: where parts
// go is loaded with them, two units ahead.
// CHECK: %[[ENTRY:.*]] = llvm.load %{{.*}} {alignment = 16 : i64} : !llvm.ptr<1> -> vector<4xi32>
// CHECK: llvm.getelementptr %{{.*}}[16] : (!llvm.ptr<1>) -> !llvm.ptr<1>, i8
// CHECK: llvm.load %{{.*}} {alignment = 8 : i64} : !llvm.ptr<1> -> vector<2xi32>
// CHECK: llvm.getelementptr %{{.*}}[256] : (!llvm.ptr<1>) -> !llvm.ptr<1>, i8
// CHECK: llvm.load %{{.*}} {alignment = 8 : i64} : !llvm.ptr<1> -> vector<2xi32>

// CHECK: %[[SLOT:.*]] = pmkvq.ring_wait
// CHECK: llvm.load %{{.*}} {alignment = 8 : i64} : !llvm.ptr<1> -> vector<2xi32>
// CHECK: pmkvq.multiply_codes key 4 tokens 64 head_dim 128 in %[[CODES:[0-9]+]],
// CHECK: pmkvq.multiply_codes value 2
// Once the unit has been worked on its codes, still in the slot, are shifted.
// CHECK: %[[BIT:.*]] = arith.andi %{{.*}}, %[[KEYS]]
// CHECK: %[[FALLS:.*]] = arith.cmpi ne, %[[BIT]], %c0_i32
// CHECK: %[[WIDE:.*]] = arith.extui %{{.*}} : i32 to i64
// CHECK: %[[BYTES:.*]] = arith.muli %[[WIDE]], %c128_i64
// CHECK: %[[TO:.*]] = llvm.getelementptr %{{.*}}[%[[BYTES]]]
// CHECK: pmkvq.shift_codes key 4 tokens 64 head_dim 128 format <per_channel> in %[[CODES]] to %[[TO]] if %[[FALLS]]
// CHECK-NOT: pmkvq.shift_codes
// CHECK: nvvm.bar.warp.sync
