// A failing pass leaves a module that repeats the failure, if asked to.
// RUN: not pmkvq-opt %s --pmkvq-set-schedule=schedule=weekly --mlir-pass-pipeline-crash-reproducer=%t.mlir 2>&1 | FileCheck %s
// RUN: FileCheck %s --check-prefix=SAVED --input-file=%t.mlir
// RUN: not pmkvq-opt %t.mlir --run-reproducer 2>&1 | FileCheck %s

// Bytecode says the same as text.
// RUN: pmkvq-opt %s --emit-bytecode -o %t.bc
// RUN: pmkvq-opt %t.bc -o %t.back
// RUN: pmkvq-opt %s -o %t.text
// RUN: diff %t.text %t.back

// CHECK: unknown schedule 'weekly'
// SAVED: pmkvq.create layer 0
// SAVED: pipeline: "builtin.module(pmkvq-set-schedule{
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64>
func.func @create() -> !kv {
  %c = pmkvq.create layer 0 max_tokens 256 : !kv
  return %c : !kv
}
