// RUN: pmkvq-opt %s --pmkvq-apply-calibration -split-input-file -verify-diagnostics

// A clip needs a format to go to.
func.func @create() {
  // expected-error @+1 {{expected a cache with formats; run pmkvq-set-formats first}}
  %0 = pmkvq.create layer 0 max_tokens 128 calibration <key_clip = 0.77>
    : !pmkvq.cache<kv_heads = 2, head_dim = 64>
  return
}

// -----

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>>

// A step without the layer's cache.
func.func @create() {
  %0 = pmkvq.create layer 0 max_tokens 128
    schedule <page, key_floor = 2, value_floor = 2> : !kv
  %1 = pmkvq.create layer 1 max_tokens 128
    schedule <page, key_floor = 2, value_floor = 2>
    calibration <key_clip = 0.77> : !kv
  return
}
// expected-error @+1 {{expected one cache a create, got 1}}
func.func @step(%c: !kv) {
  return
}

// -----

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>>

// An op that the pass cannot look into.
func.func @create() {
  %0 = pmkvq.create layer 0 max_tokens 128
    schedule <page, key_floor = 2, value_floor = 2>
    calibration <key_clip = 0.77> : !kv
  return
}
func.func @step(%c: !kv, %p: !pmkvq.pages) {
  // expected-error @+1 {{takes a calibrated cache; expected only append, attend and return to}}
  %0 = pmkvq.requantize key %c, %p from 8 to 4 : !kv
  return
}
