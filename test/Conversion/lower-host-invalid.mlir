// RUN: pmkvq-opt %s --split-input-file --verify-diagnostics --pmkvq-lower-host

// A step without a body, and one with another signature.
// expected-error @+1 {{expected a body}}
func.func private @step(!pmkvq.batch)

// -----

// expected-error @+1 {{expected (batch, tokens, positions, outputs, logits, caches...)}}
func.func @step(%t: memref<?xi32>) {
  return
}

// -----

// expected-error @+1 {{expected argument 'positions' to be a contiguous memref of ?xi32, got 'memref<?xi64>'}}
func.func @step(%b: !pmkvq.batch, %t: memref<?xi32>, %p: memref<?xi64>, %o: memref<?xi32>, %l: memref<?x8xf32>) {
  return
}

// -----

// expected-error @+1 {{expected argument 'logits' to be a contiguous memref of ?xVOCABxf32, got 'memref<?x?xf32>'}}
func.func @step(%b: !pmkvq.batch, %t: memref<?xi32>, %p: memref<?xi32>, %o: memref<?xi32>, %l: memref<?x?xf32>) {
  return
}

// -----

// expected-error @+1 {{expected a cache after the logits, got 'i32'}}
func.func @step(%b: !pmkvq.batch, %t: memref<?xi32>, %p: memref<?xi32>, %o: memref<?xi32>, %l: memref<?x8xf32>, %c: i32) {
  return
}

// -----

// A kernel that is not lowered yet.
pmkvq.kernel @k(%b: !pmkvq.batch, %task: index) -> i1 {
  %ok = arith.constant true
  pmkvq.return %ok
}
func.func @step(%b: !pmkvq.batch, %t: memref<?xi32>, %p: memref<?xi32>, %o: memref<?xi32>, %l: memref<?x8xf32>) {
  // expected-error @+1 {{expected a lowered kernel; run convert-pmkvq-tile-to-vector first}}
  pmkvq.launch @k over rows, %b
  return
}

// -----

// Tensors: launches and weights.
func.func private @k(!llvm.ptr, i64) -> i32
func.func @step(%b: !pmkvq.batch, %t: memref<?xi32>, %p: memref<?xi32>, %o: memref<?xi32>, %l: memref<?x8xf32>) {
  %x = tensor.empty() : tensor<4xf32>
  // expected-error @+1 {{expected contiguous memrefs, got 'tensor<4xf32>'}}
  pmkvq.launch @k over rows, %b ins(%x : tensor<4xf32>)
  return
}

// -----

pmkvq.weight @w : tensor<4xbf16> from "w"
func.func @step(%b: !pmkvq.batch, %t: memref<?xi32>, %p: memref<?xi32>, %o: memref<?xi32>, %l: memref<?x8xf32>) {
  // expected-error @+1 {{expected a contiguous memref; bufferize first}}
  %w = pmkvq.get_weight @w : tensor<4xbf16>
  return
}

// -----

// Caches and the batch are addresses of the step's, and only launches take them.
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64>
func.func private @other() -> !kv
func.func private @k(!llvm.ptr, i64) -> i32
func.func @step(%b: !pmkvq.batch, %t: memref<?xi32>, %p: memref<?xi32>, %o: memref<?xi32>, %l: memref<?x8xf32>) {
  %c = call @other() : () -> !kv
  // expected-error @+1 {{expected batch and cache to be arguments of the step}}
  pmkvq.launch @k over rows, %b cache(%c : !kv)
  return
}

// -----

func.func private @other(!pmkvq.batch)
func.func @step(%b: !pmkvq.batch, %t: memref<?xi32>, %p: memref<?xi32>, %o: memref<?xi32>, %l: memref<?x8xf32>) {
  // expected-error @+1 {{expected batch and caches of the step in launches only}}
  call @other(%b) : (!pmkvq.batch) -> ()
  return
}

// -----

// A launch in a loop.
func.func private @k(!llvm.ptr, i64) -> i32
func.func @step(%b: !pmkvq.batch, %t: memref<?xi32>, %p: memref<?xi32>, %o: memref<?xi32>, %l: memref<?x8xf32>) {
  %n = arith.constant 2 : index
  scf.for %i = %n to %n step %n {
    // expected-error @+1 {{expected a launch outside of loops}}
    pmkvq.launch @k over rows, %b
  }
  return
}

// -----

// Buffers whose size the runtime could not know, and one inside of a loop.
func.func @step(%b: !pmkvq.batch, %t: memref<?xi32>, %p: memref<?xi32>, %o: memref<?xi32>, %l: memref<?x8xf32>, %n: !pmkvq.cache<kv_heads = 2, head_dim = 64>) {
  %size = arith.constant 3 : index
  // expected-error @+1 {{expected a contiguous buffer whose size is fixed, or the number of rows or outputs}}
  %buffer = memref.alloc(%size) : memref<?xf32>
  return
}

// -----

func.func @step(%b: !pmkvq.batch, %t: memref<?xi32>, %p: memref<?xi32>, %o: memref<?xi32>, %l: memref<?x8xf32>) {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %rows = memref.dim %t, %zero : memref<?xi32>
  scf.for %i = %zero to %rows step %one {
    // expected-error @+1 {{expected a buffer outside of loops}}
    %buffer = memref.alloc(%rows) : memref<?xf32>
  }
  return
}
