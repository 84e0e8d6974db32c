// Codes on the CPU, in the order of CodeLayout.h.
// RUN: pmkvq-opt %s --convert-pmkvq-tile-to-vector | FileCheck %s

!q = !pmkvq.rows<4, 64>
!p = !pmkvq.rows<4, 128>
!k8 = !pmkvq.tile<key, 8, 128, 64, <per_channel>>
!k4 = !pmkvq.tile<key, 4, 128, 64, <per_channel>>
!k2 = !pmkvq.tile<key, 2, 128, 64, <per_channel>>

// At 2 bits a vector of 32 bytes is a bundle: each lane holds four outputs'
// codes of one quad.  Group 0 is in bits 0-1 of each byte and group 1 in 4-5;
// elements of a quad are in bytes 0, 2, 1, 3.
// CHECK-LABEL: func.func @contract_2
pmkvq.kernel @contract_2(%q: !q, %k: !k2, %task: index) -> i1 {
  // CHECK: %[[W:.*]] = llvm.load %{{.*}} : !llvm.ptr -> vector<8xi32>
  // CHECK-NEXT: %[[MASK:.*]] = arith.constant dense<3> : vector<8xi32>
  // CHECK-NEXT: %[[C:.*]] = arith.andi %[[W]], %[[MASK]]
  // CHECK-NEXT: %[[X:.*]] = arith.sitofp %[[C]] : vector<8xi32> to vector<8xf32>
  // CHECK-COUNT-4: llvm.intr.fmuladd(%[[X]],
  // CHECK-NEXT: %[[B16:.*]] = arith.constant dense<16> : vector<8xi32>
  // CHECK-NEXT: arith.shrui %[[W]], %[[B16]]
  // CHECK-NEXT: arith.constant dense<3>
  // CHECK: arith.constant dense<8> : vector<8xi32>
  // CHECK: arith.constant dense<24> : vector<8xi32>
  // CHECK: arith.constant dense<4> : vector<8xi32>
  // Group 2 fills the gap in bits 2-3; the topmost bits need no mask.
  // CHECK: arith.constant dense<2> : vector<8xi32>
  // CHECK: %[[B30:.*]] = arith.constant dense<30> : vector<8xi32>
  // CHECK-NEXT: %[[TOP:.*]] = arith.shrui %[[W]], %[[B30]]
  // CHECK-NEXT: arith.sitofp %[[TOP]]
  %x = pmkvq.contract %q, %k : !q, !k2 -> !p
  %ok = arith.constant true
  pmkvq.return %ok
}

// At 8 bits a byte is one code, and a bundle is 4 vectors.
// CHECK-LABEL: func.func @contract_8
pmkvq.kernel @contract_8(%q: !q, %k: !k8, %task: index) -> i1 {
  // CHECK: llvm.load %{{.*}} : !llvm.ptr -> vector<8xi32>
  // CHECK-NEXT: arith.constant dense<255> : vector<8xi32>
  // CHECK-COUNT-3: llvm.load %{{.*}} : !llvm.ptr -> vector<8xi32>
  // CHECK-NOT: llvm.load %{{.*}} -> vector<8xi32>
  // CHECK: return
  %x = pmkvq.contract %q, %k : !q, !k8 -> !p
  %ok = arith.constant true
  pmkvq.return %ok
}

// 8 to 4 bits: (c + 8) * 241 >> 12, the second vector into bits 4-7.
// CHECK-LABEL: func.func @shift_8
pmkvq.kernel @shift_8(%k: !k8, %task: index) -> i1 {
  // CHECK-COUNT-2: llvm.load %{{.*}} : !llvm.ptr -> vector<32xi8>
  // CHECK: arith.extui %{{.*}} : vector<32xi8> to vector<32xi16>
  // CHECK: arith.constant dense<8> : vector<32xi16>
  // CHECK: arith.constant dense<241> : vector<32xi16>
  // CHECK: arith.constant dense<12> : vector<32xi16>
  // CHECK: arith.constant dense<12> : vector<32xi16>
  // CHECK: %[[B4:.*]] = arith.constant dense<4> : vector<32xi16>
  // CHECK-NEXT: arith.shli %{{.*}}, %[[B4]]
  // CHECK-NEXT: arith.ori
  // CHECK-NEXT: arith.trunci %{{.*}} : vector<32xi16> to vector<32xi8>
  %x = pmkvq.shift %k : !k8 -> !k4
  %ok = arith.constant true
  pmkvq.return %ok
}

// 4 to 2 bits: c >> 2; the second vector's two fields into bits 2-3 and 6-7.
// CHECK-LABEL: func.func @shift_4
pmkvq.kernel @shift_4(%k: !k4, %task: index) -> i1 {
  // CHECK: arith.constant dense<15> : vector<32xi16>
  // CHECK: %[[TWO:.*]] = arith.constant dense<2> : vector<32xi16>
  // CHECK-NEXT: arith.shrui %{{.*}}, %[[TWO]]
  // CHECK: arith.extui
  // CHECK: arith.constant dense<2>
  // CHECK-NEXT: arith.shrui
  // CHECK-NEXT: %[[B2:.*]] = arith.constant dense<2> : vector<32xi16>
  // CHECK-NEXT: arith.shli %{{.*}}, %[[B2]]
  // CHECK: %[[B6:.*]] = arith.constant dense<6> : vector<32xi16>
  // CHECK-NEXT: arith.shli %{{.*}}, %[[B6]]
  // CHECK-NEXT: arith.ori
  // CHECK-NEXT: arith.trunci
  %x = pmkvq.shift %k : !k4 -> !k2
  %ok = arith.constant true
  pmkvq.return %ok
}
