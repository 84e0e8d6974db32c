// What no step has lowered, the outermost op alone.
// RUN: pmkvq-opt %s -split-input-file -verify-diagnostics --pmkvq-check-lowered

// expected-error @+1 {{'append' is not lowered by any step of this pipeline}}
pmkvq.kernel @append(%batch: !pmkvq.batch, %task: index) -> i1 {
  %seq, %token = pmkvq.row_place %batch[%task]
  %ok = arith.constant true
  pmkvq.return %ok
}

// -----

// In functions, too.
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 128>
func.func @create() -> !kv {
  // expected-error @+1 {{is not lowered by any step of this pipeline}}
  %c = pmkvq.create layer 0 max_tokens 4096 : !kv
  return %c : !kv
}

// -----

// Other dialects are none of its business.
func.func @other(%x: f32) -> f32 {
  %y = arith.addf %x, %x : f32
  return %y : f32
}
