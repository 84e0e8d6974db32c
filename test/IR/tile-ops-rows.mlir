// Round trip of the ops on rows and softmax states, custom and generic form.
// RUN: pmkvq-opt %s | pmkvq-opt | FileCheck %s
// RUN: pmkvq-opt %s --mlir-print-op-generic | pmkvq-opt | FileCheck %s

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64>
!k4 = !pmkvq.tile<key, 4, 128, 64, <per_channel>>
!v4 = !pmkvq.tile<value, 4, 128, 64, <per_token>>
!row = !pmkvq.rows<1, 64>
!q = !pmkvq.rows<6, 64>
!p = !pmkvq.rows<6, 128>
!state = !pmkvq.softmax<6, 64>

// CHECK-LABEL: func @rows_in_memory
func.func @rows_in_memory(%m: memref<?x6x64xf32>, %c: !kv, %i: index, %row: !row) {
  // CHECK: pmkvq.load_rows %{{.*}}[%{{.*}}, %{{.*}}] count %{{.*}} group 3 : memref<?x6x64xf32> -> <6, 64>
  %q = pmkvq.load_rows %m[%i, %i] count %i group 3 : memref<?x6x64xf32> -> !q
  // CHECK: pmkvq.store_rows %{{.*}}, %{{.*}}[%{{.*}}, %{{.*}}] count %{{.*}} group 3 : <6, 64>, memref<?x6x64xf32>
  pmkvq.store_rows %q, %m[%i, %i] count %i group 3 : !q, memref<?x6x64xf32>
  // CHECK: pmkvq.store_fixed value %{{.*}}, %{{.*}}[%{{.*}}, %{{.*}}, %{{.*}}] : <1, 64>, <kv_heads = 2
  pmkvq.store_fixed value %row, %c[%i, %i, %i] : !row, !kv
  return
}

// CHECK-LABEL: func @algebra
func.func @algebra(%q: !q, %k: !k4, %by: vector<64xf32>, %left: vector<6xf32>) {
  // CHECK: pmkvq.hadamard %{{.*}} : <6, 64>
  %h = pmkvq.hadamard %q : !q
  // CHECK: pmkvq.load_parameters %{{.*}} : <key, 4, {{.*}}> -> vector<64xf32>, vector<64xf32>
  %min, %range = pmkvq.load_parameters %k : !k4 -> vector<64xf32>, vector<64xf32>
  // CHECK: pmkvq.scale %{{.*}}, %{{.*}} : <6, 64>, vector<64xf32>
  %s = pmkvq.scale %h, %range : !q, vector<64xf32>
  // CHECK: pmkvq.reduce %{{.*}}, %{{.*}} : <6, 64>, vector<64xf32> -> vector<6xf32>
  %b = pmkvq.reduce %q, %min : !q, vector<64xf32> -> vector<6xf32>
  // CHECK: pmkvq.add_outer %{{.*}}, %{{.*}}, %{{.*}} : <6, 64>, vector<6xf32>, vector<64xf32>
  %o = pmkvq.add_outer %s, %b, %by : !q, vector<6xf32>, vector<64xf32>
  // CHECK: pmkvq.contract %{{.*}}, %{{.*}} : <6, 64>, <key, 4, {{.*}}> -> <6, 128>
  %x = pmkvq.contract %s, %k : !q, !k4 -> !p
  return
}

// CHECK-LABEL: func @integers
func.func @integers(%q: !q, %k: !k4, %by: vector<64xf32>, %b: vector<6xf32>) {
  // CHECK: pmkvq.round_rows %{{.*}} : <6, 64> -> <6, 64>, vector<6xf32>
  %i, %u, %l = pmkvq.round_rows %q : !q -> !pmkvq.integer_rows<6, 64>, vector<6xf32>
  // CHECK: pmkvq.round_rows %{{.*}} by %{{.*}} : <6, 64>, vector<64xf32> -> <6, 64>, vector<6xf32>
  %j, %w, %n = pmkvq.round_rows %q by %by : !q, vector<64xf32> -> !pmkvq.integer_rows<6, 64>, vector<6xf32>
  // CHECK: pmkvq.contract_integers %{{.*}}, %{{.*}} unit %{{.*}} bias %{{.*}} : <6, 64>, <key, 4, {{.*}}>, vector<6xf32> -> <6, 128>
  %x = pmkvq.contract_integers %i, %k unit %u bias %l : !pmkvq.integer_rows<6, 64>, !k4, vector<6xf32> -> !p
  // CHECK: pmkvq.contract_integers %{{.*}}, %{{.*}} unit %{{.*}} bias %{{.*}} ahead %{{.*}} : <6, 64>
  %y = pmkvq.contract_integers %i, %k unit %u bias %b ahead %k : !pmkvq.integer_rows<6, 64>, !k4, vector<6xf32> -> !p
  return
}

// CHECK-LABEL: func @ahead
func.func @ahead(%q: !q, %k: !k4) {
  // CHECK: pmkvq.load_parameters %{{.*}} ahead %{{.*}} : <key, 4, {{.*}}> -> vector<64xf32>, vector<64xf32>
  %min, %range = pmkvq.load_parameters %k ahead %k : !k4 -> vector<64xf32>, vector<64xf32>
  // CHECK: pmkvq.contract %{{.*}}, %{{.*}} ahead %{{.*}} : <6, 64>, <key, 4, {{.*}}> -> <6, 128>
  %x = pmkvq.contract %q, %k ahead %k : !q, !k4 -> !p
  return
}

// CHECK-LABEL: func @attention
func.func @attention(%q: !q, %k: !k4, %v: !v4, %b: !pmkvq.batch, %i: index) {
  // CHECK: pmkvq.scores %{{.*}}, %{{.*}} : <6, 64>, <key, 4, {{.*}}> -> <6, 128>
  %x = pmkvq.scores %q, %k : !q, !k4 -> !p
  // CHECK: pmkvq.causal_mask %{{.*}} visible %{{.*}} group 3 : <6, 128>
  %masked = pmkvq.causal_mask %x visible %i group 3 : !p
  // CHECK: pmkvq.softmax_init : <6, 64>
  %s0 = pmkvq.softmax_init : !state
  // CHECK: pmkvq.softmax_update %{{.*}}, %{{.*}} : <6, 64>, <6, 128>
  %s1, %w = pmkvq.softmax_update %s0, %masked : !state, !p
  // CHECK: pmkvq.accumulate %{{.*}}, %{{.*}}, %{{.*}} : <6, 64>, <6, 128>, <value, 4
  %s2 = pmkvq.accumulate %s1, %w, %v : !state, !p, !v4
  // CHECK: pmkvq.softmax_add %{{.*}}, %{{.*}} : <6, 64>, <6, 64>
  %s3 = pmkvq.softmax_add %s2, %q : !state, !q
  // CHECK: pmkvq.merge_partial %{{.*}}, %{{.*}}[%{{.*}}] : <6, 64>
  %s4 = pmkvq.merge_partial %s3, %b[%i] : !state
  // CHECK: pmkvq.store_partial %{{.*}}, %{{.*}}[%{{.*}}] : <6, 64>
  pmkvq.store_partial %s4, %b[%i] : !state
  return
}

// CHECK-LABEL: func @finish
func.func @finish(%s: !state) -> !q {
  // CHECK: pmkvq.softmax_finish %{{.*}} : <6, 64> -> <6, 64>
  %r = pmkvq.softmax_finish %s : !state -> !q
  return %r : !q
}
