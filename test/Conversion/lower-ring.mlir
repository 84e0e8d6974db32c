// Staged units become bulk copies and barriers.
// RUN: pmkvq-opt %s --pmkvq-lower-ring --canonicalize --cse | FileCheck %s

// Only one lane issues.  One copy a piece of the unit: parameters of keys and
// values are one piece where a unit is a page, and a raw unit has none.
// CHECK-LABEL: func @issue
// CHECK-SAME: (%[[RING:.*]]: !llvm.ptr<3>, %[[BARRIERS:.*]]: !llvm.ptr<3>, %[[CODES:[^:]*]]: !llvm.ptr<1>, %[[PARAMETERS:.*]]: !llvm.ptr<1>, %[[N:.*]]: i32, %[[EXISTS:.*]]: i1, %[[POLICY:.*]]: i64, %[[KEY:[^:]*]]: i32, %[[VALUE:[^:]*]]: i32, %[[SLOT:[^:]*]]: i32, %[[INFO:.*]]: i32)
func.func @issue(%ring: !llvm.ptr<3>, %barriers: !llvm.ptr<3>, %codes: !llvm.ptr<1>,
                 %parameters: !llvm.ptr<1>, %n: i32, %exists: i1, %policy: i64,
                 %key: i32, %value: i32, %slot: i32, %info: i32) {
  // CHECK: %[[LANE:.*]] = arith.andi %{{.*}}, %c31_i32
  // CHECK: %[[FIRST:.*]] = arith.cmpi eq, %[[LANE]], %c0_i32
  // CHECK: %[[LEADER:.*]] = arith.andi %[[EXISTS]], %[[FIRST]]
  // CHECK: scf.if %[[LEADER]] {
  // CHECK: %[[KIND:.*]] = arith.andi %[[INFO]], %c255
  // CHECK: %[[RAW:.*]] = arith.cmpi eq, %[[KIND]], %c0
  // CHECK: scf.if %[[RAW]] {
  // CHECK: nvvm.mbarrier.arrive.expect_tx %{{.*}}, %c8192_i32
  // CHECK-COUNT-2: nvvm.cp.async.bulk.shared.cluster.global %{{.*}}, %c4096_i32 l2_cache_hint = %[[POLICY]]
  // CHECK-NOT: nvvm.cp.async
  // CHECK: } else {
  // CHECK: nvvm.mbarrier.arrive.expect_tx %{{.*}}, %c9216_i32
  // CHECK: nvvm.cp.async.bulk.shared.cluster.global %{{.*}}, %c1024_i32
  // CHECK: nvvm.cp.async.bulk.shared.cluster.global %{{.*}}, %c4096_i32
  // CHECK: nvvm.cp.async.bulk.shared.cluster.global %{{.*}}, %c4096_i32
  // CHECK-NOT: nvvm.cp.async
  pmkvq.ring_issue %n into %ring, %barriers if %exists from %codes, %parameters
    at %key, %value, %slot info %info policy %policy
    kinds [16, 16, 2, 2] slots 2 slot_bytes 9216 head_dim 128 keys_per_token false
    : !llvm.ptr<3>, !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  return
}

// Unit n goes to slot n mod 2, 64 bits on from its number in grains of 128
// bytes; parameters of values begin at the unit's tokens in the page.
// CHECK-LABEL: func @places
// CHECK-SAME: (%[[RING:.*]]: !llvm.ptr<3>, %[[BARRIERS:.*]]: !llvm.ptr<3>, %[[CODES:[^:]*]]: !llvm.ptr<1>, %[[PARAMETERS:.*]]: !llvm.ptr<1>, %[[N:.*]]: i32, %[[EXISTS:.*]]: i1, %[[POLICY:.*]]: i64, %[[KEY:[^:]*]]: i32, %[[VALUE:[^:]*]]: i32, %[[SLOT:[^:]*]]: i32, %[[INFO:.*]]: i32)
func.func @places(%ring: !llvm.ptr<3>, %barriers: !llvm.ptr<3>, %codes: !llvm.ptr<1>,
                  %parameters: !llvm.ptr<1>, %n: i32, %exists: i1, %policy: i64,
                  %key: i32, %value: i32, %slot: i32, %info: i32) {
  // CHECK: %[[PARITY:.*]] = arith.andi %[[N]], %c1_i32
  // CHECK: %[[OFFSET:.*]] = arith.muli %[[PARITY]], %c7168_i32
  // CHECK: %[[TO:.*]] = llvm.getelementptr %[[RING]][%[[OFFSET]]]
  // CHECK: %[[BOFFSET:.*]] = arith.muli %[[PARITY]], %c8_i32
  // CHECK: %[[BARRIER:.*]] = llvm.getelementptr %[[BARRIERS]][%[[BOFFSET]]]
  // CHECK: nvvm.mbarrier.arrive.expect_tx %[[BARRIER]], %c6912_i32
  // CHECK: %[[WIDE:.*]] = arith.extui %[[SLOT]] : i32 to i64
  // CHECK: %[[BYTES:.*]] = arith.muli %[[WIDE]], %c1024_i64
  // CHECK: %[[P:.*]] = llvm.getelementptr %[[PARAMETERS]][%[[BYTES]]]
  // CHECK: %[[SHIFTED:.*]] = arith.shrui %[[INFO]], %c16_i32
  // CHECK: %[[GRAIN:.*]] = arith.andi %[[SHIFTED]], %c255_i32
  // CHECK: %[[GBYTES:.*]] = arith.muli %[[GRAIN]], %c128_i32
  // CHECK: nvvm.cp.async.bulk.shared.cluster.global %[[TO]], %[[P]], %[[BARRIER]], %c512_i32
  // CHECK: %[[V:.*]] = llvm.getelementptr %[[P]][512]
  // CHECK: %[[VG:.*]] = llvm.getelementptr %[[V]][%[[GBYTES]]]
  // CHECK: nvvm.cp.async.bulk.shared.cluster.global %{{.*}}, %[[VG]], %[[BARRIER]], %c256_i32
  // CHECK: %[[WIDE:.*]] = arith.extui %[[KEY]] : i32 to i64
  // CHECK: %[[BYTES:.*]] = arith.muli %[[WIDE]], %c128_i64
  // CHECK: %[[K:.*]] = llvm.getelementptr %[[CODES]][%[[BYTES]]]
  // CHECK: %[[AT:.*]] = llvm.getelementptr %[[TO]][768]
  // CHECK: nvvm.cp.async.bulk.shared.cluster.global %[[AT]], %[[K]], %[[BARRIER]], %c4096_i32
  // CHECK: %[[AT:.*]] = llvm.getelementptr %[[TO]][4864]
  // CHECK: nvvm.cp.async.bulk.shared.cluster.global %[[AT]], %{{.*}}, %[[BARRIER]], %c2048_i32
  pmkvq.ring_issue %n into %ring, %barriers if %exists from %codes, %parameters
    at %key, %value, %slot info %info policy %policy
    kinds [4, 2] slots 2 slot_bytes 7168 head_dim 128 keys_per_token false
    : !llvm.ptr<3>, !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  return
}

// Parameters of keys per token begin at the unit's tokens too.
// CHECK-LABEL: func @keys_per_token
func.func @keys_per_token(%s: !llvm.ptr<3>, %codes: !llvm.ptr<1>,
                          %parameters: !llvm.ptr<1>, %n: i32, %exists: i1,
                          %policy: i64, %info: i32) {
  // CHECK: %[[GBYTES:.*]] = arith.muli %{{.*}}, %c128_i32
  // CHECK: %[[K:.*]] = llvm.getelementptr %{{.*}}[%[[GBYTES]]]
  // CHECK: nvvm.cp.async.bulk.shared.cluster.global %{{.*}}, %[[K]], %{{.*}}, %c256_i32
  // CHECK: %[[V:.*]] = llvm.getelementptr %{{.*}}[%[[GBYTES]]]
  // CHECK: nvvm.cp.async.bulk.shared.cluster.global %{{.*}}, %[[V]], %{{.*}}, %c256_i32
  pmkvq.ring_issue %n into %s, %s if %exists from %codes, %parameters
    at %n, %n, %n info %info policy %policy
    kinds [4, 4] slots 2 slot_bytes 8704 head_dim 128 keys_per_token true
    : !llvm.ptr<3>, !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  return
}

// Beside keys at level 16 the other side is the whole grain: 32 tokens, their
// parameters and codes.
// CHECK-LABEL: func @raw_keys
func.func @raw_keys(%s: !llvm.ptr<3>, %codes: !llvm.ptr<1>,
                    %parameters: !llvm.ptr<1>, %n: i32, %exists: i1,
                    %policy: i64, %info: i32) {
  // CHECK: nvvm.mbarrier.arrive.expect_tx %{{.*}}, %c5248_i32
  // CHECK: %[[GBYTES:.*]] = arith.muli %{{.*}}, %c128_i32
  // CHECK: %[[V:.*]] = llvm.getelementptr %{{.*}}[%[[GBYTES]]]
  // CHECK: nvvm.cp.async.bulk.shared.cluster.global %{{.*}}, %[[V]], %{{.*}}, %c128_i32
  // CHECK: nvvm.cp.async.bulk.shared.cluster.global %{{.*}}, %c4096_i32
  // CHECK: nvvm.cp.async.bulk.shared.cluster.global %{{.*}}, %c1024_i32
  // CHECK-NOT: nvvm.cp.async
  pmkvq.ring_issue %n into %s, %s if %exists from %codes, %parameters
    at %n, %n, %n info %info policy %policy
    kinds [16, 2] slots 2 slot_bytes 5248 head_dim 128 keys_per_token false
    : !llvm.ptr<3>, !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  return
}

// Values with a byte a token: 64 bytes, from the unit's tokens on.
// CHECK-LABEL: func @ranges_alone
func.func @ranges_alone(%s: !llvm.ptr<3>, %codes: !llvm.ptr<1>,
                        %parameters: !llvm.ptr<1>, %n: i32, %exists: i1,
                        %policy: i64, %info: i32) {
  // CHECK: nvvm.mbarrier.arrive.expect_tx %{{.*}}, %c8768_i32
  // CHECK: arith.muli %{{.*}}, %c640_i64
  // CHECK: %[[GBYTES:.*]] = arith.muli %{{.*}}, %c32_i32
  // CHECK: nvvm.cp.async.bulk.shared.cluster.global %{{.*}}, %c512_i32
  // CHECK: %[[V:.*]] = llvm.getelementptr %{{.*}}[%[[GBYTES]]]
  // CHECK: nvvm.cp.async.bulk.shared.cluster.global %{{.*}}, %[[V]], %{{.*}}, %c64_i32
  pmkvq.ring_issue %n into %s, %s if %exists from %codes, %parameters
    at %n, %n, %n info %info policy %policy
    kinds [4, 4] slots 2 slot_bytes 8832 head_dim 128 keys_per_token false
    value_bytes 1
    : !llvm.ptr<3>, !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  return
}

// Of a whole page both parts' parameters are one copy.
// CHECK-LABEL: func @ranges_alone_of_a_page
func.func @ranges_alone_of_a_page(%s: !llvm.ptr<3>, %codes: !llvm.ptr<1>,
                                  %parameters: !llvm.ptr<1>, %n: i32,
                                  %exists: i1, %policy: i64, %info: i32) {
  // CHECK: nvvm.mbarrier.arrive.expect_tx %{{.*}}, %c8832_i32
  // CHECK: nvvm.cp.async.bulk.shared.cluster.global %{{.*}}, %c640_i32
  // CHECK-COUNT-2: nvvm.cp.async.bulk.shared.cluster.global %{{.*}}, %c4096_i32
  // CHECK-NOT: nvvm.cp.async
  pmkvq.ring_issue %n into %s, %s if %exists from %codes, %parameters
    at %n, %n, %n info %info policy %policy
    kinds [2, 2] slots 2 slot_bytes 8832 head_dim 128 keys_per_token false
    value_bytes 1
    : !llvm.ptr<3>, !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  return
}

// A slot's barrier changes phase every second unit.
// CHECK-LABEL: func @wait
func.func @wait(%ring: !llvm.ptr<3>, %barriers: !llvm.ptr<3>, %n: i32) -> !llvm.ptr<3> {
  // CHECK: %[[PARITY:.*]] = arith.andi %[[N:.*]], %c1_i32
  // CHECK: %[[SLOT:.*]] = llvm.getelementptr %{{.*}}[%{{.*}}]
  // CHECK: %[[BARRIER:.*]] = llvm.getelementptr %{{.*}}[%{{.*}}]
  // CHECK: %[[HALF:.*]] = arith.shrui %[[N]], %c1_i32
  // CHECK: %[[PHASE:.*]] = arith.andi %[[HALF]], %c1_i32
  // CHECK: nvvm.mbarrier.try_wait.parity %[[BARRIER]], %[[PHASE]],
  // CHECK: return %[[SLOT]]
  %slot = pmkvq.ring_wait %n of %ring, %barriers slots 2 slot_bytes 9216
    : !llvm.ptr<3>, !llvm.ptr<3> -> !llvm.ptr<3>
  return %slot : !llvm.ptr<3>
}
