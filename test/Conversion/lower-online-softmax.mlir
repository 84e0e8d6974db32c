// Weights against the largest score so far.
// RUN: pmkvq-opt %s --pmkvq-lower-online-softmax --canonicalize --cse | FileCheck %s
// No branch: a unit stays one block of instructions.
// RUN: pmkvq-opt %s --pmkvq-lower-online-softmax --canonicalize --cse | FileCheck %s --check-prefix=BRANCH
// BRANCH-NOT: scf.if
// BRANCH-NOT: nvvm.vote.sync

// CHECK-LABEL: func @softmax
// CHECK-SAME: (%[[MAX:.*]]: f32, %[[SUM:[^:]*]]: f32, %[[OFFSET:[^:]*]]: f32, %[[OUT:[^:]*]]: vector<1xf32>, %[[X:[^:]*]]: vector<2xf32>, %[[F:[^:]*]]: vector<2xf32>, %[[B:[^:]*]]: vector<2xf32>)
func.func @softmax(%m: f32, %sum: f32, %offset: f32, %o: vector<1xf32>, %x: vector<2xf32>,
                   %f: vector<2xf32>, %b: vector<2xf32>)
    -> (f32, f32, f32, vector<1xf32>, vector<2xf32>) {
  // CHECK-DAG: %[[HEADROOM:.*]] = arith.constant 1.000000e+00 : f32
  // CHECK-DAG: %[[X0:.*]] = vector.extract %[[X]][0]
  // CHECK-DAG: %[[X1:.*]] = vector.extract %[[X]][1]
  // CHECK-DAG: %[[F0:.*]] = vector.extract %[[F]][0]
  // CHECK-DAG: %[[F1:.*]] = vector.extract %[[F]][1]
  // CHECK-DAG: %[[B0:.*]] = vector.extract %[[B]][0]
  // CHECK-DAG: %[[B1:.*]] = vector.extract %[[B]][1]
  // The next maximum: the largest score of the query's 8 lanes, or the last.
  // CHECK: %[[S0:.*]] = llvm.intr.fma(%[[X0]], %[[F0]], %[[B0]])
  // CHECK: %[[S1:.*]] = llvm.intr.fma(%[[X1]], %[[F1]], %[[B1]])
  // CHECK: %[[A:.*]] = llvm.intr.maxnum(%[[S0]], %[[S1]])
  // CHECK: %[[A4:.*]] = nvvm.shfl.sync bfly %{{.*}}, %[[A]], %c4_i32
  // CHECK: %[[C:.*]] = llvm.intr.maxnum(%[[A]], %[[A4]])
  // CHECK: %[[C8:.*]] = nvvm.shfl.sync bfly %{{.*}}, %[[C]], %c8_i32
  // CHECK: %[[D:.*]] = llvm.intr.maxnum(%[[C]], %[[C8]])
  // CHECK: %[[D16:.*]] = nvvm.shfl.sync bfly %{{.*}}, %[[D]], %c16_i32
  // CHECK: %[[E:.*]] = llvm.intr.maxnum(%[[D]], %[[D16]])
  // CHECK: %[[NEXT:.*]] = llvm.intr.maxnum(%[[E]], %[[MAX]])
  // CHECK: %[[DROP:.*]] = arith.subf %[[MAX]], %[[NEXT]]
  // CHECK: %[[RESCALE:.*]] = llvm.call_intrinsic "llvm.nvvm.ex2.approx.ftz.f32"(%[[DROP]])
  // A weight is 2^(product * factor + bias - maximum - 1).
  // CHECK: %[[START:.*]] = arith.addf %[[NEXT]], %[[HEADROOM]]
  // CHECK: %[[BELOW:.*]] = arith.subf %[[B0]], %[[START]]
  // CHECK: %[[SCORE:.*]] = llvm.intr.fma(%[[X0]], %[[F0]], %[[BELOW]])
  // CHECK: %[[W0:.*]] = llvm.call_intrinsic "llvm.nvvm.ex2.approx.ftz.f32"(%[[SCORE]])
  // CHECK: %[[W1:.*]] = llvm.call_intrinsic "llvm.nvvm.ex2.approx.ftz.f32"
  // Sum, offset and outputs so far are worth less.
  // CHECK-DAG: %[[O:.*]] = vector.extract %[[OUT]][0]
  // CHECK-DAG: %[[BOTH:.*]] = arith.addf %[[W0]], %[[W1]]
  // CHECK-DAG: %[[O2:.*]] = arith.mulf %[[O]], %[[RESCALE]]
  // CHECK-DAG: %[[SUM2:.*]] = llvm.intr.fma(%[[SUM]], %[[RESCALE]], %[[BOTH]])
  // CHECK-DAG: %[[OFFSET2:.*]] = arith.mulf %[[OFFSET]], %[[RESCALE]]
  // CHECK-DAG: %[[OUTPUTS:.*]] = vector.broadcast %[[O2]]
  // CHECK-DAG: %[[WEIGHTS:.*]] = vector.from_elements %[[W0]], %[[W1]]
  // CHECK: return %[[NEXT]], %[[SUM2]], %[[OFFSET2]], %[[OUTPUTS]], %[[WEIGHTS]]
  %r:5 = pmkvq.online_softmax maxima(%m) sums(%sum) offsets(%offset) outputs(%o)
    products(%x) factors(%f) biases(%b)
    : (f32, f32, f32, vector<1xf32>, vector<2xf32>, vector<2xf32>, vector<2xf32>)
      -> (f32, f32, f32, vector<1xf32>, vector<2xf32>)
  return %r#0, %r#1, %r#2, %r#3, %r#4 : f32, f32, f32, vector<1xf32>, vector<2xf32>
}

// Two queries a lane have each its own maximum.
// CHECK-LABEL: func @two
// CHECK-SAME: (%[[M:.*]]: f32, %[[N:[^:]*]]: f32, %[[S:[^:]*]]: f32, %[[T:[^:]*]]: f32,
func.func @two(%m: f32, %n: f32, %s: f32, %t: f32, %o: vector<1xf32>, %p: vector<1xf32>,
               %x: vector<1xf32>, %y: vector<1xf32>, %f: vector<1xf32>, %b: vector<1xf32>)
    -> (f32, f32, f32, f32, f32, f32, vector<1xf32>, vector<1xf32>, vector<1xf32>, vector<1xf32>) {
  // CHECK-COUNT-3: nvvm.shfl.sync bfly
  // CHECK: %[[NEXT0:.*]] = llvm.intr.maxnum(%{{.*}}, %[[M]])
  // CHECK: %[[DROP0:.*]] = arith.subf %[[M]], %[[NEXT0]]
  // CHECK: %[[RESCALE0:.*]] = llvm.call_intrinsic "llvm.nvvm.ex2.approx.ftz.f32"(%[[DROP0]])
  // CHECK: %[[W:.*]] = llvm.call_intrinsic "llvm.nvvm.ex2.approx.ftz.f32"
  // CHECK: %[[SUM0:.*]] = llvm.intr.fma(%[[S]], %[[RESCALE0]], %[[W]])
  // CHECK: %[[OFFSET0:.*]] = arith.mulf %[[M]], %[[RESCALE0]]
  // CHECK-COUNT-3: nvvm.shfl.sync bfly
  // CHECK-NOT: nvvm.shfl.sync bfly
  // CHECK: %[[NEXT1:.*]] = llvm.intr.maxnum(%{{.*}}, %[[N]])
  // CHECK: %[[DROP1:.*]] = arith.subf %[[N]], %[[NEXT1]]
  // CHECK: %[[RESCALE1:.*]] = llvm.call_intrinsic "llvm.nvvm.ex2.approx.ftz.f32"(%[[DROP1]])
  // CHECK: %[[V:.*]] = llvm.call_intrinsic "llvm.nvvm.ex2.approx.ftz.f32"
  // CHECK: %[[SUM1:.*]] = llvm.intr.fma(%[[T]], %[[RESCALE1]], %[[V]])
  // CHECK: %[[OFFSET1:.*]] = arith.mulf %[[N]], %[[RESCALE1]]
  // Results are grouped by what they are.
  // CHECK: return %[[NEXT0]], %[[NEXT1]], %[[SUM0]], %[[SUM1]], %[[OFFSET0]], %[[OFFSET1]],
  %r:10 = pmkvq.online_softmax maxima(%m, %n) sums(%s, %t) offsets(%m, %n) outputs(%o, %p)
    products(%x, %y) factors(%f, %f) biases(%b, %b)
    : (f32, f32, f32, f32, f32, f32, vector<1xf32>, vector<1xf32>, vector<1xf32>,
       vector<1xf32>, vector<1xf32>, vector<1xf32>, vector<1xf32>, vector<1xf32>)
      -> (f32, f32, f32, f32, f32, f32, vector<1xf32>, vector<1xf32>, vector<1xf32>, vector<1xf32>)
  return %r#0, %r#1, %r#2, %r#3, %r#4, %r#5, %r#6, %r#7, %r#8, %r#9
    : f32, f32, f32, f32, f32, f32, vector<1xf32>, vector<1xf32>, vector<1xf32>, vector<1xf32>
}

// Weights are added four at a time; those that share a bias share its
// difference from the maximum.
// CHECK-LABEL: func @sums_of_four
// CHECK-SAME: (%[[M:.*]]: f32, %[[S:[^:]*]]: f32,
func.func @sums_of_four(%m: f32, %s: f32, %o: vector<1xf32>, %x: vector<6xf32>, %b: f32)
    -> (f32, vector<6xf32>) {
  // CHECK: arith.subf %[[M]],
  // CHECK: %[[RESCALE:.*]] = llvm.call_intrinsic
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
  // CHECK: llvm.intr.fma(%[[S]], %[[RESCALE]], %[[SIX]])
  %bias = vector.from_elements %b, %b, %b, %b, %b, %b : vector<6xf32>
  %r:5 = pmkvq.online_softmax maxima(%m) sums(%s) offsets(%s) outputs(%o)
    products(%x) factors(%x) biases(%bias)
    : (f32, f32, f32, vector<1xf32>, vector<6xf32>, vector<6xf32>, vector<6xf32>)
      -> (f32, f32, f32, vector<1xf32>, vector<6xf32>)
  return %r#1, %r#4 : f32, vector<6xf32>
}
