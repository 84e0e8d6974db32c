// What the user decides reaches the planned caches.
// RUN: pmkvq-opt %s --pmkvq-stage-plan="key=<per_token> value=<per_token,hadamard> key-floor=4 value-floor=4 budget=1048576" | FileCheck %s --check-prefix=DEFAULT
// RUN: pmkvq-opt %s --pmkvq-stage-plan="schedule=none key-floor=8 value-floor=8" | FileCheck %s --check-prefix=NONE
// RUN: pmkvq-opt %s --pmkvq-stage-plan --pmkvq-stage-tile --pmkvq-stage-fold --pmkvq-stage-vector --pmkvq-stage-buffers --pmkvq-stage-host --pmkvq-stage-llvm | FileCheck %s --check-prefix=LLVM

// DEFAULT: pmkvq.create {{.*}} schedule <keys_last, key_floor = 4, value_floor = 4> budget 1048576
// DEFAULT-SAME: key = <per_token>, value = <per_token, hadamard>, ladder = [16, 8, 4]>
// DEFAULT: func @requantize_key_8_4
// DEFAULT-NOT: func @{{.*}}_2
// NONE: pmkvq.create {{.*}} schedule <none, key_floor = 8, value_floor = 8>
// NONE-SAME: ladder = [8]>
// NONE: func @flush_key_8
// NONE-NOT: func @requantize

// A module without a step has a description and page kernels.
// LLVM-DAG: llvm.func @pmkvq_describe
// LLVM-DAG: llvm.func @pmkvq_flush_value_2
func.func @create() -> !pmkvq.cache<kv_heads = 2, head_dim = 64> {
  %c = pmkvq.create layer 0 max_tokens 128 : !pmkvq.cache<kv_heads = 2, head_dim = 64>
  return %c : !pmkvq.cache<kv_heads = 2, head_dim = 64>
}
