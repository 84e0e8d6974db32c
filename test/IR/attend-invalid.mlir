// Constraints of attend, flush and requantize, each violated once.
// RUN: pmkvq-opt %s -split-input-file -verify-diagnostics

// attend C1.
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64>
func.func @f(%c: !kv, %q: tensor<?x6x128xf32>, %b: !pmkvq.batch) {
  // expected-error @+1 {{(C1) expected queries of [?, query_heads, 64] in f32, got 'tensor<?x6x128xf32>'}}
  %r = pmkvq.attend %q, %c, %b scale 1.0 : tensor<?x6x128xf32>, !kv
  return
}

// -----

// attend C2: not a multiple, too many a kv head, not known, none.
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64>
func.func @f(%c: !kv, %q: tensor<?x5x64xf32>, %b: !pmkvq.batch) {
  // expected-error @+1 {{(C2) expected 1 to 16 query heads for each of 2 kv heads, got 5 query heads}}
  %r = pmkvq.attend %q, %c, %b scale 1.0 : tensor<?x5x64xf32>, !kv
  return
}

// -----

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64>
func.func @f(%c: !kv, %q: tensor<?x34x64xf32>, %b: !pmkvq.batch) {
  // expected-error @+1 {{(C2) expected 1 to 16 query heads for each of 2 kv heads, got 34 query heads}}
  %r = pmkvq.attend %q, %c, %b scale 1.0 : tensor<?x34x64xf32>, !kv
  return
}

// -----

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64>
func.func @f(%c: !kv, %q: tensor<?x?x64xf32>, %b: !pmkvq.batch) {
  // expected-error @+1 {{(C2) expected 1 to 16 query heads for each of 2 kv heads}}
  %r = pmkvq.attend %q, %c, %b scale 1.0 : tensor<?x?x64xf32>, !kv
  return
}

// -----

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64>
func.func @f(%c: !kv, %q: tensor<?x0x64xf32>, %b: !pmkvq.batch) {
  // expected-error @+1 {{(C2) expected 1 to 16 query heads for each of 2 kv heads, got 0 query heads}}
  %r = pmkvq.attend %q, %c, %b scale 1.0 : tensor<?x0x64xf32>, !kv
  return
}

// -----

// flush C1.
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_token>,
                   value = <per_token>, ladder = [16, 8]>
func.func @f(%c: !kv, %p: !pmkvq.pages) {
  // expected-error @+1 {{(C1) the ladder does not hold level 4}}
  %r = pmkvq.flush key %c, %p to 4 : !kv
  return
}

// -----

// flush C2.
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64>
func.func @f(%c: !kv, %p: !pmkvq.pages) {
  // expected-error @+1 {{(C2) expected a cache with formats}}
  %r = pmkvq.flush key %c, %p to 4 : !kv
  return
}

// -----

// requantize C1: a level is skipped, and the codes would widen.
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_token>, value = <per_token>>
func.func @f(%c: !kv, %p: !pmkvq.pages) {
  // expected-error @+1 {{(C1) expected a level of half of 8, got 2}}
  %r = pmkvq.requantize key %c, %p from 8 to 2 : !kv
  return
}

// -----

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_token>, value = <per_token>>
func.func @f(%c: !kv, %p: !pmkvq.pages) {
  // expected-error @+1 {{(C1) expected a level of half of 4, got 8}}
  %r = pmkvq.requantize key %c, %p from 4 to 8 : !kv
  return
}

// -----

// requantize C2: the source, and the target, is not on the ladder.
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_token>,
                   value = <per_token>, ladder = [8, 4]>
func.func @f(%c: !kv, %p: !pmkvq.pages) {
  // expected-error @+1 {{(C2) the ladder does not hold level 16}}
  %r = pmkvq.requantize key %c, %p from 16 to 8 : !kv
  return
}

// -----

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_token>,
                   value = <per_token>, ladder = [8, 4]>
func.func @f(%c: !kv, %p: !pmkvq.pages) {
  // expected-error @+1 {{(C2) the ladder does not hold level 2}}
  %r = pmkvq.requantize key %c, %p from 4 to 2 : !kv
  return
}

// -----

// requantize C3.
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64>
func.func @f(%c: !kv, %p: !pmkvq.pages) {
  // expected-error @+1 {{(C3) expected a cache with formats}}
  %r = pmkvq.requantize key %c, %p from 8 to 4 : !kv
  return
}
