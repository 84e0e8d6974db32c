// RUN: pmkvq-opt %s --split-input-file --verify-diagnostics --pmkvq-add-page-functions

// The formats are not chosen.
func.func @f() {
  // expected-error @+1 {{expected formats and a schedule; run pmkvq-set-formats and pmkvq-set-schedule}}
  %c = pmkvq.create layer 0 max_tokens 128 : !pmkvq.cache<kv_heads = 2, head_dim = 64>
  return
}

// -----

// Two types.
!a = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>>
!b = !pmkvq.cache<kv_heads = 4, head_dim = 64, key = <per_channel>, value = <per_token>>
func.func @f() {
  %0 = pmkvq.create layer 0 max_tokens 128 schedule <page, key_floor = 2, value_floor = 2> : !a
  // expected-error @+1 {{expected type but for clips, schedule but for floors, and budget of layer 0}}
  %1 = pmkvq.create layer 1 max_tokens 128 schedule <page, key_floor = 2, value_floor = 2> : !b
  return
}

// -----

// Two schedules.
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>>
func.func @f() {
  %0 = pmkvq.create layer 0 max_tokens 128 schedule <page, key_floor = 2, value_floor = 2> : !kv
  // expected-error @+1 {{expected type but for clips, schedule but for floors, and budget of layer 0}}
  %1 = pmkvq.create layer 1 max_tokens 128 schedule <layer, key_floor = 2, value_floor = 2> : !kv
  return
}

// -----

// Two budgets.
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>>
func.func @f() {
  %0 = pmkvq.create layer 0 max_tokens 128 schedule <page, key_floor = 2, value_floor = 2> budget 1048576 : !kv
  // expected-error @+1 {{expected type but for clips, schedule but for floors, and budget of layer 0}}
  %1 = pmkvq.create layer 1 max_tokens 128 schedule <page, key_floor = 2, value_floor = 2> budget 2097152 : !kv
  return
}
