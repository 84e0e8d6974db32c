// RUN: pmkvq-opt %s --pmkvq-set-schedule | FileCheck %s --check-prefixes=CHECK,DEFAULT
// RUN: pmkvq-opt %s --pmkvq-set-schedule="key-floor=4 value-floor=2 budget=268435456" | FileCheck %s --check-prefixes=CHECK,FLOORS
// RUN: pmkvq-opt %s --pmkvq-set-schedule="key-floor=8 value-floor=8" | FileCheck %s --check-prefixes=CHECK,EIGHT
// RUN: pmkvq-opt %s --pmkvq-set-schedule="schedule=none key-floor=8 value-floor=4" | FileCheck %s --check-prefixes=CHECK,NONE

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64>

// Both floors and the budget are attributes of every create.
// CHECK-LABEL: func @create
func.func @create() -> (!kv, !kv) {
  // DEFAULT: pmkvq.create layer 0 max_tokens 128 schedule <keys_last, key_floor = 2, value_floor = 2> : <kv_heads = 2, head_dim = 64>
  // FLOORS: pmkvq.create layer 0 max_tokens 128 schedule <keys_last, key_floor = 4, value_floor = 2> budget 268435456 : <kv_heads = 2, head_dim = 64>
  // EIGHT: pmkvq.create layer 0 max_tokens 128 schedule <keys_last, key_floor = 8, value_floor = 8> : <kv_heads = 2, head_dim = 64, ladder = [16, 8]>
  // NONE: pmkvq.create layer 0 max_tokens 128 schedule <none, key_floor = 8, value_floor = 4> : <kv_heads = 2, head_dim = 64, ladder = [8, 4]>
  %0 = pmkvq.create layer 0 max_tokens 128 : !kv
  // FLOORS: pmkvq.create layer 1 max_tokens 128 schedule <keys_last, key_floor = 4, value_floor = 2> budget 268435456
  %1 = pmkvq.create layer 1 max_tokens 128 : !kv
  return %0, %1 : !kv, !kv
}

// The ladder is narrowed in functions' types and in operands alike.
// CHECK-LABEL: func @append
// EIGHT-SAME: (%[[C:.*]]: !pmkvq.cache<kv_heads = 2, head_dim = 64, ladder = [16, 8]>
// EIGHT-SAME: -> !pmkvq.cache<kv_heads = 2, head_dim = 64, ladder = [16, 8]>
func.func @append(%c: !kv, %k: tensor<?x2x64xf32>, %b: !pmkvq.batch) -> !kv {
  // EIGHT: pmkvq.append %[[C]], {{.*}} : <kv_heads = 2, head_dim = 64, ladder = [16, 8]>
  %r = pmkvq.append %c, %k, %k, %b : !kv, tensor<?x2x64xf32>
  return %r : !kv
}
