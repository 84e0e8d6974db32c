// Folds, and what must not fold.
// RUN: pmkvq-opt %s --canonicalize | FileCheck %s

!raw = !pmkvq.tile<key, 16, 128, 64>
!k8 = !pmkvq.tile<key, 8, 128, 64, <per_channel>>
!k4 = !pmkvq.tile<key, 4, 128, 64, <per_channel>>
!k2 = !pmkvq.tile<key, 2, 128, 64, <per_channel>>
!f8 = !pmkvq.tile<key, 8, 128, 64, <per_channel, hadamard, feedback>>
!f4 = !pmkvq.tile<key, 4, 128, 64, <per_channel, hadamard, feedback>>
!f2 = !pmkvq.tile<key, 2, 128, 64, <per_channel, hadamard, feedback>>
!p16 = !pmkvq.tile<key, 16, 128, 64, <paper>>
!p8 = !pmkvq.tile<key, 8, 128, 64, <paper>>
!p4 = !pmkvq.tile<key, 4, 128, 64, <paper>>
!p2 = !pmkvq.tile<key, 2, 128, 64, <paper>>

// A shift of a shift is one shift.  The proof, over all codes: ReferenceShift
// and CompilerShiftTest.
// CHECK-LABEL: func @shift_of_shift
// CHECK-SAME: (%[[T:.*]]: !pmkvq.tile
func.func @shift_of_shift(%t: !k8) -> !k2 {
  // CHECK-NEXT: %[[R:.*]] = pmkvq.shift %[[T]] : <key, 8, 128, 64, <per_channel>> -> <key, 2, 128, 64, <per_channel>>
  // CHECK-NEXT: return %[[R]]
  %0 = pmkvq.shift %t : !k8 -> !k4
  %1 = pmkvq.shift %0 : !k4 -> !k2
  return %1 : !k2
}

// So is a chain of three.
// CHECK-LABEL: func @chain
// CHECK-SAME: (%[[T:.*]]: !pmkvq.tile
func.func @chain(%t: !p16) -> !p2 {
  // CHECK-NEXT: pmkvq.shift %[[T]] : <key, 16, 128, 64, <paper>> -> <key, 2, 128, 64, <paper>>
  // CHECK-NEXT: return
  %0 = pmkvq.shift %t : !p16 -> !p8
  %1 = pmkvq.shift %0 : !p8 -> !p4
  %2 = pmkvq.shift %1 : !p4 -> !p2
  return %2 : !p2
}

// A first shift that others use stays: from its result the way is shorter.
// CHECK-LABEL: func @first_is_used
func.func @first_is_used(%t: !k8) -> (!k4, !k2) {
  // CHECK: %[[S:.*]] = pmkvq.shift {{.*}} -> <key, 4
  // CHECK: pmkvq.shift %[[S]] : <key, 4
  %0 = pmkvq.shift %t : !k8 -> !k4
  %1 = pmkvq.shift %0 : !k4 -> !k2
  return %0, %1 : !k4, !k2
}

// With one feedback it is one shift still, with another it stays two.
// CHECK-LABEL: func @shift_of_shift_with_feedback
// CHECK-SAME: (%[[T:.*]]: !pmkvq.tile{{.*}}, %[[F:.*]]: !pmkvq.feedback, %[[G:.*]]: !pmkvq.feedback)
func.func @shift_of_shift_with_feedback(%t: !f8, %f: !pmkvq.feedback, %g: !pmkvq.feedback) -> (!f2, !f2) {
  // CHECK-NEXT: pmkvq.shift %[[T]] feedback %[[F]] : <key, 8, {{.*}}> -> <key, 2
  %0 = pmkvq.shift %t feedback %f : !f8 -> !f4
  %1 = pmkvq.shift %0 feedback %f : !f4 -> !f2
  // CHECK-NEXT: %[[S:.*]] = pmkvq.shift %[[T]] feedback %[[F]] : <key, 8, {{.*}}> -> <key, 4
  // CHECK-NEXT: pmkvq.shift %[[S]] feedback %[[G]] : <key, 4
  %2 = pmkvq.shift %t feedback %f : !f8 -> !f4
  %3 = pmkvq.shift %2 feedback %g : !f4 -> !f2
  return %1, %3 : !f2, !f2
}

// Decoding what was quantized does not give the values back: a product with the
// codes' tile never becomes one with the raw tile.
// CHECK-LABEL: func @decode_of_quantize
// CHECK-SAME: (%[[Q:.*]]: !pmkvq.rows<3, 64>, %[[T:.*]]: !pmkvq.tile
func.func @decode_of_quantize(%q: !pmkvq.rows<3, 64>, %t: !raw) -> !pmkvq.rows<3, 128> {
  // CHECK-NEXT: %[[C:.*]], %{{.*}} = pmkvq.quantize %[[T]]
  // CHECK-NEXT: pmkvq.scores %[[Q]], %[[C]] :
  %c, %ok = pmkvq.quantize %t : !raw -> !k8
  %x = pmkvq.scores %q, %c : !pmkvq.rows<3, 64>, !k8 -> !pmkvq.rows<3, 128>
  return %x : !pmkvq.rows<3, 128>
}

// Nor is a shift of a quantized tile a quantization to fewer bits: codes come
// from the format's first level alone.
// CHECK-LABEL: func @shift_of_quantize
func.func @shift_of_quantize(%t: !raw) -> !k4 {
  // CHECK-NEXT: %[[C:.*]], %{{.*}} = pmkvq.quantize
  // CHECK-NEXT: pmkvq.shift %[[C]] : <key, 8
  %c, %ok = pmkvq.quantize %t : !raw -> !k8
  %s = pmkvq.shift %c : !k8 -> !k4
  return %s : !k4
}
