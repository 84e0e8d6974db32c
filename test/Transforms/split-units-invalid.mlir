// Kernels that cannot be split into units.
// RUN: pmkvq-opt %s -split-input-file -verify-diagnostics --pass-pipeline="builtin.module(pmkvq-split-units{kinds=16,4})"

// No branch for one row a task.
// expected-error @+1 {{does not attend over pages, one row a task}}
pmkvq.kernel @attend(%batch: !pmkvq.batch, %task: index) -> i1 {
  %seq, %head, %row, %rows, %begin, %end, %fixed, %partial = pmkvq.attend_task %batch[%task]
  %ok = arith.constant true
  pmkvq.return %ok
}

// -----

// Queries that are more than rotated.
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 128, key = <per_channel, hadamard>, value = <per_token>>
// expected-error @+1 {{expected queries as they are loaded, or rotated into the keys' basis}}
pmkvq.kernel @attend(%c: !kv, %batch: !pmkvq.batch, %in: memref<?x8x128xf32>, %task: index) -> i1 {
  %seq, %head, %row, %rows, %begin, %end, %fixed, %partial = pmkvq.attend_task %batch[%task]
  %single = pmkvq.single_rows %batch
  scf.if %single {
    %loaded = pmkvq.load_rows %in[%row, %head] count %rows group 4 : memref<?x8x128xf32> -> !pmkvq.rows<4, 128>
    %rotated = pmkvq.hadamard %loaded : !pmkvq.rows<4, 128>
    %twice = pmkvq.hadamard %rotated : !pmkvq.rows<4, 128>
    %by = arith.constant dense<0.125> : vector<128xf32>
    %q = pmkvq.scale %twice, %by : !pmkvq.rows<4, 128>, vector<128xf32>
    %page = pmkvq.fetch %c[%seq, %head, %begin] : !pmkvq.page<!kv>
  }
  %ok = arith.constant true
  pmkvq.return %ok
}

// -----

// A branch on something else.
// expected-error @+1 {{does not attend over pages, one row a task}}
pmkvq.kernel @attend(%batch: !pmkvq.batch, %task: index) -> i1 {
  %seq, %head, %row, %rows, %begin, %end, %fixed, %partial = pmkvq.attend_task %batch[%task]
  %single = pmkvq.single_rows %batch
  pmkvq.return %single
}

// -----

// A factor that is known at run time only.
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 128, key = <per_channel>, value = <per_token>>
// expected-error @+1 {{expected queries times a constant}}
pmkvq.kernel @attend(%c: !kv, %batch: !pmkvq.batch, %in: memref<?x8x128xf32>,
                     %by: vector<128xf32>, %task: index) -> i1 {
  %seq, %head, %row, %rows, %begin, %end, %fixed, %partial = pmkvq.attend_task %batch[%task]
  %single = pmkvq.single_rows %batch
  scf.if %single {
    %loaded = pmkvq.load_rows %in[%row, %head] count %rows group 4 : memref<?x8x128xf32> -> !pmkvq.rows<4, 128>
    %q = pmkvq.scale %loaded, %by : !pmkvq.rows<4, 128>, vector<128xf32>
    %page = pmkvq.fetch %c[%seq, %head, %begin] : !pmkvq.page<!kv>
  }
  %ok = arith.constant true
  pmkvq.return %ok
}
