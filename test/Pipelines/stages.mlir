// A step through every stage, each fed with what the one before wrote.
//
// RUN: pmkvq-opt --pmkvq-stage-plan %S/Inputs/step.mlir -o %t.plan
// RUN: FileCheck %s --check-prefix=PLAN --input-file=%t.plan
// RUN: pmkvq-opt --pmkvq-stage-tile %t.plan -o %t.tile
// RUN: FileCheck %s --check-prefix=TILE --input-file=%t.tile --implicit-check-not="pmkvq.{{append|attend |flush|requantize|create}}"
// RUN: pmkvq-opt --pmkvq-stage-fold %t.tile -o %t.fold
// RUN: FileCheck %s --check-prefix=FOLD --input-file=%t.fold --implicit-check-not="pmkvq.{{scores|accumulate}}"
// RUN: pmkvq-opt --pmkvq-stage-vector %t.fold -o %t.vector
// RUN: FileCheck %s --check-prefix=VECTOR --input-file=%t.vector --implicit-check-not="pmkvq.{{kernel|contract|round_rows|softmax|fetch|by_level}}"
// RUN: pmkvq-opt --pmkvq-stage-buffers %t.vector -o %t.buffers
// RUN: FileCheck %s --check-prefix=BUFFERS --input-file=%t.buffers --implicit-check-not="tensor.{{empty|extract|expand|collapse}}"
// RUN: pmkvq-opt --pmkvq-stage-host %t.buffers -o %t.host
// RUN: FileCheck %s --check-prefix=HOST --input-file=%t.host --implicit-check-not="linalg." --implicit-check-not="pmkvq.{{launch|get_weight|cache|batch}}"
// RUN: pmkvq-opt --pmkvq-stage-llvm %t.host -o %t.llvm
// RUN: FileCheck %s --check-prefix=LLVM --input-file=%t.llvm --implicit-check-not="{{func.func|scf.|memref|vector.|unrealized}}"

// All at once gives the same, and gives it again.
// RUN: pmkvq-opt --pmkvq-stage-plan --pmkvq-stage-tile --pmkvq-stage-fold --pmkvq-stage-vector --pmkvq-stage-buffers --pmkvq-stage-host --pmkvq-stage-llvm %S/Inputs/step.mlir -o %t.once
// RUN: pmkvq-opt --pmkvq-stage-plan --pmkvq-stage-tile --pmkvq-stage-fold --pmkvq-stage-vector --pmkvq-stage-buffers --pmkvq-stage-host --pmkvq-stage-llvm %S/Inputs/step.mlir -o %t.again
// RUN: diff %t.llvm %t.once
// RUN: diff %t.once %t.again

// Plan: formats and schedule; the rotation of values is in the weights.
// PLAN-DAG: pmkvq.weight @value : {{.*}} rotate [#pmkvq.rotation<dim = 0, block = 64>]
// PLAN-DAG: pmkvq.weight @output : {{.*}} rotate [#pmkvq.rotation<dim = 1, block = 64>]
// PLAN: pmkvq.create {{.*}} schedule <keys_last, key_floor = 2, value_floor = 2> : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
// PLAN-LABEL: func @step
// PLAN: pmkvq.append {{.*}} values_rotated
// PLAN: pmkvq.attend {{.*}} result_rotated
// PLAN: func @flush_key_16
// PLAN: func @requantize_value_4_2

// Tile: attention is two launches; its kernel works on pages by level.
// TILE-LABEL: func @step
// TILE: pmkvq.launch @append_0 over rows
// TILE: pmkvq.launch @attend_0 over attend
// TILE: pmkvq.launch @merge_0 over merge
// TILE: func @pmkvq_describe
// TILE-LABEL: kernel @attend_0
// TILE: pmkvq.by_level key
// TILE: pmkvq.scores %{{.*}} <key, 2,
// TILE: pmkvq.softmax_update
// TILE: pmkvq.by_level value
// TILE: pmkvq.accumulate %{{.*}} <value, 2,
// TILE: kernel @pmkvq_requantize_value_4_2

// Fold: products are with bare codes, and of integers below level 16; each knows
// what comes next.
// FOLD-LABEL: kernel @attend_0
// FOLD: pmkvq.contract %{{.*}} ahead %{{.*}} <key, 16,
// FOLD: pmkvq.load_parameters
// FOLD: pmkvq.round_rows
// FOLD: pmkvq.contract_integers %{{.*}} bias %{{.*}} ahead %{{.*}} <key, 2,
// FOLD: pmkvq.softmax_update
// FOLD: pmkvq.contract_integers %{{.*}} bias %{{.*}} ahead %{{.*}} <value, 2,
// FOLD: pmkvq.softmax_add

// Vector: kernels are functions; the step has not changed.
// VECTOR-LABEL: func @step
// VECTOR: pmkvq.launch @attend_0 over attend
// VECTOR-LABEL: func @attend_0(%{{.*}}: !llvm.ptr, %{{.*}}: i64) -> i32
// VECTOR: scf.index_switch
// VECTOR: llvm.intr.fmuladd(%{{.*}}) : (vector<8xf32>

// Buffers: logits are written where the caller wants them.
// BUFFERS-LABEL: func @step
// BUFFERS-SAME: %[[LOGITS:[a-z0-9]+]]: memref<?x1000xf32>
// BUFFERS: pmkvq.launch @append_0 {{.*}} ins(%{{.*}} : memref<?x2x64xf32>, memref<?x2x64xf32>)
// BUFFERS: linalg.matmul {{.*}} outs(%[[LOGITS]] : memref<?x1000xf32>)

// Host: weights, launches and linear layers are the runtime's.
// HOST-LABEL: func @pmkvq_step(%{{.*}}: !llvm.ptr) -> i32
// HOST-COUNT-3: call @pmkvq_rt_linear
// HOST-COUNT-3: call @pmkvq_rt_launch
// HOST-COUNT-2: call @pmkvq_rt_linear

// In the end: weights, and the entry points of Abi.h.
// LLVM-DAG: pmkvq.weight @value
// LLVM-DAG: llvm.func @pmkvq_rt_launch(!llvm.ptr, !llvm.ptr, !llvm.ptr, i64) -> i32
// LLVM-DAG: llvm.func @pmkvq_step(%{{.*}}: !llvm.ptr) -> i32
// LLVM-DAG: llvm.func @pmkvq_describe(%{{.*}}: !llvm.ptr)
// LLVM-DAG: llvm.func @attend_0(%{{.*}}: !llvm.ptr, %{{.*}}: i64) -> i32
// LLVM-DAG: llvm.func @pmkvq_flush_key_16(%{{.*}}: !llvm.ptr, %{{.*}}: i64) -> i32
// LLVM-DAG: llvm.func @pmkvq_requantize_value_4_2(%{{.*}}: !llvm.ptr, %{{.*}}: i64) -> i32
