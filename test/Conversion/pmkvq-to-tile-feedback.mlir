// Keys that fall with feedback: below 8 bits their page kernels fetch it, and the
// program exports what it is.
// RUN: pmkvq-opt %s --convert-pmkvq-to-tile | FileCheck %s

!kv0 = !pmkvq.cache<kv_heads = 1, head_dim = 64, key = <per_channel, hadamard, clip = 0.75, feedback>,
                    value = <per_token, hadamard>>
!kv1 = !pmkvq.cache<kv_heads = 1, head_dim = 64, key = <per_channel, hadamard, feedback>,
                    value = <per_token, hadamard>>

// A layer takes 16 + 64 * 64 floats.
// CHECK-LABEL: func @pmkvq_describe
// CHECK: llvm.mlir.global internal constant @key_feedback_table(dense<
// The offset and step of 2-bit codes by the layer's clip, (1 - clip) / 2 and
// clip / 3; zeros up to a cache line; the factor, of equal queries the identity.
// CHECK-SAME: "0x0000003E0000803E{{(0{112})}}0000803F00000000
// CHECK-SAME: CDCCCC3D8988883E{{(0{112})}}0000803F00000000
// CHECK-SAME: tensor<8224xf32>) {{{addr_space = 0 : i32, alignment = 64 : i64}}} : !llvm.array<8224 x f32>
// CHECK-LABEL: func @pmkvq_key_feedback
// CHECK-SAME: (%[[LAYER:.*]]: i64) -> !llvm.ptr
// CHECK-NEXT: %[[TABLE:.*]] = llvm.mlir.addressof @key_feedback_table
// CHECK-NEXT: %[[FLOATS:.*]] = llvm.mlir.constant(4112 : i64)
// CHECK-NEXT: %[[INDEX:.*]] = llvm.mul %[[LAYER]], %[[FLOATS]]
// CHECK-NEXT: %[[AT:.*]] = llvm.getelementptr %[[TABLE]][%[[INDEX]]] : (!llvm.ptr, i64) -> !llvm.ptr, f32
// CHECK-NEXT: return %[[AT]]
func.func @create() -> (!kv0, !kv1) {
  %0 = pmkvq.create layer 0 max_tokens 4096 schedule <page, key_floor = 2, value_floor = 2>
    calibration <query_squares = [
      0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
      0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
      0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
      0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]> : !kv0
  %1 = pmkvq.create layer 1 max_tokens 4096 schedule <page, key_floor = 2, value_floor = 2>
    calibration <query_squares = [
      0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
      0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
      0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
      0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]> : !kv1
  return %0, %1 : !kv0, !kv1
}

// Every step below 8 bits of a flush takes it, of the page's head.
// CHECK-LABEL: kernel @pmkvq_flush_key_2(
// CHECK: %{{.*}}, %{{.*}}, %[[HEAD:.*]], %{{.*}} = pmkvq.page_task
// CHECK: pmkvq.quantize {{.*}} -> <key, 8
// CHECK: %[[F:.*]] = pmkvq.fetch_feedback %{{.*}}[%[[HEAD]]]
// CHECK: pmkvq.shift %{{.*}} feedback %[[F]] : <key, 8, {{.*}}> -> <key, 4
// CHECK: pmkvq.shift %{{.*}} feedback %[[F]] : <key, 4, {{.*}}> -> <key, 2
// CHECK: scf.if
func.func @flush_key_2(%c: !kv0, %p: !pmkvq.pages) -> !kv0 {
  %r = pmkvq.flush key %c, %p to 2 : !kv0
  return %r : !kv0
}

// CHECK-LABEL: kernel @pmkvq_requantize_key_8_4(
// CHECK: %{{.*}}, %{{.*}}, %[[HEAD:.*]], %{{.*}} = pmkvq.page_task
// CHECK: %[[F:.*]] = pmkvq.fetch_feedback %{{.*}}[%[[HEAD]]]
// CHECK-NEXT: %[[T:.*]] = pmkvq.shift %{{.*}} feedback %[[F]]
// CHECK-NEXT: pmkvq.store %[[T]], %{{.*}} : <key, 4
func.func @requantize_key_8_4(%c: !kv0, %p: !pmkvq.pages) -> !kv0 {
  %r = pmkvq.requantize key %c, %p from 8 to 4 : !kv0
  return %r : !kv0
}

// Codes of 8 bits are the nearest, and so are values at all levels.
// CHECK-LABEL: kernel @pmkvq_flush_key_8(
// CHECK-NOT: feedback %
// CHECK-NOT: pmkvq.fetch_feedback
// CHECK-LABEL: kernel @pmkvq_requantize_key_16_8(
// CHECK-NOT: pmkvq.fetch_feedback
// CHECK-LABEL: kernel @pmkvq_flush_value_2(
// CHECK-NOT: pmkvq.fetch_feedback
// CHECK-NOT: feedback %
// CHECK-LABEL: kernel @pmkvq_requantize_value_4_2(
// CHECK-NOT: pmkvq.fetch_feedback
// CHECK-NOT: feedback %
func.func @flush_key_8(%c: !kv0, %p: !pmkvq.pages) -> !kv0 {
  %r = pmkvq.flush key %c, %p to 8 : !kv0
  return %r : !kv0
}
func.func @requantize_key_16_8(%c: !kv0, %p: !pmkvq.pages) -> !kv0 {
  %r = pmkvq.requantize key %c, %p from 16 to 8 : !kv0
  return %r : !kv0
}
func.func @flush_value_2(%c: !kv0, %p: !pmkvq.pages) -> !kv0 {
  %r = pmkvq.flush value %c, %p to 2 : !kv0
  return %r : !kv0
}
func.func @requantize_value_4_2(%c: !kv0, %p: !pmkvq.pages) -> !kv0 {
  %r = pmkvq.requantize value %c, %p from 4 to 2 : !kv0
  return %r : !kv0
}
