// Round trip of the ops on tiles, custom form and generic form.
// RUN: pmkvq-opt %s | pmkvq-opt | FileCheck %s
// RUN: pmkvq-opt %s --mlir-print-op-generic | pmkvq-opt | FileCheck %s

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>,
                   value = <per_token>, ladder = [4, 2]>
!page = !pmkvq.page<<kv_heads = 2, head_dim = 64, key = <per_channel>,
                     value = <per_token>, ladder = [4, 2]>>
!k16 = !pmkvq.tile<key, 16, 128, 64, <per_channel>>
!k8 = !pmkvq.tile<key, 8, 128, 64, <per_channel>>
!k4 = !pmkvq.tile<key, 4, 128, 64, <per_channel>>
!k2 = !pmkvq.tile<key, 2, 128, 64, <per_channel>>
!fed = !pmkvq.cache<kv_heads = 2, head_dim = 64,
                    key = <per_channel, hadamard, feedback>, value = <per_token>>
!f8 = !pmkvq.tile<key, 8, 128, 64, <per_channel, hadamard, feedback>>
!f4 = !pmkvq.tile<key, 4, 128, 64, <per_channel, hadamard, feedback>>
!f2 = !pmkvq.tile<key, 2, 128, 64, <per_channel, hadamard, feedback>>
!v4 = !pmkvq.tile<value, 4, 128, 64, <per_token>>
!v2 = !pmkvq.tile<value, 2, 128, 64, <per_token>>

// CHECK: pmkvq.kernel @worker(%{{.*}}: !pmkvq.batch, %{{.*}}: memref<?x2x64xf32>, %{{.*}}: index) -> i1 {
pmkvq.kernel @worker(%batch: !pmkvq.batch, %out: memref<?x2x64xf32>, %task: index) -> i1 {
  %ok = arith.constant true
  // CHECK: pmkvq.return %{{.*}}
  pmkvq.return %ok
}
pmkvq.kernel @on_cache(%c: !kv, %batch: !pmkvq.batch, %in: memref<?x2x64xf32>,
                       %task: index) -> i1 {
  %ok = arith.constant true
  pmkvq.return %ok
}

// CHECK-LABEL: func @launches
func.func @launches(%c: !kv, %b: !pmkvq.batch, %t: tensor<?x2x64xf32>,
                    %m: memref<?x2x64xf32>) -> tensor<?x2x64xf32> {
  // CHECK: pmkvq.launch @on_cache over attend, %{{.*}} cache(%{{.*}} : !pmkvq.cache<{{.*}}>) ins(%{{.*}} : tensor<?x2x64xf32>){{$}}
  pmkvq.launch @on_cache over attend, %b cache(%c : !kv) ins(%t : tensor<?x2x64xf32>)
  // CHECK: pmkvq.launch @worker over rows, %{{.*}} outs(%{{.*}} : memref<?x2x64xf32>){{$}}
  pmkvq.launch @worker over rows, %b outs(%m : memref<?x2x64xf32>)
  // CHECK: pmkvq.launch @worker over merge, %{{.*}} outs(%{{.*}} : tensor<?x2x64xf32>) -> tensor<?x2x64xf32>
  %r = pmkvq.launch @worker over merge, %b outs(%t : tensor<?x2x64xf32>) -> tensor<?x2x64xf32>
  return %r : tensor<?x2x64xf32>
}

// CHECK-LABEL: func @work_lists
func.func @work_lists(%b: !pmkvq.batch, %p: !pmkvq.pages, %c: !kv, %i: index) {
  // CHECK: pmkvq.row_place %{{.*}}[%{{.*}}]
  %sequence, %token = pmkvq.row_place %b[%i]
  // CHECK: pmkvq.single_rows %{{.*}}
  %single = pmkvq.single_rows %b
  // CHECK: pmkvq.attend_task %{{.*}}[%{{.*}}]
  %a:8 = pmkvq.attend_task %b[%i]
  // CHECK: pmkvq.merge_task %{{.*}}[%{{.*}}]
  %m:5 = pmkvq.merge_task %b[%i]
  // CHECK: pmkvq.page_task %{{.*}}[%{{.*}}] of %{{.*}} : <kv_heads = 2
  %t:4 = pmkvq.page_task %p[%i] of %c : !kv
  // CHECK: pmkvq.page_task %{{.*}}[%{{.*}}] of %{{.*}} ahead : <kv_heads = 2
  %n:4 = pmkvq.page_task %p[%i] of %c ahead : !kv
  return
}

// CHECK-LABEL: func @tiles
func.func @tiles(%c: !kv, %i: index, %raw: !k16) {
  // CHECK: pmkvq.fetch %{{.*}}[%{{.*}}, %{{.*}}, %{{.*}}] : <<kv_heads = 2
  %page = pmkvq.fetch %c[%i, %i, %i] : !page
  // CHECK: pmkvq.take %{{.*}} : <<kv_heads = 2{{.*}}>> -> <key, 4, 128, 64, <per_channel>>
  %tile = pmkvq.take %page : !page -> !k4
  // CHECK: pmkvq.by_level key %{{.*}} : <<kv_heads = 2{{.*}}>> -> i1 {
  // CHECK-NEXT: ^bb0(%{{.*}}: !pmkvq.tile<key, 4, 128, 64, <per_channel>>):
  // CHECK: pmkvq.yield %{{.*}} : i1
  // CHECK-NEXT: }, {
  // CHECK-NEXT: ^bb0(%{{.*}}: !pmkvq.tile<key, 2, 128, 64, <per_channel>>):
  %r = pmkvq.by_level key %page : !page -> i1 {
  ^bb0(%t: !k4):
    %yes = arith.constant true
    pmkvq.yield %yes : i1
  }, {
  ^bb0(%t: !k2):
    %no = arith.constant false
    pmkvq.yield %no : i1
  }
  // CHECK: pmkvq.by_level value %{{.*}} : <<kv_heads = 2{{.*}}>> {
  // CHECK-NEXT: ^bb0(%{{.*}}: !pmkvq.tile<value, 4, 128, 64, <per_token>>):
  // CHECK-NEXT: }, {
  pmkvq.by_level value %page : !page {
  ^bb0(%t: !v4):
  }, {
  ^bb0(%t: !v2):
  }
  // CHECK: pmkvq.fetch_fixed %{{.*}}[%{{.*}}, %{{.*}}] from %{{.*}} count %{{.*}} : <kv_heads{{.*}} -> <key, 16, 128, 64>
  %fixed = pmkvq.fetch_fixed %c[%i, %i] from %i count %i : !kv -> !pmkvq.tile<key, 16, 128, 64>
  // CHECK: pmkvq.quantize %{{.*}} : <key, 16, 128, 64> -> <key, 8, 128, 64, <per_channel>>
  %k8, %ok = pmkvq.quantize %fixed : !pmkvq.tile<key, 16, 128, 64> -> !k8
  // CHECK: pmkvq.shift %{{.*}} : <key, 8, 128, 64, <per_channel>> -> <key, 4, 128, 64, <per_channel>>
  %k4 = pmkvq.shift %k8 : !k8 -> !k4
  // CHECK: pmkvq.shift %{{.*}} : <key, 8, 128, 64, <per_channel>> -> <key, 2, 128, 64, <per_channel>>
  %k2 = pmkvq.shift %k8 : !k8 -> !k2
  // CHECK: pmkvq.quantize %{{.*}} ahead %{{.*}} : <key, 16, 128, 64> -> <key, 8, 128, 64, <per_channel>>
  %a8, %ok2 = pmkvq.quantize %fixed ahead %fixed : !pmkvq.tile<key, 16, 128, 64> -> !k8
  // CHECK: pmkvq.shift %{{.*}} ahead %{{.*}} : <key, 8, 128, 64, <per_channel>> -> <key, 4, 128, 64, <per_channel>>
  %a4 = pmkvq.shift %k8 ahead %a8 : !k8 -> !k4
  // CHECK: pmkvq.store %{{.*}}, %{{.*}} with_parameters : <key, 4, {{.*}}>, <<kv_heads = 2
  pmkvq.store %k4, %page with_parameters : !k4, !page
  // CHECK: pmkvq.store %{{.*}}, %{{.*}} : <key, 8, {{.*}}>, <<kv_heads = 2
  pmkvq.store %k8, %page : !k8, !page
  return
}

// CHECK-LABEL: func @feedback
func.func @feedback(%c: !fed, %head: index, %k8: !f8) -> !f2 {
  // CHECK: %[[F:.*]] = pmkvq.fetch_feedback %{{.*}}[%{{.*}}] : <kv_heads = 2
  %f = pmkvq.fetch_feedback %c[%head] : !fed
  // CHECK: pmkvq.shift %{{.*}} feedback %[[F]] : <key, 8, {{.*}}> -> <key, 4
  %k4 = pmkvq.shift %k8 feedback %f : !f8 -> !f4
  // CHECK: pmkvq.shift %{{.*}} ahead %{{.*}} feedback %[[F]] : <key, 4, {{.*}}> -> <key, 2
  %k2 = pmkvq.shift %k4 ahead %k4 feedback %f : !f4 -> !f2
  return %k2 : !f2
}
