// Rows before products with codes are rounded; a factor and an addition beside
// the product go into it, and what rounding lost, times the middle of the codes.
// RUN: pmkvq-opt %s --pass-pipeline="builtin.module(pmkvq.kernel(pmkvq-products-to-integers))" | FileCheck %s

!q = !pmkvq.rows<3, 64>
!p = !pmkvq.rows<3, 128>
!k2 = !pmkvq.tile<key, 2, 128, 64, <per_channel>>
!k8 = !pmkvq.tile<key, 8, 128, 64, <per_token>>
!k16 = !pmkvq.tile<key, 16, 128, 64, <per_channel>>

// CHECK-LABEL: kernel @scaled_and_added
// CHECK-SAME: %[[Q:.*]]: !pmkvq.rows<3, 64>, %[[K:.*]]: !pmkvq.tile<{{.*}}>, %[[STEP:.*]]: vector<64xf32>, %[[BIAS:.*]]: vector<3xf32>, %{{.*}}: index
pmkvq.kernel @scaled_and_added(%q: !q, %k: !k2, %step: vector<64xf32>, %bias: vector<3xf32>,
                               %task: index) -> i1 {
  %ones = arith.constant dense<1.0> : vector<128xf32>
  // CHECK-NOT: pmkvq.scale
  // CHECK: %[[I:.*]], %[[UNIT:.*]], %[[LOST:.*]] = pmkvq.round_rows %[[Q]] by %[[STEP]] : <3, 64>, vector<64xf32> -> <3, 64>, vector<3xf32>
  // CHECK: %[[MIDDLE:.*]] = arith.constant dense<1.500000e+00> : vector<3xf32>
  // CHECK: %[[L:.*]] = arith.mulf %[[LOST]], %[[MIDDLE]]
  // CHECK: %[[B:.*]] = arith.addf %[[BIAS]], %[[L]]
  // CHECK: %[[X:.*]] = pmkvq.contract_integers %[[I]], %[[K]] unit %[[UNIT]] bias %[[B]] ahead %[[K]] : <3, 64>, <key, 2, {{.*}}>, vector<3xf32> -> <3, 128>
  // CHECK-NOT: pmkvq.add_outer
  %qs = pmkvq.scale %q, %step : !q, vector<64xf32>
  %y = pmkvq.contract %qs, %k ahead %k : !q, !k2 -> !p
  %x = pmkvq.add_outer %y, %bias, %ones : !p, vector<3xf32>, vector<128xf32>
  // CHECK: pmkvq.causal_mask %[[X]]
  %used = pmkvq.causal_mask %x visible %task group 3 : !p
  %ok = arith.constant true
  pmkvq.return %ok
}

// Rows that others use stay; what is added a column stays beside the product.
// CHECK-LABEL: kernel @per_token
pmkvq.kernel @per_token(%q: !q, %k: !k8, %step: vector<128xf32>, %min: vector<128xf32>,
                        %sums: vector<3xf32>, %factor: vector<64xf32>, %task: index) -> i1 {
  // CHECK: %[[QS:.*]] = pmkvq.scale
  %qs = pmkvq.scale %q, %factor : !q, vector<64xf32>
  // CHECK: pmkvq.causal_mask %[[QS]]
  %other = pmkvq.causal_mask %qs visible %task group 3 : !q
  // CHECK: %[[I:.*]], %[[UNIT:.*]], %[[LOST:.*]] = pmkvq.round_rows
  // CHECK: %[[MIDDLE:.*]] = arith.constant dense<1.275000e+02> : vector<3xf32>
  // CHECK: %[[B:.*]] = arith.mulf %[[LOST]], %[[MIDDLE]]
  // CHECK: %[[Y:.*]] = pmkvq.contract_integers %[[I]], %{{.*}} unit %[[UNIT]] bias %[[B]] : <3, 64>
  // CHECK: %[[Z:.*]] = pmkvq.scale %[[Y]]
  // CHECK: pmkvq.add_outer %[[Z]]
  %y = pmkvq.contract %qs, %k : !q, !k8 -> !p
  %z = pmkvq.scale %y, %step : !p, vector<128xf32>
  %x = pmkvq.add_outer %z, %sums, %min : !p, vector<3xf32>, vector<128xf32>
  %used = pmkvq.causal_mask %x visible %task group 3 : !p
  %ok = arith.constant true
  pmkvq.return %ok
}

// bf16 values are multiplied as floats.
// CHECK-LABEL: kernel @values_of_16_bits
pmkvq.kernel @values_of_16_bits(%q: !q, %k: !k16, %task: index) -> i1 {
  // CHECK: pmkvq.contract %
  %y = pmkvq.contract %q, %k : !q, !k16 -> !p
  %ok = arith.constant true
  pmkvq.return %ok
}
