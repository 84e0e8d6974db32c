// Floors of single layers.
// RUN: pmkvq-opt %s --pmkvq-set-schedule="layer-floors=0-1:8,2:4+2" | FileCheck %s --check-prefix=ALL
// RUN: pmkvq-opt %s --pmkvq-set-schedule="schedule=none key-floor=4 value-floor=4 layer-floors=1:8+4" | FileCheck %s --check-prefix=NONE
// RUN: not pmkvq-opt %s --pmkvq-set-schedule="layer-floors=0-3:8" 2>&1 | FileCheck %s --check-prefix=BEYOND
// RUN: not pmkvq-opt %s --pmkvq-set-schedule="layer-floors=0:5" 2>&1 | FileCheck %s --check-prefix=LEVEL

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64>

// BEYOND: error: layer-floors: expected layers of the program, got '0-3:8'
// LEVEL: error: layer-floors: expected layers and 16, 8, 4 or 2 bits, like 0-3:8, or those of keys and values, like 5:4+2, got '0:5'

func.func @create() {
  // ALL: layer 0 {{.*}}<keys_last, key_floor = 8, value_floor = 8> : <kv_heads = 2, head_dim = 64>
  // NONE: layer 0 {{.*}}<none, key_floor = 4, value_floor = 4> : <kv_heads = 2, head_dim = 64, ladder = [8, 4]>
  %0 = pmkvq.create layer 0 max_tokens 128 : !kv
  // ALL: layer 1 {{.*}}<keys_last, key_floor = 8, value_floor = 8>
  // NONE: layer 1 {{.*}}<none, key_floor = 8, value_floor = 4> : <kv_heads = 2, head_dim = 64, ladder = [8, 4]>
  %1 = pmkvq.create layer 1 max_tokens 128 : !kv
  // ALL: layer 2 {{.*}}<keys_last, key_floor = 4, value_floor = 2>
  // NONE: layer 2 {{.*}}<none, key_floor = 4, value_floor = 4>
  %2 = pmkvq.create layer 2 max_tokens 128 : !kv
  return
}
