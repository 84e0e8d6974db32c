// RUN: pmkvq-opt %s --pmkvq-outline-loops --split-input-file | FileCheck %s

// Ops that differ only in their operands call one function.
// CHECK-LABEL: func @two_layers
func.func @two_layers(%a: memref<?x64xf32>, %b: memref<?x64xf32>, %x: f32) {
  // CHECK: call @loops_0(%[[X:.*]], %[[A:.*]]) : (f32, memref<?x64xf32>) -> ()
  linalg.fill ins(%x : f32) outs(%a : memref<?x64xf32>)
  // CHECK: call @loops_0(%[[X]], %{{.*}})
  linalg.fill ins(%x : f32) outs(%b : memref<?x64xf32>)
  return
}
// CHECK: func private @loops_0(%{{.*}}: f32, %{{.*}}: memref<?x64xf32>)
// CHECK-SAME: passthrough = ["noinline"]
// CHECK-NEXT: linalg.fill
// CHECK-NEXT: return
// CHECK-NOT: func{{.*}} @

// -----

// Another type is another function; what a region takes from outside is an
// argument.
// CHECK-LABEL: func @captured
func.func @captured(%a: memref<?x64xf32>, %b: memref<?x32xf32>, %table: memref<64xf32>) {
  %zero = arith.constant 0 : index
  // CHECK: call @loops_0(%{{.*}}, %[[T:.*]], %[[Z:.*]]) : (memref<?x64xf32>, memref<64xf32>, index) -> ()
  linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>], iterator_types = ["parallel", "parallel"]} outs(%a : memref<?x64xf32>) {
  ^bb0(%o: f32):
    %x = memref.load %table[%zero] : memref<64xf32>
    linalg.yield %x : f32
  }
  // CHECK: call @loops_1
  linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>], iterator_types = ["parallel", "parallel"]} outs(%b : memref<?x32xf32>) {
  ^bb0(%o: f32):
    %x = memref.load %table[%zero] : memref<64xf32>
    linalg.yield %x : f32
  }
  return
}

// -----

// Ops on tensors stay where they are.
// CHECK-LABEL: func @tensors
// CHECK: linalg.fill
// CHECK-NOT: func{{.*}} @
func.func @tensors(%t: tensor<4xf32>, %x: f32) -> tensor<4xf32> {
  %r = linalg.fill ins(%x : f32) outs(%t : tensor<4xf32>) -> tensor<4xf32>
  return %r : tensor<4xf32>
}
