// Constraints of kernels and launches, each violated once.
// RUN: pmkvq-opt %s -split-input-file -verify-diagnostics

// kernel C1: no index at the end, no i1 as result.
// expected-error @+1 {{(C1) expected the task's index as last argument}}
pmkvq.kernel @k(%batch: !pmkvq.batch) -> i1 {
  %ok = arith.constant true
  pmkvq.return %ok
}

// -----

// expected-error @+1 {{(C1) expected one result, an i1}}
pmkvq.kernel @k(%batch: !pmkvq.batch, %task: index) {
  %ok = arith.constant true
  pmkvq.return %ok
}

// -----

// kernel C2: no body, two blocks, another end.
// expected-error @+1 {{(C2) expected a body of one block that ends in pmkvq.return}}
pmkvq.kernel @k(!pmkvq.batch, index) -> i1

// -----

// expected-error @+1 {{(C2) expected a body of one block that ends in pmkvq.return}}
pmkvq.kernel @k(%task: index) -> i1 {
  cf.br ^bb1
^bb1:
  %ok = arith.constant true
  pmkvq.return %ok
}

// -----

// expected-error @+1 {{(C2) expected a body of one block that ends in pmkvq.return}}
pmkvq.kernel @k(%task: index) -> i1 {
  llvm.unreachable
}

// -----

// launch C1: no such kernel, too few operands, another type.
func.func @f(%b: !pmkvq.batch) {
  // expected-error @+1 {{(C1) expected a pmkvq.kernel named 'k', there is none}}
  pmkvq.launch @k over rows, %b
  return
}

// -----

pmkvq.kernel @k(%batch: !pmkvq.batch, %m: memref<?x2x64xf32>, %task: index) -> i1 {
  %ok = arith.constant true
  pmkvq.return %ok
}
func.func @f(%b: !pmkvq.batch) {
  // expected-error @+1 {{(C1) kernel 'k' takes 2 operands, got 1}}
  pmkvq.launch @k over rows, %b
  return
}

// -----

pmkvq.kernel @k(%batch: !pmkvq.batch, %m: memref<?x2x64xf32>, %task: index) -> i1 {
  %ok = arith.constant true
  pmkvq.return %ok
}
func.func @f(%b: !pmkvq.batch, %t: tensor<?x4x64xf32>) {
  // expected-error @+1 {{(C1) operand 1 of kernel 'k' is 'memref<?x2x64xf32>', got 'tensor<?x4x64xf32>'}}
  pmkvq.launch @k over rows, %b ins(%t : tensor<?x4x64xf32>)
  return
}

// -----

// launch C2.
pmkvq.kernel @k(%batch: !pmkvq.batch, %m: memref<?x2x64xf32>, %task: index) -> i1 {
  %ok = arith.constant true
  pmkvq.return %ok
}
func.func @f(%b: !pmkvq.batch, %t: tensor<?x2x64xf32>) {
  // expected-error @+1 {{expected the number of tensor results (0) to be equal to the number of output tensors (1)}}
  pmkvq.launch @k over rows, %b outs(%t : tensor<?x2x64xf32>)
  return
}

// -----

// launch C3.
pmkvq.kernel @k(%batch: !pmkvq.batch, %a: memref<4xf32>, %b: memref<4xf32>, %task: index) -> i1 {
  %ok = arith.constant true
  pmkvq.return %ok
}
func.func @f(%b: !pmkvq.batch, %t: tensor<4xf32>, %m: memref<4xf32>) {
  // expected-error @+1 {{(C3) expected ranked tensors, or memrefs, alone}}
  pmkvq.launch @k over rows, %b ins(%t : tensor<4xf32>) outs(%m : memref<4xf32>)
  return
}
