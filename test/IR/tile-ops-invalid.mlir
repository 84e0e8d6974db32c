// Constraints of the ops on pages and tiles, and of products, each violated once.
// RUN: pmkvq-opt %s -split-input-file -verify-diagnostics

// fetch: the page is one of another cache.
!page = !pmkvq.page<<kv_heads = 4, head_dim = 64>>
func.func @f(%c: !pmkvq.cache<kv_heads = 2, head_dim = 64>, %i: index) {
  // expected-error @+2 {{expects different type than prior uses}}
  // expected-note @-2 {{prior use here}}
  %p = pmkvq.fetch %c[%i, %i, %i] : !page
  return
}

// -----

// take C1: another format than the cache's.
!page = !pmkvq.page<<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>>>
func.func @f(%p: !page) {
  // expected-error @+1 {{(C1) expected a whole part of a page of}}
  %t = pmkvq.take %p : !page -> !pmkvq.tile<key, 4, 128, 64, <per_token>>
  return
}

// -----

// take C1: a page without formats has no parts to take.
!page = !pmkvq.page<<kv_heads = 2, head_dim = 64>>
func.func @f(%p: !page) {
  // expected-error @+1 {{(C1) expected a whole part of a page of}}
  %t = pmkvq.take %p : !page -> !pmkvq.tile<key, 4, 128, 64, <per_token>>
  return
}

// -----

// take C2.
!page = !pmkvq.page<<kv_heads = 2, head_dim = 64, key = <per_channel>,
                     value = <per_token>, ladder = [4, 2]>>
func.func @f(%p: !page) {
  // expected-error @+1 {{(C2) the ladder does not hold level 8}}
  %t = pmkvq.take %p : !page -> !pmkvq.tile<key, 8, 128, 64, <per_channel>>
  return
}

// -----

// fetch_fixed C1: a tile with a format.
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>>
func.func @f(%c: !kv, %i: index) {
  // expected-error @+1 {{(C1) expected a tile without a format and with the cache's head_dim}}
  %t = pmkvq.fetch_fixed %c[%i, %i] from %i count %i
    : !kv -> !pmkvq.tile<key, 8, 128, 64, <per_channel>>
  return
}

// -----

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64>
func.func @f(%c: !kv, %i: index) {
  // expected-error @+1 {{(C1) expected a tile without a format and with the cache's head_dim}}
  %t = pmkvq.fetch_fixed %c[%i, %i] from %i count %i
    : !kv -> !pmkvq.tile<key, 16, 128, 64, <per_channel>>
  return
}

// -----

// store C1.
!page = !pmkvq.page<<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>>>
!t = !pmkvq.tile<value, 4, 128, 128, <per_token>>
func.func @f(%p: !page, %t: !t) {
  // expected-error @+1 {{(C1) expected a whole part of a page of}}
  pmkvq.store %t, %p : !t, !page
  return
}

// -----

// contract C1: the rows, and the result.
!q = !pmkvq.rows<6, 128>
!t = !pmkvq.tile<key, 4, 128, 64, <per_channel>>
func.func @f(%q: !q, %t: !t) {
  // expected-error @+1 {{(C1) expected rows of 64 elements, got '!pmkvq.rows<6, 128>'}}
  %r = pmkvq.contract %q, %t : !q, !t -> !q
  return
}

// -----

!q = !pmkvq.rows<6, 64>
!t = !pmkvq.tile<key, 4, 128, 64, <per_channel>>
func.func @f(%q: !q, %t: !t) {
  // expected-error @+1 {{(C1) expected a result of '!pmkvq.rows<6, 128>', got '!pmkvq.rows<6, 64>'}}
  %r = pmkvq.contract %q, %t : !q, !t -> !q
  return
}

// -----

// scores C1: a tile of values, and queries of another width.
!p = !pmkvq.rows<6, 128>
!t = !pmkvq.tile<value, 4, 128, 64, <per_token>>
func.func @f(%p: !p, %t: !t) {
  // expected-error @+1 {{(C1) expected a tile of keys}}
  %r = pmkvq.scores %p, %t : !p, !t -> !pmkvq.rows<6, 64>
  return
}

// -----

!p = !pmkvq.rows<6, 128>
!t = !pmkvq.tile<key, 4, 128, 64, <per_channel>>
func.func @f(%p: !p, %t: !t) {
  // expected-error @+1 {{(C1) expected rows of 64 elements}}
  %r = pmkvq.scores %p, %t : !p, !t -> !p
  return
}

// -----

// C3: what lies ahead has the type of the source.
func.func @f(%t: !pmkvq.tile<key, 8, 128, 64, <per_channel>>, %a: !pmkvq.tile<key, 4, 128, 64, <per_channel>>) {
  // expected-error @+1 {{`ahead` has the type of the source}}
  %r = "pmkvq.shift"(%t, %a) {operandSegmentSizes = array<i32: 1, 1, 0>} : (!pmkvq.tile<key, 8, 128, 64, <per_channel>>, !pmkvq.tile<key, 4, 128, 64, <per_channel>>) -> !pmkvq.tile<key, 4, 128, 64, <per_channel>>
  return
}
