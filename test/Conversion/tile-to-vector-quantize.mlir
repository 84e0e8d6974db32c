// Quantizing finds extremes a group, then parameters and codes by the format.
// RUN: pmkvq-opt %s --convert-pmkvq-tile-to-vector | FileCheck %s

!k16 = !pmkvq.tile<key, 16, 128, 64, <per_channel>>
!k8 = !pmkvq.tile<key, 8, 128, 64, <per_channel>>
!v16 = !pmkvq.tile<value, 16, 128, 64, <per_token>>
!v8 = !pmkvq.tile<value, 8, 128, 64, <per_token>>

// Per channel: 64 head dims side by side, over the tokens; no sum over lanes.
// Extremes are those of integers in the order of the numbers: bf16 with the bits
// of negative ones turned.
// CHECK-LABEL: func.func @per_channel
pmkvq.kernel @per_channel(%t: !k16, %task: index) -> i1 {
  // CHECK: scf.for
  // A row is asked for 16 tokens ahead.
  // CHECK: llvm.intr.prefetch
  // CHECK: %[[BITS:.*]] = llvm.load %{{.*}} : !llvm.ptr -> vector<64xi16>
  // CHECK: %[[SIGN:.*]] = arith.shrsi %[[BITS]]
  // CHECK: %[[TURNED:.*]] = arith.andi %[[SIGN]]
  // CHECK: %[[X:.*]] = arith.xori %[[BITS]], %[[TURNED]]
  // CHECK: arith.minsi %{{.*}}, %[[X]] : vector<64xi16>
  // CHECK-NEXT: arith.maxsi %{{.*}}, %[[X]] : vector<64xi16>
  // CHECK-NOT: vector.reduction
  // CHECK: arith.truncf %{{.*}} : vector<64xf32> to vector<64xf16>
  // All groups must be representable.
  // CHECK: %[[OK:.*]] = vector.reduction <and>, %{{.*}} : vector<64xi1> into i1
  // CHECK: arith.constant dense<2.550000e+02> : vector<8xf32>
  // CHECK: arith.divf
  // CHECK: math.fma
  // CHECK: math.fma
  // CHECK: arith.addf
  // A key's lane is a token; its bytes are put in the order 0, 2, 1, 3.
  // CHECK: vector.shuffle %{{.*}} [0, 2, 1, 3, 4, 6, 5, 7] : vector<8xi8>
  // CHECK: arith.select %[[OK]]
  %r, %ok = pmkvq.quantize %t : !k16 -> !k8
  pmkvq.return %ok
}

// Per token: over the token's head dims, then over the lanes.
// CHECK-LABEL: func.func @per_token
pmkvq.kernel @per_token(%t: !v16, %task: index) -> i1 {
  // CHECK: arith.minsi
  // CHECK: vector.reduction <minsi>, %{{.*}} : vector<64xi16> into i16
  // CHECK: vector.reduction <maxsi>, %{{.*}} : vector<64xi16> into i16
  // CHECK: vector.reduction <and>, %{{.*}} : vector<128xi1> into i1
  // A value's lane is a head dim; 4 tokens make its bytes, shifted by 16, 8, 24.
  // CHECK: %[[B16:.*]] = arith.constant dense<16> : vector<8xi32>
  // CHECK-NEXT: arith.shli %{{.*}}, %[[B16]]
  // CHECK: %[[B8:.*]] = arith.constant dense<8> : vector<8xi32>
  // CHECK-NEXT: arith.shli %{{.*}}, %[[B8]]
  // CHECK: %[[B24:.*]] = arith.constant dense<24> : vector<8xi32>
  // CHECK-NEXT: arith.shli %{{.*}}, %[[B24]]
  // CHECK: llvm.store %{{.*}} : vector<8xi32>, !llvm.ptr
  %r, %ok = pmkvq.quantize %t : !v16 -> !v8
  pmkvq.return %ok
}
