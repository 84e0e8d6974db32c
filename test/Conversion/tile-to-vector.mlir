// Kernels become functions; work lists, pages and rows become addresses in the
// structs of pmkvq_rt/Abi.h.
// RUN: pmkvq-opt %s --convert-pmkvq-tile-to-vector --canonicalize --cse | FileCheck %s --implicit-check-not="pmkvq."

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>, ladder = [4, 2], sink = 2>
!page = !pmkvq.page<<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>, ladder = [4, 2], sink = 2>>
!v4 = !pmkvq.tile<value, 4, 128, 64, <per_token>>
!v2 = !pmkvq.tile<value, 2, 128, 64, <per_token>>
!row = !pmkvq.rows<1, 64>

// A KernelFn: operands in an array, the task's index; 0 is a good status.
// CHECK-LABEL: func.func @status(%{{.*}}: !llvm.ptr, %{{.*}}: i64) -> i32
pmkvq.kernel @status(%b: !pmkvq.batch, %m: memref<?x2x64xf32>, %task: index) -> i1 {
  %one = arith.constant 1 : index
  // CHECK: %[[NOT:.*]] = arith.cmpi ne
  // CHECK-NEXT: %[[STATUS:.*]] = arith.extui %[[NOT]] : i1 to i32
  // CHECK-NEXT: return %[[STATUS]] : i32
  %ok = arith.cmpi eq, %task, %one : index
  pmkvq.return %ok
}

// A page is the address of its entry: 72 bytes at the list's layer, sequence,
// head and page.
// CHECK-LABEL: func.func @page
// CHECK-SAME: (%[[OPERANDS:.*]]: !llvm.ptr, %[[TASK:.*]]: i64)
pmkvq.kernel @page(%c: !kv, %pages: !pmkvq.pages, %task: index) -> i1 {
  // CHECK-DAG: %[[VIEW:.*]] = arith.constant 48 : i64
  // CHECK-DAG: %[[ENTRY:.*]] = arith.constant 72 : i64
  // CHECK: %[[CACHES:.*]] = llvm.load %[[OPERANDS]] : !llvm.ptr -> !llvm.ptr
  // CHECK: %[[LAYER:.*]] = arith.extsi
  // CHECK: %[[AT:.*]] = arith.muli %[[LAYER]], %[[VIEW]]
  // CHECK: %[[CACHE:.*]] = llvm.getelementptr %[[CACHES]][%[[AT]]]
  %cache, %sequence, %head, %p = pmkvq.page_task %pages[%task] of %c : !kv
  // CHECK: llvm.getelementptr %[[CACHE]][16]
  // CHECK: arith.muli %{{.*}}, %[[ENTRY]]
  // CHECK: %[[E:.*]] = llvm.getelementptr
  %page = pmkvq.fetch %cache[%sequence, %head, %p] : !page
  // The value's blocks are at byte 32 of the entry, its level at byte 69.
  // CHECK: llvm.getelementptr %[[E]][32]
  // CHECK: %[[L:.*]] = llvm.getelementptr %[[E]][69]
  // CHECK: llvm.load %[[L]] : !llvm.ptr -> i8
  // CHECK: scf.index_switch
  // CHECK-NEXT: case 4 {
  // CHECK: default {
  %ok = pmkvq.by_level value %page : !page -> i1 {
  ^bb0(%t: !v4):
    pmkvq.store %t, %page : !v4, !page
    %yes = arith.constant true
    pmkvq.yield %yes : i1
  }, {
  ^bb0(%t: !v2):
    %no = arith.constant false
    pmkvq.yield %no : i1
  }
  pmkvq.return %ok
}

// A part at 4 bits is 2 blocks of 32 * 64 bytes; parameters are 2 * 128 fp16
// after the key's 2 * 64.
// CHECK-LABEL: func.func @store
pmkvq.kernel @store(%c: !kv, %task: index) -> i1 {
  // CHECK-DAG: %[[PARAMETERS:.*]] = arith.constant 512 : i64
  // CHECK-DAG: %[[BLOCK:.*]] = arith.constant 2048 : i64
  // CHECK-DAG: %[[BLOCKS:.*]] = arith.constant 2 : i64
  // CHECK: %[[PAR:.*]] = llvm.getelementptr %{{.*}}[256]
  // CHECK: scf.for %{{.*}} to %[[BLOCKS]]
  // CHECK: "llvm.intr.memcpy"(%{{.*}}, %{{.*}}, %[[BLOCK]])
  // CHECK: "llvm.intr.memcpy"(%{{.*}}, %[[PAR]], %[[PARAMETERS]])
  %page = pmkvq.fetch %c[%task, %task, %task] : !page
  %tile = pmkvq.take %page : !page -> !v4
  pmkvq.store %tile, %page with_parameters : !v4, !page
  %ok = arith.constant true
  pmkvq.return %ok
}

// A fixed area has 2 + 128 tokens of 64 bf16; rows are rounded to them.
// CHECK-LABEL: func.func @fixed
pmkvq.kernel @fixed(%c: !kv, %b: !pmkvq.batch, %m: memref<?x2x64xf32>, %task: index) -> i1 {
  // CHECK-DAG: %[[TOKENS:.*]] = arith.constant 130 : i64
  // CHECK-DAG: %[[BYTES:.*]] = arith.constant 128 : i64
  // CHECK: "llvm.intr.memset"
  // CHECK: arith.muli %{{.*}}, %[[TOKENS]]
  // CHECK: arith.muli %{{.*}}, %[[BYTES]]
  // Not a truncf to bf16: on many CPUs that is a call of a function that is
  // not there.
  // CHECK-NOT: arith.truncf
  // CHECK: arith.trunci %{{.*}} : vector<8xi32> to vector<8xi16>
  // CHECK: llvm.store %{{.*}} : vector<8xi16>, !llvm.ptr
  %seq, %token = pmkvq.row_place %b[%task]
  %one = arith.constant 1 : index
  %x = pmkvq.load_rows %m[%task, %one] count %one group 1 : memref<?x2x64xf32> -> !row
  pmkvq.store_fixed value %x, %c[%seq, %one, %token] : !row, !kv
  %ok = arith.constant true
  pmkvq.return %ok
}
