// Products become `contract` on bare codes and algebra by the format.
// RUN: pmkvq-opt %s --pass-pipeline="builtin.module(pmkvq.kernel(pmkvq-fold-parameters))" | FileCheck %s

!q = !pmkvq.rows<3, 64>
!p = !pmkvq.rows<3, 128>
!state = !pmkvq.softmax<3, 64>

// Groups along the summed axis: step scales the rows before the product, offset
// adds one number a row.  At 4 bits step is range / 15.
// CHECK-LABEL: kernel @keys_per_channel
pmkvq.kernel @keys_per_channel(%q: !q, %k: !pmkvq.tile<key, 4, 128, 64, <per_channel>>,
                               %task: index) -> i1 {
  // CHECK: %[[P:.*]]:2 = pmkvq.load_parameters %[[K:.*]] : {{.*}} -> vector<64xf32>, vector<64xf32>
  // CHECK: %[[C:.*]] = arith.constant dense<0.0666666701> : vector<64xf32>
  // CHECK: %[[STEP:.*]] = arith.mulf %[[P]]#1, %[[C]]
  // CHECK: %[[QS:.*]] = pmkvq.scale %[[Q:.*]], %[[STEP]] : <3, 64>, vector<64xf32>
  // CHECK: %[[B:.*]] = pmkvq.reduce %[[Q]], %[[P]]#0 : <3, 64>, vector<64xf32> -> vector<3xf32>
  // CHECK: %[[Y:.*]] = pmkvq.contract %[[QS]], %[[K]] : <3, 64>, <key, 4, {{.*}}> -> <3, 128>
  // CHECK: %[[ONES:.*]] = arith.constant dense<1.000000e+00> : vector<128xf32>
  // CHECK: %[[X:.*]] = pmkvq.add_outer %[[Y]], %[[B]], %[[ONES]]
  // CHECK: pmkvq.causal_mask %[[X]]
  %x = pmkvq.scores %q, %k : !q, !pmkvq.tile<key, 4, 128, 64, <per_channel>> -> !p
  %used = pmkvq.causal_mask %x visible %task group 3 : !p
  %ok = arith.constant true
  pmkvq.return %ok
}

// Groups along the other axis: step scales the product, offset adds an outer
// product with the rows' sums.  At 8 bits step is range / 255.
// CHECK-LABEL: kernel @keys_per_token
pmkvq.kernel @keys_per_token(%q: !q, %k: !pmkvq.tile<key, 8, 128, 64, <per_token>>,
                             %task: index) -> i1 {
  // CHECK: %[[P:.*]]:2 = pmkvq.load_parameters %[[K:.*]] : {{.*}} -> vector<128xf32>, vector<128xf32>
  // CHECK: %[[C:.*]] = arith.constant dense<0.00392156886> : vector<128xf32>
  // CHECK: %[[STEP:.*]] = arith.mulf %[[P]]#1, %[[C]]
  // CHECK: %[[Y:.*]] = pmkvq.contract %[[Q:.*]], %[[K]]
  // CHECK: %[[YS:.*]] = pmkvq.scale %[[Y]], %[[STEP]] : <3, 128>
  // CHECK: %[[ONES:.*]] = arith.constant dense<1.000000e+00> : vector<64xf32>
  // CHECK: %[[SUMS:.*]] = pmkvq.reduce %[[Q]], %[[ONES]]
  // CHECK: pmkvq.add_outer %[[YS]], %[[SUMS]], %[[P]]#0
  %x = pmkvq.scores %q, %k : !q, !pmkvq.tile<key, 8, 128, 64, <per_token>> -> !p
  %ok = arith.constant true
  pmkvq.return %ok
}

// At 2 bits codes cover the middle 0.8 of the range: step is range * 0.8 / 3,
// offset is min + range * 0.1.
// CHECK-LABEL: kernel @clip_at_2_bits
pmkvq.kernel @clip_at_2_bits(%q: !q, %k: !pmkvq.tile<key, 2, 128, 64, <per_channel>>,
                             %task: index) -> i1 {
  // CHECK: %[[P:.*]]:2 = pmkvq.load_parameters
  // CHECK: %[[C:.*]] = arith.constant dense<0.266666681>
  // CHECK: %[[STEP:.*]] = arith.mulf %[[P]]#1, %[[C]]
  // CHECK: %[[M:.*]] = arith.constant dense<1.000000e-01>
  // CHECK: %[[MARGIN:.*]] = arith.mulf %[[P]]#1, %[[M]]
  // CHECK: %[[OFFSET:.*]] = arith.addf %[[P]]#0, %[[MARGIN]]
  // CHECK: pmkvq.scale %[[Q:.*]], %[[STEP]]
  // CHECK: pmkvq.reduce %[[Q]], %[[OFFSET]]
  %x = pmkvq.scores %q, %k : !q, !pmkvq.tile<key, 2, 128, 64, <per_channel>> -> !p
  %ok = arith.constant true
  pmkvq.return %ok
}

// For values tokens are summed over: per_token parameters scale the weights.
// CHECK-LABEL: kernel @values_per_token
pmkvq.kernel @values_per_token(%s: !state, %w: !p, %v: !pmkvq.tile<value, 4, 128, 64, <per_token>>,
                               %b: !pmkvq.batch, %task: index) -> i1 {
  // CHECK: %[[WS:.*]] = pmkvq.scale %{{.*}}, %{{.*}} : <3, 128>, vector<128xf32>
  // CHECK: pmkvq.contract %[[WS]], %{{.*}} : <3, 128>, <value, 4, {{.*}}> -> <3, 64>
  // CHECK: %[[O:.*]] = pmkvq.add_outer
  // CHECK: %[[N:.*]] = pmkvq.softmax_add %{{.*}}, %[[O]] : <3, 64>, <3, 64>
  // CHECK: pmkvq.store_partial %[[N]]
  %n = pmkvq.accumulate %s, %w, %v : !state, !p, !pmkvq.tile<value, 4, 128, 64, <per_token>>
  pmkvq.store_partial %n, %b[%task] : !state
  %ok = arith.constant true
  pmkvq.return %ok
}

// At level 16 codes are the values: nothing to fold.
// CHECK-LABEL: kernel @level_16
// CHECK-NOT: load_parameters
// CHECK: pmkvq.contract %{{.*}}, %{{.*}} : <3, 64>, <key, 16
// CHECK-NEXT: arith.constant true
pmkvq.kernel @level_16(%q: !q, %k: !pmkvq.tile<key, 16, 128, 64, <per_channel>>,
                       %task: index) -> i1 {
  %x = pmkvq.scores %q, %k : !q, !pmkvq.tile<key, 16, 128, 64, <per_channel>> -> !p
  %ok = arith.constant true
  pmkvq.return %ok
}
