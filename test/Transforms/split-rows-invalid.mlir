// Kernels that cannot be split into rows.
// RUN: pmkvq-opt %s -split-input-file -verify-diagnostics --pmkvq-split-rows

// No pages.
// expected-error @+1 {{does not attend over pages}}
pmkvq.kernel @attend(%batch: !pmkvq.batch, %task: index) -> i1 {
  %seq, %head, %row, %rows, %begin, %end, %fixed, %partial = pmkvq.attend_task %batch[%task]
  %ok = arith.constant true
  pmkvq.return %ok
}

// -----

// Keys are rotated and queries are not.
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 128, key = <per_channel, hadamard>, value = <per_token>>
// expected-error @+1 {{expected queries in the keys' basis, times a constant: on a GPU they are rotated where they are made}}
pmkvq.kernel @attend(%c: !kv, %batch: !pmkvq.batch, %in: memref<?x8x128xf32>, %task: index) -> i1 {
  %seq, %head, %row, %rows, %begin, %end, %fixed, %partial = pmkvq.attend_task %batch[%task]
  %loaded = pmkvq.load_rows %in[%row, %head] count %rows group 4 : memref<?x8x128xf32> -> !pmkvq.rows<4, 128>
  %rotated = pmkvq.hadamard %loaded : !pmkvq.rows<4, 128>
  %page = pmkvq.fetch %c[%seq, %head, %begin] : !pmkvq.page<!kv>
  %ok = arith.constant true
  pmkvq.return %ok
}
