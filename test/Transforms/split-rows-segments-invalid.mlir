// More queries than a segment has.
// RUN: pmkvq-opt %s -split-input-file -verify-diagnostics --pmkvq-split-rows=rows=5

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 128, key = <per_channel>, value = <per_token>, ladder = [4]>
// expected-error @+1 {{has 16 queries a kv head and 5 rows; a segment takes 64}}
pmkvq.kernel @attend(%c: !kv, %batch: !pmkvq.batch, %in: memref<?x32x128xf32>, %task: index) -> i1 {
  %seq, %head, %row, %rows, %begin, %end, %fixed, %partial = pmkvq.attend_task %batch[%task]
  %loaded = pmkvq.load_rows %in[%row, %head] count %rows group 16 : memref<?x32x128xf32> -> !pmkvq.rows<16, 128>
  %by = arith.constant dense<0.125> : vector<128xf32>
  %q = pmkvq.scale %loaded, %by : !pmkvq.rows<16, 128>, vector<128xf32>
  %page = pmkvq.fetch %c[%seq, %head, %begin] : !pmkvq.page<!kv>
  %ok = arith.constant true
  pmkvq.return %ok
}
