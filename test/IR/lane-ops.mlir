// Round trip of the ops on lanes, custom form and generic form.
// RUN: pmkvq-opt %s | pmkvq-opt | FileCheck %s
// RUN: pmkvq-opt %s --mlir-print-op-generic | pmkvq-opt | FileCheck %s

// CHECK-LABEL: func @queries
func.func @queries(%rows: vector<16xi32>) {
  // CHECK: %[[BYTES:.*]], %{{.*}} = pmkvq.split_rows %{{.*}} : vector<16xi32> -> vector<8xi32>, f32
  %bytes, %scale = pmkvq.split_rows %rows : vector<16xi32> -> vector<8xi32>, f32
  // CHECK: pmkvq.weigh_rows %{{.*}}, %{{.*}} : vector<16xi32> -> f32
  %w = pmkvq.weigh_rows %rows, %rows : vector<16xi32> -> f32
  // CHECK: pmkvq.sum_bytes %[[BYTES]] : (vector<8xi32>) -> f32
  %s = pmkvq.sum_bytes %bytes : (vector<8xi32>) -> f32
  return
}

// CHECK-LABEL: func @two_queries_a_lane
func.func @two_queries_a_lane(%rows: vector<16xi32>) {
  // CHECK: %[[BYTES:.*]]:2, %{{.*}}:2 = pmkvq.split_rows %{{.*}} : vector<16xi32> -> vector<8xi32>, vector<8xi32>, f32, f32
  %bytes:2, %scale:2 = pmkvq.split_rows %rows : vector<16xi32> -> vector<8xi32>, vector<8xi32>, f32, f32
  // CHECK: %{{.*}}:2 = pmkvq.weigh_rows %{{.*}}, %{{.*}} : vector<16xi32> -> f32, f32
  %w:2 = pmkvq.weigh_rows %rows, %rows : vector<16xi32> -> f32, f32
  // CHECK: %{{.*}}:2 = pmkvq.sum_bytes %[[BYTES]]#0, %[[BYTES]]#1 : (vector<8xi32>, vector<8xi32>) -> (f32, f32)
  %s:2 = pmkvq.sum_bytes %bytes#0, %bytes#1 : (vector<8xi32>, vector<8xi32>) -> (f32, f32)
  return
}

// CHECK-LABEL: func @products
func.func @products(%codes: !llvm.ptr<3>, %bytes: vector<8xi32>, %weights: vector<2xi32>) {
  // CHECK: pmkvq.multiply_codes key 2 tokens 128 head_dim 128 in %{{.*}}, %{{.*}}, %{{.*}} : !llvm.ptr<3>, vector<8xi32>, vector<8xi32> -> vector<16xf32>, vector<16xf32>
  %two:2 = pmkvq.multiply_codes key 2 tokens 128 head_dim 128 in %codes, %bytes, %bytes
    : !llvm.ptr<3>, vector<8xi32>, vector<8xi32> -> vector<16xf32>, vector<16xf32>
  // CHECK: pmkvq.multiply_codes value 16 tokens 16 head_dim 128 in {{.*}} : !llvm.ptr<3>, vector<2xi32> -> vector<16xf32>
  %raw = pmkvq.multiply_codes value 16 tokens 16 head_dim 128 in %codes, %weights
    : !llvm.ptr<3>, vector<2xi32> -> vector<16xf32>
  return
}

// CHECK-LABEL: func @falling_codes
func.func @falling_codes(%codes: !llvm.ptr<3>, %place: !llvm.ptr<1>, %falls: i1) {
  // CHECK: pmkvq.shift_codes key 8 tokens 32 head_dim 64 format <per_channel> in %{{.*}} to %{{.*}} if %{{.*}} : !llvm.ptr<3>, !llvm.ptr<1>
  pmkvq.shift_codes key 8 tokens 32 head_dim 64 format <per_channel>
    in %codes to %place if %falls : !llvm.ptr<3>, !llvm.ptr<1>
  return
}

// CHECK-LABEL: func @softmax
// CHECK-SAME: (%[[M:.*]]: f32, %[[O:.*]]: vector<16xf32>, %[[X:.*]]: vector<8xf32>)
func.func @softmax(%m: f32, %o: vector<16xf32>, %x: vector<8xf32>) {
  // CHECK: %{{.*}}, %{{.*}}, %{{.*}}, %{{.*}}, %[[W:.*]] = pmkvq.online_softmax maxima(%[[M]]) sums(%[[M]]) offsets(%[[M]]) outputs(%[[O]]) products(%[[X]]) factors(%[[X]]) biases(%[[X]]) : (f32, f32, f32, vector<16xf32>, vector<8xf32>, vector<8xf32>, vector<8xf32>) -> (f32, f32, f32, vector<16xf32>, vector<8xf32>)
  %r:5 = pmkvq.online_softmax maxima(%m) sums(%m) offsets(%m) outputs(%o)
    products(%x) factors(%x) biases(%x)
    : (f32, f32, f32, vector<16xf32>, vector<8xf32>, vector<8xf32>, vector<8xf32>)
      -> (f32, f32, f32, vector<16xf32>, vector<8xf32>)
  return
}

// CHECK-LABEL: func @softmax_of_two
// CHECK-SAME: (%[[M:.*]]: f32, %[[N:.*]]: f32, %[[O:.*]]: vector<8xf32>, %[[X:.*]]: vector<3xf32>)
func.func @softmax_of_two(%m: f32, %n: f32, %o: vector<8xf32>, %x: vector<3xf32>) {
  // CHECK: pmkvq.online_softmax maxima(%[[M]], %[[N]]) sums(%[[N]], %[[M]]) offsets(%[[M]], %[[M]]) outputs(%[[O]], %[[O]]) products(%[[X]], %[[X]]) factors(%[[X]], %[[X]]) biases(%[[X]], %[[X]]) :
  %r:10 = pmkvq.online_softmax maxima(%m, %n) sums(%n, %m) offsets(%m, %m) outputs(%o, %o)
    products(%x, %x) factors(%x, %x) biases(%x, %x)
    : (f32, f32, f32, f32, f32, f32, vector<8xf32>, vector<8xf32>, vector<3xf32>, vector<3xf32>,
       vector<3xf32>, vector<3xf32>, vector<3xf32>, vector<3xf32>)
      -> (f32, f32, f32, f32, f32, f32, vector<8xf32>, vector<8xf32>, vector<3xf32>, vector<3xf32>)
  return
}

// CHECK-LABEL: func @weights
// CHECK-SAME: (%[[R:.*]]: vector<4xi32>, %[[W:.*]]: vector<8xf32>)
func.func @weights(%r: vector<4xi32>, %w: vector<8xf32>) {
  // CHECK: %{{.*}}, %{{.*}}, %{{.*}} = pmkvq.repack_weights %[[R]], %[[W]] : (vector<4xi32>, vector<8xf32>) -> (vector<4xi32>, f32, f32)
  %b, %unscale, %sum = pmkvq.repack_weights %r, %w
    : (vector<4xi32>, vector<8xf32>) -> (vector<4xi32>, f32, f32)
  // CHECK: %{{.*}}:2, %{{.*}}, %{{.*}}:2 = pmkvq.repack_weights %[[R]], %[[W]], %[[W]] : (vector<4xi32>, vector<8xf32>, vector<8xf32>) -> (vector<4xi32>, vector<4xi32>, f32, f32, f32)
  %two:2, %same, %sums:2 = pmkvq.repack_weights %r, %w, %w
    : (vector<4xi32>, vector<8xf32>, vector<8xf32>) -> (vector<4xi32>, vector<4xi32>, f32, f32, f32)
  // CHECK: pmkvq.repack_raw_weights %[[W]] : (vector<8xf32>) -> vector<8xi32>
  %raw = pmkvq.repack_raw_weights %w : (vector<8xf32>) -> vector<8xi32>
  // CHECK: pmkvq.repack_raw_weights %[[W]], %[[W]] : (vector<8xf32>, vector<8xf32>) -> (vector<8xi32>, vector<8xi32>)
  %raws:2 = pmkvq.repack_raw_weights %w, %w
    : (vector<8xf32>, vector<8xf32>) -> (vector<8xi32>, vector<8xi32>)
  return
}

// CHECK-LABEL: func @ring
func.func @ring(%s: !llvm.ptr<3>, %g: !llvm.ptr<1>, %n: i32, %leader: i1, %policy: i64) {
  // CHECK: pmkvq.ring_issue %[[N:.*]] into %[[S:.*]], %[[S]] if %{{.*}} from %[[G:.*]], %[[G]] at %[[N]], %[[N]], %[[N]] info %[[N]] policy %{{.*}} kinds [16, 16, 4, 2] slots 2 slot_bytes 8192 head_dim 128 keys_per_token false : !llvm.ptr<3>, !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  pmkvq.ring_issue %n into %s, %s if %leader from %g, %g at %n, %n, %n info %n policy %policy
    kinds [16, 16, 4, 2] slots 2 slot_bytes 8192 head_dim 128 keys_per_token false
    : !llvm.ptr<3>, !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  // CHECK: pmkvq.ring_wait %[[N]] of %[[S]], %[[S]] slots 2 slot_bytes 8192 : !llvm.ptr<3>, !llvm.ptr<3> -> !llvm.ptr<3>
  %slot = pmkvq.ring_wait %n of %s, %s slots 2 slot_bytes 8192 : !llvm.ptr<3>, !llvm.ptr<3> -> !llvm.ptr<3>
  return
}

// CHECK-LABEL: func @merges
func.func @merges(%s: !llvm.ptr<3>, %g: !llvm.ptr<1>, %i: i32, %x: f32) {
  // CHECK: pmkvq.merge_warps pair %[[I:.*]] shares %[[I]] partial %[[I]](%{{.*}}) through %[[S:.*]] to %[[G:.*]], %[[G]] group 4 head_dim 128 ring_bytes 256 : !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  pmkvq.merge_warps pair %i shares %i partial %i (%x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x) through %s to %g, %g
    group 4 head_dim 128 ring_bytes 256 : !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  // CHECK: pmkvq.merge_shares pair %[[I]] shares %[[I]] partial %[[I]] from %[[G]] to %[[G]] group 5 head_dim 128 : !llvm.ptr<1>, !llvm.ptr<1>
  pmkvq.merge_shares pair %i shares %i partial %i from %g to %g group 5 head_dim 128
    : !llvm.ptr<1>, !llvm.ptr<1>
  // CHECK: pmkvq.merge_shares pair %[[I]] shares %[[I]] partial %[[I]] from %[[G]] to %[[G]] group 4 rows 4 more %[[I]] stride 32 head_dim 128 : !llvm.ptr<1>, !llvm.ptr<1>
  pmkvq.merge_shares pair %i shares %i partial %i from %g to %g group 4 rows 4 more %i stride 32 head_dim 128
    : !llvm.ptr<1>, !llvm.ptr<1>
  return
}
