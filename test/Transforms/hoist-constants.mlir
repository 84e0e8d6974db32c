// Constant factors of formats leave the products with codes.
// RUN: pmkvq-opt %s --pass-pipeline="builtin.module(pmkvq.kernel(pmkvq-hoist-constants,canonicalize,cse))" | FileCheck %s

!q = !pmkvq.rows<3, 64>
!p = !pmkvq.rows<3, 128>
!out = memref<?x3x128xf32>
!k4 = !pmkvq.tile<key, 4, 128, 64, <per_channel>>
!kt = !pmkvq.tile<key, 4, 128, 64, <per_token>>

// contract (scale %q, range * c) = scale (contract (scale %q, range)), c
// CHECK-LABEL: kernel @step_of_queries
pmkvq.kernel @step_of_queries(%q: !q, %k: !k4, %out: !out, %task: index) -> i1 {
  // CHECK: %[[C:.*]] = arith.constant dense<0.0666666701> : vector<128xf32>
  // CHECK: %[[P:.*]]:2 = pmkvq.load_parameters %[[K:.*]] :
  // CHECK: %[[A:.*]] = pmkvq.scale %{{.*}}, %[[P]]#1
  // CHECK: %[[Y:.*]] = pmkvq.contract %[[A]], %[[K]]
  // CHECK: %[[Z:.*]] = pmkvq.scale %[[Y]], %[[C]]
  // CHECK: pmkvq.store_rows %[[Z]]
  %min, %range = pmkvq.load_parameters %k : !k4 -> vector<64xf32>, vector<64xf32>
  %c = arith.constant dense<0.0666666701> : vector<64xf32>
  %step = arith.mulf %range, %c : vector<64xf32>
  %a = pmkvq.scale %q, %step : !q, vector<64xf32>
  %y = pmkvq.contract %a, %k : !q, !k4 -> !p
  pmkvq.store_rows %y, %out[%task, %task] count %task group 3 : !p, !out
  %ok = arith.constant true
  pmkvq.return %ok
}

// reduce %q, min + range * d = (reduce %q, min) + d * reduce (scale %q, range), 1:
// queries times ranges are there anyway.
// CHECK-LABEL: kernel @offset_of_queries
pmkvq.kernel @offset_of_queries(%q: !q, %k: !k4, %x: !p, %out: !out, %task: index) -> i1 {
  // CHECK-DAG: %[[D:.*]] = arith.constant dense<1.000000e-01> : vector<3xf32>
  // CHECK-DAG: %[[ONES:.*]] = arith.constant dense<1.000000e+00> : vector<64xf32>
  // CHECK: %[[P:.*]]:2 = pmkvq.load_parameters
  // CHECK: %[[M:.*]] = pmkvq.reduce %[[Q:.*]], %[[P]]#0
  // CHECK: %[[A:.*]] = pmkvq.scale %[[Q]], %[[P]]#1
  // CHECK: %[[R:.*]] = pmkvq.reduce %[[A]], %[[ONES]]
  // CHECK: %[[S:.*]] = arith.mulf %[[R]], %[[D]]
  // CHECK: arith.addf %[[M]], %[[S]]
  %min, %range = pmkvq.load_parameters %k : !k4 -> vector<64xf32>, vector<64xf32>
  %d = arith.constant dense<0.1> : vector<64xf32>
  %margin = arith.mulf %range, %d : vector<64xf32>
  %offset = arith.addf %min, %margin : vector<64xf32>
  %left = pmkvq.reduce %q, %offset : !q, vector<64xf32> -> vector<3xf32>
  %ones = arith.constant dense<1.0> : vector<128xf32>
  %y = pmkvq.add_outer %x, %left, %ones : !p, vector<3xf32>, vector<128xf32>
  pmkvq.store_rows %y, %out[%task, %task] count %task group 3 : !p, !out
  %ok = arith.constant true
  pmkvq.return %ok
}

// Keys per token: range and constant scale the scores one after the other; the
// constant of the offset goes to the side of the queries, which is smaller.
// CHECK-LABEL: kernel @keys_per_token
pmkvq.kernel @keys_per_token(%x: !p, %left: vector<3xf32>, %k: !kt, %out: !out, %task: index) -> i1 {
  // CHECK-DAG: %[[C:.*]] = arith.constant dense<2.500000e-01> : vector<128xf32>
  // CHECK-DAG: %[[D:.*]] = arith.constant dense<2.500000e-01> : vector<3xf32>
  // CHECK: %[[P:.*]]:2 = pmkvq.load_parameters
  // CHECK: %[[A:.*]] = pmkvq.scale %{{.*}}, %[[P]]#1
  // CHECK: %[[B:.*]] = pmkvq.scale %[[A]], %[[C]]
  // CHECK: %[[E:.*]] = pmkvq.add_outer %[[B]], %[[L:.*]], %[[P]]#0
  // CHECK: %[[LD:.*]] = arith.mulf %[[L]], %[[D]]
  // CHECK: %[[F:.*]] = pmkvq.add_outer %[[E]], %[[LD]], %[[P]]#1
  // CHECK: pmkvq.store_rows %[[F]]
  %min, %range = pmkvq.load_parameters %k : !kt -> vector<128xf32>, vector<128xf32>
  %c = arith.constant dense<0.25> : vector<128xf32>
  %step = arith.mulf %range, %c : vector<128xf32>
  %offset = arith.addf %min, %step : vector<128xf32>
  %scaled = pmkvq.scale %x, %step : !p, vector<128xf32>
  %y = pmkvq.add_outer %scaled, %left, %offset : !p, vector<3xf32>, vector<128xf32>
  pmkvq.store_rows %y, %out[%task, %task] count %task group 3 : !p, !out
  %ok = arith.constant true
  pmkvq.return %ok
}

// A factor that is no constant stays.
// CHECK-LABEL: kernel @no_constant
pmkvq.kernel @no_constant(%q: !q, %k: !k4, %by: vector<64xf32>, %out: !out, %task: index) -> i1 {
  // CHECK: %[[STEP:.*]] = arith.mulf
  // CHECK: %[[A:.*]] = pmkvq.scale %{{.*}}, %[[STEP]]
  // CHECK: %[[Y:.*]] = pmkvq.contract %[[A]]
  // CHECK: pmkvq.store_rows %[[Y]]
  %min, %range = pmkvq.load_parameters %k : !k4 -> vector<64xf32>, vector<64xf32>
  %step = arith.mulf %range, %by : vector<64xf32>
  %a = pmkvq.scale %q, %step : !q, vector<64xf32>
  %y = pmkvq.contract %a, %k : !q, !k4 -> !p
  pmkvq.store_rows %y, %out[%task, %task] count %task group 3 : !p, !out
  %ok = arith.constant true
  pmkvq.return %ok
}

// A format with a range alone: its offset is that times two constants, which
// are one; and the products with ranges are there anyway.
!w = !pmkvq.rows<3, 128>
!o = !pmkvq.rows<3, 64>
!vs = !pmkvq.tile<value, 2, 128, 64, <per_token_symmetric>>
!outs = memref<?x3x64xf32>
// CHECK-LABEL: kernel @range_alone
pmkvq.kernel @range_alone(%p: !w, %v: !vs, %out: !outs, %x: !o, %task: index) -> i1 {
  // CHECK-DAG: %[[D:.*]] = arith.constant dense<-4.000000e-01> : vector<3xf32>
  // CHECK-DAG: %[[ONES:.*]] = arith.constant dense<1.000000e+00> : vector<128xf32>
  // CHECK: %[[R:.*]] = pmkvq.load_parameters
  // CHECK: %[[A:.*]] = pmkvq.scale %{{.*}}, %[[R]]
  // CHECK: %[[S:.*]] = pmkvq.reduce %[[A]], %[[ONES]]
  // CHECK: arith.mulf %[[S]], %[[D]]
  // CHECK-NOT: pmkvq.reduce
  %range = pmkvq.load_parameters %v : !vs -> vector<128xf32>
  %half = arith.constant dense<-0.5> : vector<128xf32>
  %tenth = arith.constant dense<0.1> : vector<128xf32>
  %min = arith.mulf %range, %half : vector<128xf32>
  %margin = arith.mulf %range, %tenth : vector<128xf32>
  %offset = arith.addf %min, %margin : vector<128xf32>
  %left = pmkvq.reduce %p, %offset : !w, vector<128xf32> -> vector<3xf32>
  %ones = arith.constant dense<1.0> : vector<64xf32>
  %y = pmkvq.add_outer %x, %left, %ones : !o, vector<3xf32>, vector<64xf32>
  pmkvq.store_rows %y, %out[%task, %task] count %task group 3 : !o, !outs
  %ok = arith.constant true
  pmkvq.return %ok
}
