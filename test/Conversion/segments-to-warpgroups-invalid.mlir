// Kernels over segments that warpgroups cannot run.
// RUN: pmkvq-opt %s -split-input-file -verify-diagnostics --pass-pipeline="builtin.module(pmkvq-split-rows{rows=4},convert-pmkvq-tile-to-warpgroups{values=4})"

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>, ladder = [4]>
// expected-error @+1 {{has a head_dim of 64; warpgroups support 128}}
pmkvq.kernel @attend(%c: !kv, %batch: !pmkvq.batch, %in: memref<?x8x64xf32>, %task: index) -> i1 {
  %seq, %head, %row, %rows, %begin, %end, %fixed, %partial = pmkvq.attend_task %batch[%task]
  %loaded = pmkvq.load_rows %in[%row, %head] count %rows group 4 : memref<?x8x64xf32> -> !pmkvq.rows<4, 64>
  %by = arith.constant dense<0.125> : vector<64xf32>
  %q = pmkvq.scale %loaded, %by : !pmkvq.rows<4, 64>, vector<64xf32>
  %page = pmkvq.fetch %c[%seq, %head, %begin] : !pmkvq.page<!kv>
  %ok = arith.constant true
  pmkvq.return %ok
}

// -----

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 128, key = <per_token>, value = <per_token>, ladder = [4]>
// expected-error @+1 {{has keys with parameters per token}}
pmkvq.kernel @attend(%c: !kv, %batch: !pmkvq.batch, %in: memref<?x8x128xf32>, %task: index) -> i1 {
  %seq, %head, %row, %rows, %begin, %end, %fixed, %partial = pmkvq.attend_task %batch[%task]
  %loaded = pmkvq.load_rows %in[%row, %head] count %rows group 4 : memref<?x8x128xf32> -> !pmkvq.rows<4, 128>
  %by = arith.constant dense<0.125> : vector<128xf32>
  %q = pmkvq.scale %loaded, %by : !pmkvq.rows<4, 128>, vector<128xf32>
  %page = pmkvq.fetch %c[%seq, %head, %begin] : !pmkvq.page<!kv>
  %ok = arith.constant true
  pmkvq.return %ok
}
