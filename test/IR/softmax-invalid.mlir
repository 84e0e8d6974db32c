// Constraints of masks and softmax states, each violated once.
// RUN: pmkvq-opt %s -split-input-file -verify-diagnostics

// causal_mask C1.
!p = !pmkvq.rows<6, 128>
func.func @f(%p: !p, %i: index) {
  // expected-error @+1 {{(C1) expected a group that divides 6 queries, got 0}}
  %r = pmkvq.causal_mask %p visible %i group 0 : !p
  return
}

// -----

// softmax_update C1.
!p = !pmkvq.rows<3, 128>
!s = !pmkvq.softmax<6, 64>
func.func @f(%p: !p, %s: !s) {
  // expected-error @+1 {{(C1) expected 6 rows, got '!pmkvq.rows<3, 128>'}}
  %n, %w = pmkvq.softmax_update %s, %p : !s, !p
  return
}

// -----

// softmax_update C2.
!p = !pmkvq.rows<6, 128>
!s = !pmkvq.softmax<6, 64>
func.func @f(%p: !p, %s: !s, %b: !pmkvq.batch, %i: index) {
  // expected-error @+1 {{(C2) expected the state to have no other use}}
  %n, %w = pmkvq.softmax_update %s, %p : !s, !p
  pmkvq.store_partial %s, %b[%i] : !s
  return
}

// -----

// accumulate C1: a tile of keys, and weights of another width.
!p = !pmkvq.rows<6, 64>
!s = !pmkvq.softmax<6, 64>
!t = !pmkvq.tile<key, 4, 128, 64, <per_channel>>
func.func @f(%p: !p, %s: !s, %t: !t) {
  // expected-error @+1 {{(C1) expected a tile of values}}
  %n = pmkvq.accumulate %s, %p, %t : !s, !p, !t
  return
}

// -----

!p = !pmkvq.rows<6, 64>
!s = !pmkvq.softmax<6, 64>
!t = !pmkvq.tile<value, 4, 128, 64, <per_token>>
func.func @f(%p: !p, %s: !s, %t: !t) {
  // expected-error @+1 {{(C1) expected rows of 128 elements, got '!pmkvq.rows<6, 64>'}}
  %n = pmkvq.accumulate %s, %p, %t : !s, !p, !t
  return
}

// -----

// accumulate C2: in one block; exclusive regions may each use a state.
!p = !pmkvq.rows<6, 128>
!s = !pmkvq.softmax<6, 64>
!t = !pmkvq.tile<value, 4, 128, 64, <per_token>>
func.func @f(%p: !p, %s: !s, %t: !t, %c: i1) {
  %r = scf.if %c -> !s {
    // expected-error @+1 {{(C2) expected the state to have no other use}}
    %n = pmkvq.accumulate %s, %p, %t : !s, !p, !t
    %again = pmkvq.accumulate %s, %p, %t : !s, !p, !t
    scf.yield %n : !s
  } else {
    scf.yield %s : !s
  }
  return
}

// -----

// softmax_add C1.
!q = !pmkvq.rows<6, 128>
!s = !pmkvq.softmax<6, 64>
func.func @f(%q: !q, %s: !s) {
  // expected-error @+1 {{(C1) expected rows of 6 x 64, got '!pmkvq.rows<6, 128>'}}
  %n = pmkvq.softmax_add %s, %q : !s, !q
  return
}

// -----

// softmax_add C2 and merge_partial C1.
!q = !pmkvq.rows<6, 64>
!s = !pmkvq.softmax<6, 64>
func.func @f(%q: !q, %s: !s, %b: !pmkvq.batch, %i: index) {
  // expected-error @+1 {{(C2) expected the state to have no other use}}
  %n = pmkvq.softmax_add %s, %q : !s, !q
  pmkvq.store_partial %s, %b[%i] : !s
  return
}

// -----

!s = !pmkvq.softmax<6, 64>
func.func @f(%s: !s, %b: !pmkvq.batch, %i: index) {
  // expected-error @+1 {{(C1) expected the state to have no other use}}
  %n = pmkvq.merge_partial %s, %b[%i] : !s
  pmkvq.store_partial %s, %b[%i] : !s
  return
}

// -----

// softmax_finish C1.
!s = !pmkvq.softmax<6, 64>
func.func @f(%s: !s) {
  // expected-error @+1 {{(C1) expected rows of 6 x 64, got '!pmkvq.rows<3, 64>'}}
  %r = pmkvq.softmax_finish %s : !s -> !pmkvq.rows<3, 64>
  return
}
