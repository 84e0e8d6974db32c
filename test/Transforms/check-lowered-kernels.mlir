// What a pipeline of kernels cannot take.
// RUN: pmkvq-opt %s -split-input-file -verify-diagnostics --pass-pipeline="builtin.module(pmkvq-check-lowered{allow-kernels})"

// Kernels may be there, and what is in them.
pmkvq.kernel @append(%batch: !pmkvq.batch, %task: index) -> i1 {
  %seq, %token = pmkvq.row_place %batch[%task]
  %ok = arith.constant true
  pmkvq.return %ok
}

// -----

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 128>
func.func @create() -> !kv {
  // expected-error @+1 {{is outside of kernels; this pipeline takes a module of kernels in tile form alone}}
  %c = pmkvq.create layer 0 max_tokens 4096 : !kv
  return %c : !kv
}
