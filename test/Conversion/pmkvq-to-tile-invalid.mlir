// RUN: pmkvq-opt %s --split-input-file --verify-diagnostics --convert-pmkvq-to-tile

// Caches must have formats: append, attend, create.
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64>
func.func @f(%c: !kv, %k: tensor<?x2x64xf32>, %b: !pmkvq.batch) {
  // expected-error @+1 {{expected a cache with formats; run pmkvq-set-formats first}}
  %r = pmkvq.append %c, %k, %k, %b : !kv, tensor<?x2x64xf32>
  return
}

// -----

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64>
func.func @f(%c: !kv, %q: tensor<?x2x64xf32>, %b: !pmkvq.batch) {
  // expected-error @+1 {{expected a cache with formats; run pmkvq-set-formats first}}
  %r = pmkvq.attend %q, %c, %b scale 1.0 : tensor<?x2x64xf32>, !kv
  return
}

// -----

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64>
func.func @create() -> !kv {
  // expected-error @+1 {{expected a cache with formats; run pmkvq-set-formats first}}
  %c = pmkvq.create layer 0 max_tokens 128 : !kv
  return %c : !kv
}

// -----

// Creates lie in one function of their own.
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_token>, value = <per_token>>
// expected-error @+1 {{expected one function of its own for all creates of the module}}
%c = pmkvq.create layer 0 max_tokens 128 schedule <page, key_floor = 2, value_floor = 2> : !kv

// -----

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_token>, value = <per_token>>
func.func @inline(%q: tensor<?x2x64xf32>, %b: !pmkvq.batch) {
  // expected-error @+1 {{expected one function of its own for all creates of the module}}
  %c = pmkvq.create layer 0 max_tokens 128 schedule <page, key_floor = 2, value_floor = 2> : !kv
  %r = pmkvq.attend %q, %c, %b scale 1.0 : tensor<?x2x64xf32>, !kv
  return
}

// -----

// Layers are numbered as they come.
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_token>, value = <per_token>>
func.func @create() {
  %0 = pmkvq.create layer 0 max_tokens 128 schedule <page, key_floor = 2, value_floor = 2> : !kv
  // expected-error @+1 {{expected layers in order, here 1, got 0}}
  %1 = pmkvq.create layer 0 max_tokens 128 schedule <page, key_floor = 2, value_floor = 2> : !kv
  return
}

// -----

// Caches agree.
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_token>, value = <per_token>>
func.func @create() {
  %0 = pmkvq.create layer 0 max_tokens 128 schedule <page, key_floor = 2, value_floor = 2> : !kv
  // expected-error @+1 {{expected type, max_tokens, schedule but for floors, and budget of layer 0}}
  %1 = pmkvq.create layer 1 max_tokens 256 schedule <page, key_floor = 2, value_floor = 2> : !kv
  return
}

// -----

// A page function holds one op.
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_token>, value = <per_token>>
func.func @twice(%c: !kv, %p: !pmkvq.pages) -> !kv {
  // expected-error @+1 {{expected a function of its own}}
  %0 = pmkvq.flush key %c, %p to 8 : !kv
  %1 = pmkvq.requantize key %0, %p from 8 to 4 : !kv
  return %1 : !kv
}

// -----

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_token>, value = <per_token>>
pmkvq.kernel @kernel(%c: !kv, %p: !pmkvq.pages, %task: index) -> i1 {
  // expected-error @+1 {{expected a function of its own}}
  %0 = pmkvq.flush key %c, %p to 8 : !kv
  %ok = arith.constant true
  pmkvq.return %ok
}
