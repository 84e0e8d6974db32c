// RUN: pmkvq-opt %s --convert-pmkvq-to-tile --convert-pmkvq-pages-to-lanes --convert-pmkvq-append-to-lanes --split-input-file --verify-diagnostics

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <paper>, value = <per_token>>
func.func @requantize_key_8_4(%c: !kv, %p: !pmkvq.pages) -> !kv {
  // expected-error@+1 {{writes format #pmkvq.format<paper>; a GPU supports formats whose first level is 8, with two fp16 parameters, of values also one byte, that are written once and groups of a whole axis}}
  %r = pmkvq.requantize key %c, %p from 8 to 4 : !kv
  return %r : !kv
}

// -----

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64>
// expected-error@+1 {{writes no page from a page or a window}}
pmkvq.kernel @nothing(%c: !kv, %p: !pmkvq.pages, %task: index) -> i1 {
  %cache, %sequence, %head, %page = pmkvq.page_task %p[%task] of %c : !kv
  %ok = arith.constant true
  pmkvq.return %ok
}

// -----

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64>
// expected-error@+1 {{expected one loop over the heads of a row}}
pmkvq.kernel @append(%c: !kv, %b: !pmkvq.batch, %row: index) -> i1 {
  %sequence, %token = pmkvq.row_place %b[%row]
  %ok = arith.constant true
  pmkvq.return %ok
}
