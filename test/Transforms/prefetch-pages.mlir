// What reads a page in a loop over pages gets the next page at the same level.
// RUN: pmkvq-opt %s --pass-pipeline="builtin.module(pmkvq.kernel(pmkvq-prefetch-pages))" | FileCheck %s

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>, ladder = [16, 8]>
!page = !pmkvq.page<<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>, ladder = [16, 8]>>
!kv4 = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>, ladder = [16, 8, 4]>
!page4 = !pmkvq.page<<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>, ladder = [16, 8, 4]>>
!k16 = !pmkvq.tile<key, 16, 128, 64, <per_channel>>
!k8 = !pmkvq.tile<key, 8, 128, 64, <per_channel>>
!q = !pmkvq.rows<3, 64>
!i = !pmkvq.integer_rows<3, 64>
!p = !pmkvq.rows<3, 128>

// CHECK-LABEL: kernel @loop
pmkvq.kernel @loop(%c: !kv, %q: !q, %i: !i, %u: vector<3xf32>, %end: index, %task: index) -> i1 {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  // CHECK: scf.for %[[P:.*]] = %{{.*}} to %[[END:.*]] step
  scf.for %page = %zero to %end step %one {
    // CHECK: %[[AFTER:.*]] = arith.addi %[[P]], %{{.*}}
    // CHECK: %[[LAST:.*]] = arith.subi %[[END]], %{{.*}}
    // CHECK: %[[INDEX:.*]] = arith.minsi %[[AFTER]], %[[LAST]]
    // CHECK: %[[NEXT:.*]] = pmkvq.fetch %{{.*}}[%{{.*}}, %{{.*}}, %[[INDEX]]]
    // CHECK: pmkvq.fetch %{{.*}}[%{{.*}}, %{{.*}}, %[[P]]]
    %entry = pmkvq.fetch %c[%task, %task, %page] : !page
    %x = pmkvq.by_level key %entry : !page -> !p {
    ^bb0(%k: !k16):
      // CHECK: %[[A:.*]] = pmkvq.take %[[NEXT]] : {{.*}} -> <key, 16,
      // CHECK: pmkvq.contract %{{.*}}, %{{.*}} ahead %[[A]]
      %y = pmkvq.contract %q, %k : !q, !k16 -> !p
      pmkvq.yield %y : !p
    }, {
    ^bb0(%k: !k8):
      // CHECK: %[[B:.*]] = pmkvq.take %[[NEXT]] : {{.*}} -> <key, 8,
      // CHECK: pmkvq.load_parameters %{{.*}} ahead %[[B]]
      // CHECK: pmkvq.contract_integers %{{.*}} ahead %[[B]]
      %min, %range = pmkvq.load_parameters %k : !k8 -> vector<64xf32>, vector<64xf32>
      %y = pmkvq.contract_integers %i, %k unit %u bias %u : !i, !k8, vector<3xf32> -> !p
      pmkvq.yield %y : !p
    }
  }
  %ok = arith.constant true
  pmkvq.return %ok
}

// After the last page of a task comes the first of the task that the list names.
// CHECK-LABEL: kernel @task
pmkvq.kernel @task(%c: !kv, %b: !pmkvq.batch, %q: !q, %task: index) -> i1 {
  %one = arith.constant 1 : index
  // CHECK: %[[S:.*]], %[[H:.*]], %{{.*}}, %{{.*}}, %[[BEGIN:.*]], %[[END:.*]], %{{.*}}, %{{.*}} = pmkvq.attend_task %[[B:.*]][%[[T:.*]]]{{$}}
  %sequence, %head, %row, %rows, %begin, %end, %fixed, %part = pmkvq.attend_task %b[%task]
  // CHECK: %[[S2:.*]], %[[H2:.*]], %{{.*}}, %{{.*}}, %[[FIRST:.*]], %{{.*}}, %{{.*}}, %{{.*}} = pmkvq.attend_task %[[B]][%[[T]]] ahead
  // CHECK: scf.for %[[P:.*]] = %[[BEGIN]] to %[[END]]
  scf.for %page = %begin to %end step %one {
    // CHECK: %[[AFTER:.*]] = arith.addi %[[P]], %{{.*}}
    // CHECK: %[[MORE:.*]] = arith.cmpi slt, %[[AFTER]], %[[END]]
    // CHECK: %[[SN:.*]] = arith.select %[[MORE]], %[[S]], %[[S2]]
    // CHECK: %[[HN:.*]] = arith.select %[[MORE]], %[[H]], %[[H2]]
    // CHECK: %[[PN:.*]] = arith.select %[[MORE]], %[[AFTER]], %[[FIRST]]
    // CHECK: %[[NEXT:.*]] = pmkvq.fetch %{{.*}}[%[[SN]], %[[HN]], %[[PN]]]
    %entry = pmkvq.fetch %c[%sequence, %head, %page] : !page
    %x = pmkvq.by_level key %entry : !page -> !p {
    ^bb0(%k: !k16):
      // CHECK: pmkvq.take %[[NEXT]]
      %y = pmkvq.contract %q, %k : !q, !k16 -> !p
      pmkvq.yield %y : !p
    }, {
    ^bb0(%k: !k8):
      %y = pmkvq.contract %q, %k : !q, !k8 -> !p
      pmkvq.yield %y : !p
    }
  }
  %ok = arith.constant true
  pmkvq.return %ok
}

// A page outside of a loop has none after it.
// CHECK-LABEL: kernel @single
// CHECK-NOT: ahead
pmkvq.kernel @single(%c: !kv, %q: !q, %task: index) -> i1 {
  %entry = pmkvq.fetch %c[%task, %task, %task] : !page
  %tile = pmkvq.take %entry : !page -> !k16
  %y = pmkvq.contract %q, %tile : !q, !k16 -> !p
  %ok = arith.constant true
  pmkvq.return %ok
}

// What lowers the page of a task looks ahead to the task that the list names.
// CHECK-LABEL: kernel @shift
pmkvq.kernel @shift(%c: !kv4, %p: !pmkvq.pages, %task: index) -> i1 {
  %cache, %sequence, %head, %page = pmkvq.page_task %p[%task] of %c : !kv4
  %entry = pmkvq.fetch %cache[%sequence, %head, %page] : !page4
  // CHECK: %[[C:.*]], %[[S:.*]], %[[H:.*]], %[[P:.*]] = pmkvq.page_task %{{.*}}[%{{.*}}] of %{{.*}} ahead
  // CHECK: %[[NEXT:.*]] = pmkvq.fetch %[[C]][%[[S]], %[[H]], %[[P]]]
  // CHECK: %[[A:.*]] = pmkvq.take %[[NEXT]]
  // CHECK: %[[T:.*]] = pmkvq.take
  // CHECK: pmkvq.shift %[[T]] ahead %[[A]]
  %tile = pmkvq.take %entry : !page4 -> !k8
  %low = pmkvq.shift %tile : !k8 -> !pmkvq.tile<key, 4, 128, 64, <per_channel>>
  pmkvq.store %low, %entry : !pmkvq.tile<key, 4, 128, 64, <per_channel>>, !page4
  %ok = arith.constant true
  pmkvq.return %ok
}
