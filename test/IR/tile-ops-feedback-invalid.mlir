// Constraints of shifts with feedback and of what they take, each violated once.
// RUN: pmkvq-opt %s -split-input-file -verify-diagnostics

// fetch_feedback C1: keys that fall without, and no formats at all.
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token>>
func.func @f(%c: !kv, %head: index) {
  // expected-error @+1 {{(C1) expected keys that fall with feedback, got '!pmkvq.cache<}}
  %f = pmkvq.fetch_feedback %c[%head] : !kv
  return
}

// -----

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64>
func.func @f(%c: !kv, %head: index) {
  // expected-error @+1 {{(C1) expected keys that fall with feedback, got '!pmkvq.cache<}}
  %f = pmkvq.fetch_feedback %c[%head] : !kv
  return
}

// -----

// shift C4: none where the format says so.
!k8 = !pmkvq.tile<key, 8, 128, 64, <per_channel, hadamard, feedback>>
!k4 = !pmkvq.tile<key, 4, 128, 64, <per_channel, hadamard, feedback>>
func.func @f(%t: !k8) {
  // expected-error @+1 {{(C4) expected feedback for '!pmkvq.tile<key, 8,}}
  %r = pmkvq.shift %t : !k8 -> !k4
  return
}

// -----

// shift C4: some where it does not, and for values.
!k8 = !pmkvq.tile<key, 8, 128, 64, <per_channel, hadamard>>
!k4 = !pmkvq.tile<key, 4, 128, 64, <per_channel, hadamard>>
func.func @f(%t: !k8, %f: !pmkvq.feedback) {
  // expected-error @+1 {{(C4) expected no feedback for '!pmkvq.tile<key, 8,}}
  %r = pmkvq.shift %t feedback %f : !k8 -> !k4
  return
}

// -----

!v8 = !pmkvq.tile<value, 8, 128, 64, <per_token, hadamard, feedback>>
!v4 = !pmkvq.tile<value, 4, 128, 64, <per_token, hadamard, feedback>>
func.func @f(%t: !v8, %f: !pmkvq.feedback) {
  // expected-error @+1 {{(C4) expected no feedback for '!pmkvq.tile<value, 8,}}
  %r = pmkvq.shift %t feedback %f : !v8 -> !v4
  return
}

// -----

// shift C4: a unit's tile, which is no whole page.
!k8 = !pmkvq.tile<key, 8, 32, 64, <per_channel, hadamard, feedback>>
!k4 = !pmkvq.tile<key, 4, 32, 64, <per_channel, hadamard, feedback>>
func.func @f(%t: !k8, %f: !pmkvq.feedback) {
  // expected-error @+1 {{(C4) expected a whole page to fall with feedback, from 8 bits at most, got '!pmkvq.tile<key, 8, 32,}}
  %r = pmkvq.shift %t feedback %f : !k8 -> !k4
  return
}

// -----

// shift: keys of 16 bits have no codes to fall from.
!k16 = !pmkvq.tile<key, 16, 128, 64, <per_channel, hadamard, feedback>>
!k4 = !pmkvq.tile<key, 4, 128, 64, <per_channel, hadamard, feedback>>
func.func @f(%t: !k16, %f: !pmkvq.feedback) {
  // expected-error @+1 {{(C1) expected a tile of codes to a lower level}}
  %r = pmkvq.shift %t feedback %f : !k16 -> !k4
  return
}
