// RUN: not pmkvq-opt %s --pmkvq-set-schedule=schedule=weekly 2>&1 | FileCheck %s --check-prefix=KIND
// RUN: not pmkvq-opt %s --pmkvq-set-schedule=value-floor=3 2>&1 | FileCheck %s --check-prefix=FLOOR
// RUN: not pmkvq-opt %s --pmkvq-set-schedule="schedule=layer value-floor=1" 2>&1 | FileCheck %s --check-prefix=PAIRS
// RUN: not pmkvq-opt %s --pmkvq-set-schedule=budget=-1 2>&1 | FileCheck %s --check-prefix=BUDGET
// RUN: not pmkvq-opt %s --pmkvq-set-schedule="key-floor=8 value-floor=8" 2>&1 | FileCheck %s --check-prefix=LEVEL

// KIND: error: (C2) unknown schedule 'weekly', expected one of: keys_last, layer, least_loss, none, page
// FLOOR: error: (C1) expected a floor of 16, 8, 4, 2 or 1 for values, got 3
// PAIRS: error: (C3) expected a schedule that lowers values to 1 bit in pairs, page, keys_last or least_loss, got layer
// BUDGET: error: expected a budget of at least 0 bytes, got -1

// An op that needs a level below the floor is refused.
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_token>, value = <per_token>>
func.func @flush(%c: !kv, %p: !pmkvq.pages) -> !kv {
  // LEVEL: error: 'pmkvq.flush' op (C1) the ladder does not hold level 4
  %r = pmkvq.flush key %c, %p to 4 : !kv
  return %r : !kv
}
