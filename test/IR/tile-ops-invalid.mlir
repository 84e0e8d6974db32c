// Constraints of kernels, launches and tiles, each violated once.
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

// fetch: the page is one of another cache.
!page = !pmkvq.page<<kv_heads = 4, head_dim = 64>>
func.func @f(%c: !pmkvq.cache<kv_heads = 2, head_dim = 64>, %i: index) {
  // expected-error @+2 {{expects different type than prior uses}}
  // expected-note @-2 {{prior use here}}
  %p = pmkvq.fetch %c[%i, %i, %i] : !page
  return
}

// -----

// take C1: another format than the cache's.
!page = !pmkvq.page<<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>>>
func.func @f(%p: !page) {
  // expected-error @+1 {{(C1) expected a whole part of a page of}}
  %t = pmkvq.take %p : !page -> !pmkvq.tile<key, 4, 128, 64, <per_token>>
  return
}

// -----

// take C1: a page without formats has no parts to take.
!page = !pmkvq.page<<kv_heads = 2, head_dim = 64>>
func.func @f(%p: !page) {
  // expected-error @+1 {{(C1) expected a whole part of a page of}}
  %t = pmkvq.take %p : !page -> !pmkvq.tile<key, 4, 128, 64, <per_token>>
  return
}

// -----

// take C2.
!page = !pmkvq.page<<kv_heads = 2, head_dim = 64, key = <per_channel>,
                     value = <per_token>, ladder = [4, 2]>>
func.func @f(%p: !page) {
  // expected-error @+1 {{(C2) the ladder does not hold level 8}}
  %t = pmkvq.take %p : !page -> !pmkvq.tile<key, 8, 128, 64, <per_channel>>
  return
}

// -----

// fetch_fixed C1: below level 16, another format, no formats.
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>>
func.func @f(%c: !kv, %i: index) {
  // expected-error @+1 {{(C1) expected a tile at level 16 with the cache's head_dim and format}}
  %t = pmkvq.fetch_fixed %c[%i, %i] from %i count %i
    : !kv -> !pmkvq.tile<key, 8, 128, 64, <per_channel>>
  return
}

// -----

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64>
func.func @f(%c: !kv, %i: index) {
  // expected-error @+1 {{(C1) expected a tile at level 16 with the cache's head_dim and format}}
  %t = pmkvq.fetch_fixed %c[%i, %i] from %i count %i
    : !kv -> !pmkvq.tile<key, 16, 128, 64, <per_channel>>
  return
}

// -----

// store C1.
!page = !pmkvq.page<<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>>>
!t = !pmkvq.tile<value, 4, 128, 128, <per_token>>
func.func @f(%p: !page, %t: !t) {
  // expected-error @+1 {{(C1) expected a whole part of a page of}}
  pmkvq.store %t, %p : !t, !page
  return
}
