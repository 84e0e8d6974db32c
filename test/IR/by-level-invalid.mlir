// Constraints of by_level, quantize and shift, each violated once.
// RUN: pmkvq-opt %s -split-input-file -verify-diagnostics

// by_level C1: a level of the ladder has no region.
!page = !pmkvq.page<<kv_heads = 2, head_dim = 64, key = <per_channel>,
                     value = <per_token>, ladder = [4, 2]>>
func.func @f(%p: !page) {
  // expected-error @+1 {{(C1) expected 2 regions, one a level, got 1}}
  pmkvq.by_level key %p : !page {
  ^bb0(%t: !pmkvq.tile<key, 4, 128, 64, <per_channel>>):
    pmkvq.yield
  }
  return
}

// -----

// by_level C2: another level's tile, the other part's tile, no tile.
!page = !pmkvq.page<<kv_heads = 2, head_dim = 64, key = <per_channel>,
                     value = <per_token>, ladder = [4]>>
func.func @f(%p: !page) {
  // expected-error @+1 {{(C2) expected the region of level 4 to take '!pmkvq.tile<key, 4, 128, 64, <per_channel>>'}}
  pmkvq.by_level key %p : !page {
  ^bb0(%t: !pmkvq.tile<key, 8, 128, 64, <per_channel>>):
    pmkvq.yield
  }
  return
}

// -----

!page = !pmkvq.page<<kv_heads = 2, head_dim = 64, key = <per_channel>,
                     value = <per_token>, ladder = [4]>>
func.func @f(%p: !page) {
  // expected-error @+1 {{(C2) expected the region of level 4 to take '!pmkvq.tile<value, 4, 128, 64, <per_token>>'}}
  pmkvq.by_level value %p : !page {
  ^bb0(%t: !pmkvq.tile<key, 4, 128, 64, <per_channel>>):
    pmkvq.yield
  }
  return
}

// -----

!page = !pmkvq.page<<kv_heads = 2, head_dim = 64, key = <per_channel>,
                     value = <per_token>, ladder = [4]>>
func.func @f(%p: !page) {
  // expected-error @+1 {{(C2) expected the region of level 4 to take}}
  pmkvq.by_level key %p : !page {
    pmkvq.yield
  }
  return
}

// -----

// by_level C2: a page without formats.
!page = !pmkvq.page<<kv_heads = 2, head_dim = 64, ladder = [4]>>
func.func @f(%p: !page) {
  // expected-error @+1 {{(C2) expected a page of a cache with formats}}
  pmkvq.by_level key %p : !page {
  ^bb0(%t: !pmkvq.tile<key, 4, 128, 64, <per_channel>>):
    pmkvq.yield
  }
  return
}

// -----

// by_level C3.
!page = !pmkvq.page<<kv_heads = 2, head_dim = 64, key = <per_channel>,
                     value = <per_token>, ladder = [4]>>
func.func @f(%p: !page) {
  // expected-error @+1 {{(C3) expected the region of level 4 to yield 'i1'}}
  %r = pmkvq.by_level key %p : !page -> i1 {
  ^bb0(%t: !pmkvq.tile<key, 4, 128, 64, <per_channel>>):
    pmkvq.yield
  }
  return
}

// -----

// by_level: a region without a block.
!page = !pmkvq.page<<kv_heads = 2, head_dim = 64, key = <per_channel>,
                     value = <per_token>, ladder = [4]>>
func.func @f(%p: !page) {
  // expected-error @+1 {{region #0 ('levels') failed to verify constraint: region with 1 blocks}}
  "pmkvq.by_level"(%p) <{part = #pmkvq<part key>}> ({}) : (!page) -> ()
  return
}

// -----

// quantize C1: not from level 16, and another part.
!k8 = !pmkvq.tile<key, 8, 128, 64, <per_channel>>
func.func @f(%t: !k8) {
  // expected-error @+1 {{(C1) expected a raw tile to the first level of a format}}
  %r, %ok = pmkvq.quantize %t : !k8 -> !k8
  return
}

// -----

!k16 = !pmkvq.tile<key, 16, 128, 64, <per_channel>>
!v8 = !pmkvq.tile<value, 8, 128, 64, <per_channel>>
func.func @f(%t: !k16) {
  // expected-error @+1 {{(C1) expected a raw tile to the first level of a format}}
  %r, %ok = pmkvq.quantize %t : !k16 -> !v8
  return
}

// -----

// shift C1: from raw values, upwards, to another format.
!k16 = !pmkvq.tile<key, 16, 128, 64, <per_channel>>
!k8 = !pmkvq.tile<key, 8, 128, 64, <per_channel>>
func.func @f(%t: !k16) {
  // expected-error @+1 {{(C1) expected a tile of codes to a lower level}}
  %r = pmkvq.shift %t : !k16 -> !k8
  return
}

// -----

!k8 = !pmkvq.tile<key, 8, 128, 64, <per_channel>>
!k2 = !pmkvq.tile<key, 2, 128, 64, <per_channel>>
func.func @f(%t: !k2) {
  // expected-error @+1 {{(C1) expected a tile of codes to a lower level}}
  %r = pmkvq.shift %t : !k2 -> !k8
  return
}

// -----

!k8 = !pmkvq.tile<key, 8, 128, 64, <per_channel>>
!t4 = !pmkvq.tile<key, 4, 128, 64, <per_token>>
func.func @f(%t: !k8) {
  // expected-error @+1 {{(C1) expected a tile of codes to a lower level}}
  %r = pmkvq.shift %t : !k8 -> !t4
  return
}
