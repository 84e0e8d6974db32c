// Head dims beyond a multiple of 64 lie behind the others of their 32 tokens.
// RUN: pmkvq-opt %s --pmkvq-unpack-codes --canonicalize --cse | FileCheck %s

// Keys of 80 dims: of each 16 tokens two operands of 32 dims, in a vector, and
// half a one.  The halves of both row blocks are words of 8 bytes a lane.
// CHECK-LABEL: func @keys
// CHECK: %[[LANE:.*]] = arith.andi %{{.*}}, %c31
// CHECK: %[[MINE:.*]] = arith.shli %[[LANE]], %c4
// CHECK: llvm.load %{{.*}} {alignment = 16 : i64} : !llvm.ptr<3> -> vector<4xi32>
// CHECK-COUNT-2: nvvm.mma.sync A[{{.*}}] B[{{.*}}, {{.*}}] {{.*}} shape = #nvvm.shape<m = 16, n = 8, k = 32>
// CHECK: %[[MINE8:.*]] = arith.muli %[[LANE]], %c8
// CHECK: %[[OF:.*]] = llvm.getelementptr %{{.*}}[%[[MINE8]]]
// CHECK: %[[AT:.*]] = llvm.getelementptr %[[OF]][1024]
// CHECK: %[[W:.*]] = llvm.load %[[AT]] {alignment = 8 : i64} : !llvm.ptr<3> -> vector<2xi32>
// CHECK: %[[W0:.*]] = llvm.extractelement %[[W]][%c0
// CHECK: %[[A0:.*]] = arith.andi %[[W0]]
// CHECK: %[[A1:.*]] = arith.andi %[[W0]]
// CHECK: nvvm.mma.sync A[%[[A0]], %[[A1]]] B[%[[B:.*]]] C[{{.*}}] {{.*}} shape = #nvvm.shape<m = 16, n = 8, k = 16>
// CHECK-COUNT-2: nvvm.mma.sync {{.*}} k = 32>
// CHECK: nvvm.mma.sync A[{{.*}}] B[%[[B]]] {{.*}} k = 16>
// CHECK-NOT: nvvm.mma.sync
func.func @keys(%codes: !llvm.ptr<3>, %c: vector<6xi32>) -> vector<4xf32> {
  %s = pmkvq.multiply_codes key 4 tokens 32 head_dim 80 in %codes, %c
    : !llvm.ptr<3>, vector<6xi32> -> vector<4xf32>
  return %s : vector<4xf32>
}

// Values of 80 dims at 2 bits: the fifth 16 have no other 16 to share words
// with, so that a word has both halves of their tokens.
// CHECK-LABEL: func @values
// CHECK-COUNT-4: nvvm.mma.sync {{.*}} k = 32>
// CHECK: %[[W:.*]] = llvm.load %{{.*}} {alignment = 4 : i64} : !llvm.ptr<3> -> i32
// CHECK: %[[A0:.*]] = arith.andi %[[W]], %[[LOW:.*]] : i32
// CHECK: %[[A1:.*]] = arith.andi %[[W]], %[[HIGH:.*]] : i32
// CHECK: %[[LATER:.*]] = arith.shrui %[[W]], %c4
// CHECK: %[[A2:.*]] = arith.andi %[[LATER]], %[[LOW]] : i32
// CHECK: %[[A3:.*]] = arith.andi %[[LATER]], %[[HIGH]] : i32
// CHECK: nvvm.mma.sync A[%[[A0]], %[[A1]], %[[A2]], %[[A3]]] {{.*}} k = 32>
// CHECK-NOT: nvvm.mma.sync
func.func @values(%codes: !llvm.ptr<3>, %c: vector<2xi32>) -> vector<10xf32> {
  %s = pmkvq.multiply_codes value 2 tokens 32 head_dim 80 in %codes, %c
    : !llvm.ptr<3>, vector<2xi32> -> vector<10xf32>
  return %s : vector<10xf32>
}

// Of 96 dims the rest is a block of k, or two of rows.
// CHECK-LABEL: func @more_keys
// CHECK-COUNT-4: nvvm.mma.sync {{.*}} k = 32>
// CHECK: llvm.load %{{.*}} {alignment = 8 : i64} : !llvm.ptr<3> -> vector<2xi32>
// CHECK-NOT: arith.shrui
// CHECK-COUNT-2: nvvm.mma.sync {{.*}} k = 32>
// CHECK-NOT: nvvm.mma.sync
func.func @more_keys(%codes: !llvm.ptr<3>, %c: vector<6xi32>) -> vector<4xf32> {
  %s = pmkvq.multiply_codes key 2 tokens 32 head_dim 96 in %codes, %c
    : !llvm.ptr<3>, vector<6xi32> -> vector<4xf32>
  return %s : vector<4xf32>
}
