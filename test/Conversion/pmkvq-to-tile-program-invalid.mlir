// Ops that are right alone but do not fit together.
// RUN: pmkvq-opt %s --convert-pmkvq-to-tile -split-input-file -verify-diagnostics

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>>

// A cache is used after an append to it.
func.func @stale(%c: !kv, %q: tensor<?x2x64xf32>, %k: tensor<?x2x64xf32>, %b: !pmkvq.batch) -> tensor<?x2x64xf32> {
  %r = pmkvq.append %c, %k, %k, %b : !kv, tensor<?x2x64xf32>
  // expected-error @+1 {{uses a cache after an append to it}}
  %o = pmkvq.attend %q, %c, %b scale 1.0 : tensor<?x2x64xf32>, !kv
  return %o : tensor<?x2x64xf32>
}

// -----

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>>

// Two appends to one cache.
func.func @twice(%c: !kv, %k: tensor<?x2x64xf32>, %b: !pmkvq.batch) {
  %r = pmkvq.append %c, %k, %k, %b : !kv, tensor<?x2x64xf32>
  // expected-error @+1 {{uses a cache after an append to it}}
  %s = pmkvq.append %c, %k, %k, %b : !kv, tensor<?x2x64xf32>
  return
}

// -----

!a = !pmkvq.cache<kv_heads = 4, head_dim = 64, key = <per_channel>, value = <per_token>>
!b = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>>

func.func @create() -> !a {
  %c = pmkvq.create layer 0 max_tokens 64 schedule <page, key_floor = 2, value_floor = 2> : !a
  return %c : !a
}
func.func @other_type(%c: !b, %k: tensor<?x2x64xf32>, %b: !pmkvq.batch) {
  // expected-error @+1 {{expected all caches of a program to have one type but for clips}}
  %r = pmkvq.append %c, %k, %k, %b : !b, tensor<?x2x64xf32>
  return
}

// -----

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>>

func.func @other_heads(%c: !kv, %q: tensor<?x4x64xf32>, %p: tensor<?x2x64xf32>, %b: !pmkvq.batch) {
  %o = pmkvq.attend %q, %c, %b scale 1.0 : tensor<?x4x64xf32>, !kv
  // expected-error @+1 {{expected 4 query heads as the program's first attend, got 2}}
  %s = pmkvq.attend %p, %c, %b scale 1.0 : tensor<?x2x64xf32>, !kv
  return
}

// -----

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>>

func.func @create() -> !kv {
  %c = pmkvq.create layer 0 max_tokens 64 schedule <page, key_floor = 2, value_floor = 2> : !kv
  return %c : !kv
}
// expected-error @+1 {{expected 1 caches, one a create, got 2}}
func.func @step(%b: !pmkvq.batch, %c: !kv, %d: !kv) -> (!kv, !kv) {
  return %c, %d : !kv, !kv
}

// -----

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>>

func.func @create() -> (!kv, !kv) {
  %c = pmkvq.create layer 0 max_tokens 64 schedule <page, key_floor = 2, value_floor = 2> : !kv
  %d = pmkvq.create layer 1 max_tokens 64 schedule <page, key_floor = 2, value_floor = 2> : !kv
  return %c, %d : !kv, !kv
}
func.func @step(%b: !pmkvq.batch, %c: !kv, %d: !kv) -> (!kv, !kv) {
  // expected-error @+1 {{expected the step's caches in the order of its arguments}}
  return %d, %c : !kv, !kv
}
