// Shifts with feedback on the CPU: lanes are tokens, head dims come one after the
// other.  The arithmetic: CompilerFeedbackTest.
// RUN: pmkvq-opt %s --convert-pmkvq-tile-to-vector --canonicalize --cse | FileCheck %s --implicit-check-not="pmkvq."

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard, feedback>, value = <per_token>>
!page = !pmkvq.page<<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard, feedback>, value = <per_token>>>
!k8 = !pmkvq.tile<key, 8, 128, 64, <per_channel, hadamard, feedback>>
!k4 = !pmkvq.tile<key, 4, 128, 64, <per_channel, hadamard, feedback>>
!k2 = !pmkvq.tile<key, 2, 128, 64, <per_channel, hadamard, feedback>>

// A head has (16 + 64 * 64) floats at CacheView::keyFeedback, and its factor
// follows a cache line; from 8 bits no part of a range is read.
// CHECK-LABEL: func.func @shift_8
pmkvq.kernel @shift_8(%c: !kv, %head: index) -> i1 {
  %page = pmkvq.fetch %c[%head, %head, %head] : !page
  %k = pmkvq.take %page : !page -> !k8
  // CHECK-DAG: %[[BYTES:.*]] = arith.constant 16448 : i64
  // CHECK: %[[AT:.*]] = llvm.getelementptr %{{.*}}[40]
  // CHECK: %[[LAYER:.*]] = llvm.load %[[AT]] : !llvm.ptr -> !llvm.ptr
  // CHECK: %[[OFFSET:.*]] = arith.muli %{{.*}}, %[[BYTES]]
  // CHECK: %[[HEAD:.*]] = llvm.getelementptr %[[LAYER]][%[[OFFSET]]]
  // CHECK: llvm.getelementptr %[[HEAD]][64]
  %f = pmkvq.fetch_feedback %c[%head] : !kv
  // CHECK: math.fma
  %x = pmkvq.shift %k feedback %f : !k8 -> !k4
  %ok = arith.constant true
  pmkvq.return %ok
}

// To 2 bits the layer's offset and step come from there too.
// CHECK-LABEL: func.func @shift_4
pmkvq.kernel @shift_4(%c: !kv, %head: index) -> i1 {
  %page = pmkvq.fetch %c[%head, %head, %head] : !page
  %k = pmkvq.take %page : !page -> !k4
  // CHECK: %[[AT:.*]] = llvm.getelementptr %{{.*}}[40]
  // CHECK: %[[LAYER:.*]] = llvm.load %[[AT]]
  // CHECK: %[[HEAD:.*]] = llvm.getelementptr %[[LAYER]][
  // CHECK: llvm.load %[[HEAD]] {{.*}} : !llvm.ptr -> f32
  // CHECK: %[[SECOND:.*]] = llvm.getelementptr %[[HEAD]][4]
  // CHECK: llvm.load %[[SECOND]] {{.*}} : !llvm.ptr -> f32
  %f = pmkvq.fetch_feedback %c[%head] : !kv
  %x = pmkvq.shift %k feedback %f : !k4 -> !k2
  %ok = arith.constant true
  pmkvq.return %ok
}
