// Values at level 1 are half a block; the entry says which half.
// RUN: pmkvq-opt %s --convert-pmkvq-tile-to-vector --canonicalize --cse | FileCheck %s --implicit-check-not="pmkvq."

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>, ladder = [2, 1]>
!page = !pmkvq.page<<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>, ladder = [2, 1]>>
!k2 = !pmkvq.tile<key, 2, 128, 64, <per_channel>>
!v2 = !pmkvq.tile<value, 2, 128, 64, <per_token>>
!v1 = !pmkvq.tile<value, 1, 128, 64, <per_token>>
!p = !pmkvq.rows<1, 128>
!o = !pmkvq.rows<1, 64>

// Of 64 head dims a block has 2,048 bytes.  The half is the second id of the
// value's, at byte 32 of an entry.
// CHECK-LABEL: func.func @half
pmkvq.kernel @half(%c: !kv, %p: !p, %task: index) -> i1 {
  %page = pmkvq.fetch %c[%task, %task, %task] : !page
  // CHECK-DAG: %[[ONE:.*]] = arith.constant dense<1> : vector<8xi32>
  // CHECK-DAG: %[[HALF:.*]] = arith.constant 1024 : i64
  // CHECK-DAG: %[[ENTRY:.*]] = arith.constant 72 : i64
  // CHECK: arith.muli %{{.*}}, %[[ENTRY]]
  // CHECK: %[[IDS:.*]] = llvm.getelementptr %{{.*}}[32]
  // CHECK: %[[SECOND:.*]] = llvm.getelementptr %[[IDS]][4]
  // CHECK: %[[WHICH:.*]] = llvm.load %[[SECOND]] : !llvm.ptr -> i32
  // CHECK: %[[INDEX:.*]] = arith.extsi %[[WHICH]]
  // CHECK: arith.muli %[[INDEX]], %[[HALF]]
  %tile = pmkvq.take %page : !page -> !v1
  // Every bit of a byte is another output's; a loop of 32 quads of tokens.
  // CHECK: %[[WORDS:.*]] = llvm.load %{{.*}} {alignment = 4 : i64} : !llvm.ptr -> vector<8xi32>
  // CHECK-NEXT: arith.andi %[[WORDS]], %[[ONE]]
  %o = pmkvq.contract %p, %tile : !p, !v1 -> !o
  %true = arith.constant true
  pmkvq.return %true
}

// Keys end at level 2: one region for them, two for values.
// CHECK-LABEL: func.func @levels
pmkvq.kernel @levels(%c: !kv, %task: index) -> i1 {
  %page = pmkvq.fetch %c[%task, %task, %task] : !page
  %key = pmkvq.by_level key %page : !page -> i1 {
  ^bb0(%t: !k2):
    %yes = arith.constant true
    pmkvq.yield %yes : i1
  }
  // CHECK: scf.index_switch
  // CHECK-NEXT: case 2 {
  // CHECK: default {
  %value = pmkvq.by_level value %page : !page -> i1 {
  ^bb0(%t: !v2):
    %yes = arith.constant true
    pmkvq.yield %yes : i1
  }, {
  ^bb0(%t: !v1):
    %no = arith.constant false
    pmkvq.yield %no : i1
  }
  %both = arith.andi %key, %value : i1
  pmkvq.return %both
}

// In its own block, whose first half it fills.
// CHECK-LABEL: func.func @shift
pmkvq.kernel @shift(%c: !kv, %task: index) -> i1 {
  %page = pmkvq.fetch %c[%task, %task, %task] : !page
  %tile = pmkvq.take %page : !page -> !v2
  // CHECK: vector<32xi8>
  // CHECK: arith.trunci %{{.*}} : vector<32xi16> to vector<32xi8>
  %shifted = pmkvq.shift %tile : !v2 -> !v1
  pmkvq.store %shifted, %page : !v1, !page
  %true = arith.constant true
  pmkvq.return %true
}
