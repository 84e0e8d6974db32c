// Rounded rows, and products with codes that stay where they are in their bytes.
// RUN: pmkvq-opt %s --convert-pmkvq-tile-to-vector --canonicalize --cse | FileCheck %s --implicit-check-not="pmkvq."

!page = !pmkvq.page<<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>, ladder = [8, 4, 2]>>
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>, ladder = [8, 4, 2]>
!k8 = !pmkvq.tile<key, 8, 128, 64, <per_channel>>
!v2 = !pmkvq.tile<value, 2, 128, 64, <per_token>>
!m = memref<?x2x64xf32>

// A magnitude is the bits without their sign, and at least 1e-30; integers
// saturate, as the instruction does.
// CHECK-LABEL: func.func @round
pmkvq.kernel @round(%c: !kv, %m: !m, %by: !pmkvq.batch, %task: index) -> i1 {
  %one = arith.constant 1 : index
  %q = pmkvq.load_rows %m[%task, %task] count %one group 1 : !m -> !pmkvq.rows<1, 64>
  // CHECK-DAG: %[[LOW:.*]] = arith.constant dense<255> : vector<16xi16>
  // CHECK-DAG: %[[EIGHT:.*]] = arith.constant dense<8> : vector<16xi16>
  // CHECK-DAG: %[[LEAST:.*]] = arith.constant dense<228737632> : vector<8xi32>
  // CHECK-DAG: %[[MAGNITUDE:.*]] = arith.constant dense<2147483647> : vector<8xi32>
  // CHECK-DAG: %[[LARGEST:.*]] = arith.constant dense<3.276700e+04> : vector<1xf32>
  // CHECK: %[[MAX:.*]] = scf.for {{.*}} iter_args(%[[RUNNING:.*]] = %[[LEAST]])
  // CHECK: %[[BITS:.*]] = arith.andi %{{.*}}, %[[MAGNITUDE]]
  // CHECK: arith.maxsi %[[RUNNING]], %[[BITS]]
  // The larger halves, by way of 4 and 2 lanes.
  // CHECK: vector.extract_strided_slice %[[MAX]] {offsets = [0], sizes = [4]
  // CHECK: vector.extract_strided_slice %[[MAX]] {offsets = [4], sizes = [4]
  // CHECK: arith.maxsi %{{.*}} : vector<4xi32>
  // CHECK: arith.maxsi %{{.*}} : vector<1xi32>
  // CHECK: %[[INVERSE:.*]] = arith.divf %[[LARGEST]]
  // CHECK: llvm.intr.lrint
  // CHECK: llvm.intr.lrint
  // CHECK: arith.addi %{{.*}} : vector<8xi32>
  // CHECK: arith.maxsi
  // CHECK: arith.minsi
  // CHECK: arith.trunci %{{.*}} : vector<16xi32> to vector<16xi16>
  // CHECK: %[[EXACT:.*]] = arith.addf %{{.*}} : vector<1xf32>
  // CHECK: %[[ROUNDED:.*]] = arith.addi %{{.*}} : vector<1xi32>
  // CHECK: arith.sitofp %[[ROUNDED]]
  // CHECK: arith.subf %[[EXACT]]
  %i, %u, %l = pmkvq.round_rows %q : !pmkvq.rows<1, 64> -> !pmkvq.integer_rows<1, 64>, vector<1xf32>
  %page = pmkvq.fetch %c[%task, %task, %task] : !page
  %k = pmkvq.take %page : !page -> !k8
  // At 8 bits a byte is a code: the low bytes by a mask, the high ones by a
  // shift alone.  Two bundles' halves in two passes of 16 quads.
  // CHECK: scf.for
  // CHECK: scf.for {{.*}} -> (vector<8xi32>, vector<8xi32>)
  // CHECK: %[[W:.*]] = llvm.load %{{.*}} : !llvm.ptr -> vector<16xi16>
  // CHECK: arith.andi %[[W]], %[[LOW]]
  // CHECK: arith.shrui %{{.*}}, %[[EIGHT]]
  // CHECK-NOT: arith.andi
  // CHECK: scf.yield
  // CHECK: arith.sitofp %{{.*}} : vector<8xi32> to vector<8xf32>
  %x = pmkvq.contract_integers %i, %k unit %u bias %l : !pmkvq.integer_rows<1, 64>, !k8, vector<1xf32> -> !pmkvq.rows<1, 128>
  pmkvq.store_rows %q, %m[%task, %task] count %one group 1 : !pmkvq.rows<1, 64>, !m
  %ok = arith.constant true
  pmkvq.return %ok
}

// At 2 bits four fields of one vector, two in a pass: bits 0 and 4, then 2 and
// 6, whose sums are 16, 4 and 64 times too large.  Each step asks for a quarter
// of a line ahead.
// CHECK-LABEL: func.func @two_bits
pmkvq.kernel @two_bits(%c: !kv, %m: !m, %task: index) -> i1 {
  %one = arith.constant 1 : index
  %page = pmkvq.fetch %c[%task, %task, %task] : !page
  %v = pmkvq.take %page : !page -> !v2
  %w = pmkvq.load_rows %m[%task, %task] count %one group 1 : !m -> !pmkvq.rows<1, 64>
  %x, %min = pmkvq.load_parameters %v : !v2 -> vector<128xf32>, vector<128xf32>
  %r = pmkvq.softmax_init : !pmkvq.softmax<1, 64>
  %k = pmkvq.take %page : !page -> !k8
  %scores = pmkvq.contract %w, %k : !pmkvq.rows<1, 64>, !k8 -> !pmkvq.rows<1, 128>
  %i, %u, %l = pmkvq.round_rows %scores : !pmkvq.rows<1, 128> -> !pmkvq.integer_rows<1, 128>, vector<1xf32>
  // CHECK-DAG: %[[F4:.*]] = arith.constant 6.250000e-02 : f32
  // CHECK-DAG: %[[F2:.*]] = arith.constant 2.500000e-01 : f32
  // CHECK-DAG: %[[F6:.*]] = arith.constant 1.562500e-02 : f32
  // CHECK-DAG: %[[M0:.*]] = arith.constant dense<3> : vector<16xi16>
  // CHECK-DAG: %[[M4:.*]] = arith.constant dense<48> : vector<16xi16>
  // CHECK-DAG: %[[M2:.*]] = arith.constant dense<12> : vector<16xi16>
  // CHECK-DAG: %[[M6:.*]] = arith.constant dense<192> : vector<16xi16>
  // CHECK: "llvm.intr.prefetch"(%{{.*}}) <{cache = 1 : i32, hint = 2 : i32, rw = 0 : i32}>
  // CHECK-DAG: arith.andi %{{.*}}, %[[M0]]
  // CHECK-DAG: arith.andi %{{.*}}, %[[M4]]
  // CHECK: %[[LEFT:.*]] = arith.extui %{{.*}} : vector<16xi16> to vector<16xi32>
  // CHECK: %[[RIGHT:.*]] = arith.extsi %{{.*}} : vector<16xi16> to vector<16xi32>
  // CHECK: %[[PRODUCTS:.*]] = arith.muli %[[LEFT]], %[[RIGHT]]
  // CHECK: vector.shuffle %[[PRODUCTS]], %[[PRODUCTS]] [0, 2, 4, 6, 8, 10, 12, 14]
  // CHECK: vector.shuffle %[[PRODUCTS]], %[[PRODUCTS]] [1, 3, 5, 7, 9, 11, 13, 15]
  // CHECK: arith.mulf %{{.*}}, %[[F4]] : f32
  // CHECK-DAG: arith.andi %{{.*}}, %[[M2]]
  // CHECK-DAG: arith.andi %{{.*}}, %[[M6]]
  // CHECK-DAG: arith.mulf %{{.*}}, %[[F2]] : f32
  // CHECK-DAG: arith.mulf %{{.*}}, %[[F6]] : f32
  %y = pmkvq.contract_integers %i, %v unit %u bias %l ahead %v : !pmkvq.integer_rows<1, 128>, !v2, vector<1xf32> -> !pmkvq.rows<1, 64>
  pmkvq.store_rows %y, %m[%task, %task] count %one group 1 : !pmkvq.rows<1, 64>, !m
  %ok = arith.constant true
  pmkvq.return %ok
}
