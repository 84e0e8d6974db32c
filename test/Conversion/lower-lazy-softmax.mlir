// Weights against a maximum that is seldom raised.
// RUN: pmkvq-opt %s --pmkvq-lower-lazy-softmax --canonicalize --cse | FileCheck %s

// CHECK-LABEL: func @softmax
// CHECK-SAME: (%[[MAX:.*]]: f32, %[[SUM:[^:]*]]: f32, %[[OFFSET:[^:]*]]: f32, %[[OUT:[^:]*]]: vector<1xf32>, %[[X:[^:]*]]: vector<2xf32>, %[[F:[^:]*]]: vector<2xf32>, %[[B:[^:]*]]: vector<2xf32>)
func.func @softmax(%m: f32, %sum: f32, %offset: f32, %o: vector<1xf32>, %x: vector<2xf32>,
                   %f: vector<2xf32>, %b: vector<2xf32>)
    -> (f32, f32, f32, vector<1xf32>, vector<2xf32>) {
  // A weight is 2^(product * factor + bias - maximum - 2).
  // CHECK-DAG: %[[HEADROOM:.*]] = arith.constant 2.000000e+00 : f32
  // CHECK-DAG: %[[LIMIT:.*]] = arith.constant 1.00390625 : f32
  // CHECK-DAG: %[[X0:.*]] = vector.extract %[[X]][0]
  // CHECK-DAG: %[[X1:.*]] = vector.extract %[[X]][1]
  // CHECK-DAG: %[[F0:.*]] = vector.extract %[[F]][0]
  // CHECK-DAG: %[[F1:.*]] = vector.extract %[[F]][1]
  // CHECK-DAG: %[[B0:.*]] = vector.extract %[[B]][0]
  // CHECK-DAG: %[[B1:.*]] = vector.extract %[[B]][1]
  // CHECK: %[[START:.*]] = arith.addf %[[MAX]], %[[HEADROOM]]
  // CHECK: %[[BELOW:.*]] = arith.subf %[[B0]], %[[START]]
  // CHECK: %[[SCORE:.*]] = llvm.intr.fma(%[[X0]], %[[F0]], %[[BELOW]])
  // CHECK: %[[W0:.*]] = llvm.call_intrinsic "llvm.nvvm.ex2.approx.ftz.f32"(%[[SCORE]])
  // CHECK: %[[W1:.*]] = llvm.call_intrinsic "llvm.nvvm.ex2.approx.ftz.f32"
  // CHECK-DAG: %[[O:.*]] = vector.extract %[[OUT]][0]
  // CHECK-DAG: %[[BOTH:.*]] = arith.addf %[[W0]], %[[W1]]
  // CHECK-DAG: %[[USUAL:.*]] = arith.addf %[[SUM]], %[[BOTH]]
  // The warp votes: could a weight exceed 1?  One branch for all lanes; a sum
  // that is no number does not take it.
  // CHECK: %[[ABOVE:.*]] = arith.cmpf ogt, %[[BOTH]], %[[LIMIT]]
  // CHECK: %[[ANY:.*]] = nvvm.vote.sync any %{{.*}}, %[[ABOVE]]
  // CHECK: %[[R:.*]]:6 = scf.if %[[ANY]]
  // If so, the maximum becomes the largest score of the query's 8 lanes,
  // CHECK: %[[S0:.*]] = llvm.intr.fma(%[[X0]], %[[F0]], %[[B0]])
  // CHECK: %[[S1:.*]] = llvm.intr.fma(%[[X1]], %[[F1]], %[[B1]])
  // CHECK: llvm.intr.maxnum(%[[S0]], %[[S1]])
  // CHECK: nvvm.shfl.sync bfly %{{.*}}, %{{.*}}, %c4_i32
  // CHECK: nvvm.shfl.sync bfly %{{.*}}, %{{.*}}, %c8_i32
  // CHECK: nvvm.shfl.sync bfly %{{.*}}, %{{.*}}, %c16_i32
  // CHECK: %[[NEXT:.*]] = llvm.intr.maxnum(%{{.*}}, %[[MAX]])
  // sum, offset and outputs so far are worth less, and weights are made again.
  // CHECK: %[[DROP:.*]] = arith.subf %[[MAX]], %[[NEXT]]
  // CHECK: %[[RESCALE:.*]] = llvm.call_intrinsic "llvm.nvvm.ex2.approx.ftz.f32"(%[[DROP]])
  // CHECK: %[[AGAIN:.*]] = arith.addf %[[NEXT]], %[[HEADROOM]]
  // CHECK: arith.subf %[[B0]], %[[AGAIN]]
  // CHECK: %[[V0:.*]] = llvm.call_intrinsic "llvm.nvvm.ex2.approx.ftz.f32"
  // CHECK: %[[V1:.*]] = llvm.call_intrinsic "llvm.nvvm.ex2.approx.ftz.f32"
  // CHECK-DAG: %[[NEW:.*]] = arith.addf %[[V0]], %[[V1]]
  // CHECK-DAG: %[[O2:.*]] = arith.mulf %[[O]], %[[RESCALE]]
  // CHECK-DAG: %[[SUM2:.*]] = llvm.intr.fma(%[[SUM]], %[[RESCALE]], %[[NEW]])
  // CHECK-DAG: %[[OFFSET2:.*]] = arith.mulf %[[OFFSET]], %[[RESCALE]]
  // CHECK: scf.yield %[[NEXT]], %[[SUM2]], %[[OFFSET2]], %[[O2]], %[[V0]], %[[V1]] :
  // If not, all but the sum stay, without an instruction.
  // CHECK: } else {
  // CHECK-NEXT: scf.yield %[[MAX]], %[[USUAL]], %[[OFFSET]], %[[O]], %[[W0]], %[[W1]] :
  // CHECK: return %[[R]]#0, %[[R]]#1, %[[R]]#2,
  %r:5 = pmkvq.lazy_softmax maxima(%m) sums(%sum) offsets(%offset) outputs(%o)
    products(%x) factors(%f) biases(%b)
    : (f32, f32, f32, vector<1xf32>, vector<2xf32>, vector<2xf32>, vector<2xf32>)
      -> (f32, f32, f32, vector<1xf32>, vector<2xf32>)
  return %r#0, %r#1, %r#2, %r#3, %r#4 : f32, f32, f32, vector<1xf32>, vector<2xf32>
}

// Two queries a lane vote once, and both are raised: each to its own largest
// score, by its own factor.
// CHECK-LABEL: func @two
// CHECK-SAME: (%[[M:.*]]: f32, %[[N:[^:]*]]: f32, %[[S:[^:]*]]: f32, %[[T:[^:]*]]: f32,
func.func @two(%m: f32, %n: f32, %s: f32, %t: f32, %o: vector<1xf32>, %p: vector<1xf32>,
               %x: vector<1xf32>, %y: vector<1xf32>, %f: vector<1xf32>, %b: vector<1xf32>)
    -> (f32, f32, f32, f32, f32, f32, vector<1xf32>, vector<1xf32>, vector<1xf32>, vector<1xf32>) {
  // CHECK: %[[W:.*]] = llvm.call_intrinsic "llvm.nvvm.ex2.approx.ftz.f32"
  // CHECK: %[[V:.*]] = llvm.call_intrinsic "llvm.nvvm.ex2.approx.ftz.f32"
  // CHECK-DAG: %[[USUAL0:.*]] = arith.addf %[[S]], %[[W]]
  // CHECK-DAG: %[[USUAL1:.*]] = arith.addf %[[T]], %[[V]]
  // CHECK-DAG: %[[LARGEST:.*]] = llvm.intr.maxnum(%[[W]], %[[V]])
  // CHECK: %[[ABOVE:.*]] = arith.cmpf ogt, %[[LARGEST]],
  // CHECK: %[[ANY:.*]] = nvvm.vote.sync any %{{.*}}, %[[ABOVE]]
  // CHECK-NOT: nvvm.vote.sync
  // CHECK: %[[R:.*]]:10 = scf.if %[[ANY]]
  // CHECK-COUNT-3: nvvm.shfl.sync bfly
  // CHECK: %[[NEXT0:.*]] = llvm.intr.maxnum(%{{.*}}, %[[M]])
  // CHECK: %[[DROP0:.*]] = arith.subf %[[M]], %[[NEXT0]]
  // CHECK: %[[RESCALE0:.*]] = llvm.call_intrinsic "llvm.nvvm.ex2.approx.ftz.f32"(%[[DROP0]])
  // CHECK: %[[SUM0:.*]] = llvm.intr.fma(%[[S]], %[[RESCALE0]],
  // CHECK-COUNT-3: nvvm.shfl.sync bfly
  // CHECK: %[[NEXT1:.*]] = llvm.intr.maxnum(%{{.*}}, %[[N]])
  // CHECK: %[[DROP1:.*]] = arith.subf %[[N]], %[[NEXT1]]
  // CHECK: %[[RESCALE1:.*]] = llvm.call_intrinsic "llvm.nvvm.ex2.approx.ftz.f32"(%[[DROP1]])
  // CHECK: %[[SUM1:.*]] = llvm.intr.fma(%[[T]], %[[RESCALE1]],
  // CHECK: scf.yield %[[NEXT0]], %[[SUM0]], %{{[^,]*}}, %{{[^,]*}}, %{{[^,]*}}, %[[NEXT1]], %[[SUM1]], %{{[^,]*}}, %{{[^,]*}}, %{{[^,]*}} :
  // CHECK: } else {
  // CHECK-NEXT: scf.yield %[[M]], %[[USUAL0]], %[[M]], %{{[^,]*}}, %[[W]], %[[N]], %[[USUAL1]], %[[N]], %{{[^,]*}}, %[[V]] :
  // Results are grouped by what they are.
  // CHECK-DAG: %[[O0:.*]] = vector.broadcast %[[R]]#3
  // CHECK-DAG: %[[O1:.*]] = vector.broadcast %[[R]]#8
  // CHECK-DAG: %[[W0:.*]] = vector.broadcast %[[R]]#4
  // CHECK-DAG: %[[W1:.*]] = vector.broadcast %[[R]]#9
  // CHECK: return %[[R]]#0, %[[R]]#5, %[[R]]#1, %[[R]]#6, %[[R]]#2, %[[R]]#7, %[[O0]], %[[O1]], %[[W0]], %[[W1]] :
  %r:10 = pmkvq.lazy_softmax maxima(%m, %n) sums(%s, %t) offsets(%m, %n) outputs(%o, %p)
    products(%x, %y) factors(%f, %f) biases(%b, %b)
    : (f32, f32, f32, f32, f32, f32, vector<1xf32>, vector<1xf32>, vector<1xf32>,
       vector<1xf32>, vector<1xf32>, vector<1xf32>, vector<1xf32>, vector<1xf32>)
      -> (f32, f32, f32, f32, f32, f32, vector<1xf32>, vector<1xf32>, vector<1xf32>, vector<1xf32>)
  return %r#0, %r#1, %r#2, %r#3, %r#4, %r#5, %r#6, %r#7, %r#8, %r#9
    : f32, f32, f32, f32, f32, f32, vector<1xf32>, vector<1xf32>, vector<1xf32>, vector<1xf32>
}

// Weights are compared as sums of four, which also make the sum of all; those
// that share a bias share its difference from the maximum.
// CHECK-LABEL: func @sums_of_four
// CHECK-SAME: (%[[M:.*]]: f32, %[[S:[^:]*]]: f32,
func.func @sums_of_four(%m: f32, %s: f32, %o: vector<1xf32>, %x: vector<6xf32>, %b: f32)
    -> (f32, vector<6xf32>) {
  // CHECK: arith.subf
  // CHECK-NOT: arith.subf
  // CHECK: %[[W0:.*]] = llvm.call_intrinsic
  // CHECK: %[[W1:.*]] = llvm.call_intrinsic
  // CHECK: %[[W2:.*]] = llvm.call_intrinsic
  // CHECK: %[[W3:.*]] = llvm.call_intrinsic
  // CHECK: %[[W4:.*]] = llvm.call_intrinsic
  // CHECK: %[[W5:.*]] = llvm.call_intrinsic
  // CHECK-DAG: %[[W01:.*]] = arith.addf %[[W0]], %[[W1]]
  // CHECK-DAG: %[[W012:.*]] = arith.addf %[[W01]], %[[W2]]
  // CHECK-DAG: %[[FOUR:.*]] = arith.addf %[[W012]], %[[W3]]
  // CHECK-DAG: %[[TWO:.*]] = arith.addf %[[W4]], %[[W5]]
  // CHECK-DAG: %[[SIX:.*]] = arith.addf %[[FOUR]], %[[TWO]]
  // CHECK-DAG: %[[LARGEST:.*]] = llvm.intr.maxnum(%[[FOUR]], %[[TWO]])
  // CHECK-DAG: arith.addf %[[S]], %[[SIX]]
  // CHECK-NOT: arith.subf
  // CHECK: arith.cmpf ogt, %[[LARGEST]],
  // CHECK: nvvm.vote.sync
  %bias = vector.from_elements %b, %b, %b, %b, %b, %b : vector<6xf32>
  %r:5 = pmkvq.lazy_softmax maxima(%m) sums(%s) offsets(%s) outputs(%o)
    products(%x) factors(%x) biases(%bias)
    : (f32, f32, f32, vector<1xf32>, vector<6xf32>, vector<6xf32>, vector<6xf32>)
      -> (f32, f32, f32, vector<1xf32>, vector<6xf32>)
  return %r#1, %r#4 : f32, vector<6xf32>
}
