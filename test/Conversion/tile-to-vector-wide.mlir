// Registers of 64 bytes hold two neighbouring vectors of codes.
// RUN: pmkvq-opt %s --convert-pmkvq-tile-to-vector=register-bytes=64 --canonicalize --cse | FileCheck %s --implicit-check-not="pmkvq."

!page = !pmkvq.page<<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>, ladder = [8, 4, 2]>>
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>, ladder = [8, 4, 2]>
!k4 = !pmkvq.tile<key, 4, 128, 64, <per_channel>>
!k2 = !pmkvq.tile<key, 2, 128, 64, <per_channel>>
!v2 = !pmkvq.tile<value, 2, 128, 64, <per_token>>
!page80 = !pmkvq.page<<kv_heads = 2, head_dim = 80, key = <per_channel>, value = <per_token>, ladder = [8, 4, 2]>>
!kv80 = !pmkvq.cache<kv_heads = 2, head_dim = 80, key = <per_channel>, value = <per_token>, ladder = [8, 4, 2]>
!v80 = !pmkvq.tile<value, 4, 128, 80, <per_token>>
!i64 = !pmkvq.integer_rows<1, 64>
!i128 = !pmkvq.integer_rows<1, 128>
!x64 = !pmkvq.rows<1, 64>
!x128 = !pmkvq.rows<1, 128>
!u = vector<1xf32>

// At 4 bits both vectors of a bundle are one register, read once.
// CHECK-LABEL: func.func @four_bits
pmkvq.kernel @four_bits(%c: !kv, %i: !i64, %u: !u, %m: memref<?x1x128xf32>, %task: index) -> i1 {
  %one = arith.constant 1 : index
  %page = pmkvq.fetch %c[%task, %task, %task] : !page
  %k = pmkvq.take %page : !page -> !k4
  // CHECK: scf.for
  // CHECK: scf.for {{.*}} -> (vector<16xi32>, vector<16xi32>)
  // CHECK: "llvm.intr.prefetch"
  // CHECK: llvm.load %{{.*}} : !llvm.ptr -> vector<32xi16>
  // CHECK: arith.extui %{{.*}} : vector<32xi16> to vector<32xi32>
  // CHECK: scf.yield
  // CHECK: arith.sitofp %{{.*}} : vector<16xi32> to vector<16xf32>
  // CHECK: vector.extract_strided_slice %{{.*}} {offsets = [8], sizes = [8]
  %x = pmkvq.contract_integers %i, %k unit %u bias %u ahead %k : !i64, !k4, !u -> !x128
  pmkvq.store_rows %x, %m[%task, %task] count %one group 1 : !x128, memref<?x1x128xf32>
  %ok = arith.constant true
  pmkvq.return %ok
}

// At 2 bits a register is of two runs: of keys they lie apart, of values side by
// side.  All four fields in one pass.
// CHECK-LABEL: func.func @keys_of_two_bits
pmkvq.kernel @keys_of_two_bits(%c: !kv, %i: !i64, %u: !u, %m: memref<?x1x128xf32>, %task: index) -> i1 {
  %one = arith.constant 1 : index
  %page = pmkvq.fetch %c[%task, %task, %task] : !page
  %k = pmkvq.take %page : !page -> !k2
  // CHECK: scf.for {{.*}} step %c2
  // CHECK: scf.for {{.*}} -> (vector<16xi32>, vector<16xi32>, vector<16xi32>, vector<16xi32>)
  // CHECK: %[[LOWER:.*]] = llvm.load %{{.*}} : !llvm.ptr -> vector<16xi16>
  // CHECK: %[[UPPER:.*]] = llvm.load %{{.*}} : !llvm.ptr -> vector<16xi16>
  // CHECK: vector.shuffle %[[LOWER]], %[[UPPER]] [0, 1, {{.*}}, 30, 31]
  %x = pmkvq.contract_integers %i, %k unit %u bias %u : !i64, !k2, !u -> !x128
  pmkvq.store_rows %x, %m[%task, %task] count %one group 1 : !x128, memref<?x1x128xf32>
  %ok = arith.constant true
  pmkvq.return %ok
}

// CHECK-LABEL: func.func @values_of_two_bits
pmkvq.kernel @values_of_two_bits(%c: !kv, %i: !i128, %u: !u, %m: memref<?x1x64xf32>, %task: index) -> i1 {
  %one = arith.constant 1 : index
  %page = pmkvq.fetch %c[%task, %task, %task] : !page
  %v = pmkvq.take %page : !page -> !v2
  // CHECK: llvm.load %{{.*}} : !llvm.ptr -> vector<32xi16>
  %x = pmkvq.contract_integers %i, %v unit %u bias %u : !i128, !v2, !u -> !x64
  pmkvq.store_rows %x, %m[%task, %task] count %one group 1 : !x64, memref<?x1x64xf32>
  %ok = arith.constant true
  pmkvq.return %ok
}

// Neighbours of two quads stay apart.
// CHECK-LABEL: func.func @values_of_80_dims
// CHECK-NOT: vector<32xi16>
pmkvq.kernel @values_of_80_dims(%c: !kv80, %i: !i128, %u: !u, %m: memref<?x1x80xf32>, %task: index) -> i1 {
  %one = arith.constant 1 : index
  %page = pmkvq.fetch %c[%task, %task, %task] : !page80
  %v = pmkvq.take %page : !page80 -> !v80
  %x = pmkvq.contract_integers %i, %v unit %u bias %u : !i128, !v80, !u -> !pmkvq.rows<1, 80>
  pmkvq.store_rows %x, %m[%task, %task] count %one group 1 : !pmkvq.rows<1, 80>, memref<?x1x80xf32>
  %ok = arith.constant true
  pmkvq.return %ok
}
