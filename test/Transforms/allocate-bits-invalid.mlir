// RUN: pmkvq-opt %s --split-input-file --verify-diagnostics --pmkvq-allocate-bits="tokens=257"

!kv = !pmkvq.cache<kv_heads = 1, head_dim = 64, key = <per_channel>, value = <per_token>>

// Nothing to go by.
func.func @create() {
  // expected-error @+1 {{expected a calibration with the loss of the key in layer 0, got none; give one or keep the layer's floors}}
  %0 = pmkvq.create layer 0 max_tokens 4096
    schedule <page, key_floor = 2, value_floor = 2> budget 82064
    calibration <key_clip = 0.77> : !kv
  return
}

// -----

!kv = !pmkvq.cache<kv_heads = 1, head_dim = 64, key = <per_channel>, value = <per_token>>

// One part alone.
func.func @create() {
  // expected-error @+1 {{expected a calibration with the loss of the value in layer 0}}
  %0 = pmkvq.create layer 0 max_tokens 4096
    schedule <page, key_floor = 2, value_floor = 2> budget 82064
    calibration <key_loss = [0.0, 0.1, 1.0]> : !kv
  return
}

// -----

!kv = !pmkvq.cache<kv_heads = 1, head_dim = 64, key = <per_channel>, value = <per_token>>

// Nothing to keep to.
func.func @create() {
  // expected-error @+1 {{expected a budget, the same for all layers, to allocate}}
  %0 = pmkvq.create layer 0 max_tokens 4096
    schedule <page, key_floor = 2, value_floor = 2>
    calibration <key_loss = [0.0, 0.1, 1.0], value_loss = [0.0, 0.1, 1.0]> : !kv
  return
}

// -----

// No formats.
func.func @create() {
  // expected-error @+1 {{expected a cache with formats and a schedule; run pmkvq-set-schedule and pmkvq-set-formats first}}
  %0 = pmkvq.create layer 0 max_tokens 4096 budget 82064 : !pmkvq.cache<kv_heads = 1, head_dim = 64>
  return
}

// -----

!kv = !pmkvq.cache<kv_heads = 1, head_dim = 64, key = <per_channel>, value = <per_token>>

// Too little at 4 bits: eight blocks beside 67,728 bytes of everything else.
func.func @create() {
  // expected-error @+1 {{the budget is too small: a page of every layer takes at least 8 blocks at the lowest levels, the budget holds 7}}
  %0 = pmkvq.create layer 0 max_tokens 4096
    schedule <layer, key_floor = 4, value_floor = 4> budget 84111
    calibration <key_loss = [0.0, 0.1, 1.0], value_loss = [0.0, 0.1, 1.0]> : !kv
  %1 = pmkvq.create layer 1 max_tokens 4096
    schedule <layer, key_floor = 4, value_floor = 4> budget 84111
    calibration <key_loss = [0.0, 0.1, 1.0], value_loss = [0.0, 0.1, 1.0]> : !kv
  return
}

// -----

!kv = !pmkvq.cache<kv_heads = 1, head_dim = 64, key = <per_channel>, value = <per_token>>

func.func @create() {
  // expected-error @+1 {{expected layers in order, here 0, got 1}}
  %0 = pmkvq.create layer 1 max_tokens 4096
    schedule <page, key_floor = 2, value_floor = 2> budget 164128
    calibration <key_loss = [0.0, 0.1, 1.0], value_loss = [0.0, 0.1, 1.0]> : !kv
  return
}
