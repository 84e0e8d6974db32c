// Options that are no kinds of units, or no rows: a level without a partner, a level that is
// none, and one whose low 32 bits are.
// RUN: not pmkvq-opt %s --pass-pipeline="builtin.module(pmkvq-split-units{kinds=4})" 2>&1 | FileCheck %s
// RUN: not pmkvq-opt %s --pass-pipeline="builtin.module(pmkvq-split-units{kinds=4,0})" 2>&1 | FileCheck %s
// RUN: not pmkvq-opt %s --pass-pipeline="builtin.module(pmkvq-split-units{kinds=2,4294967298})" 2>&1 | FileCheck %s

// RUN: not pmkvq-opt %s --pass-pipeline="builtin.module(pmkvq-split-units{rows=0})" 2>&1 | FileCheck %s --check-prefix=ROWS
// RUN: not pmkvq-opt %s --pass-pipeline="builtin.module(pmkvq-split-units{rows=17})" 2>&1 | FileCheck %s --check-prefix=ROWS

// ROWS: error: expected 1 to 16 rows of queries, got {{0|17}}{{$}}
// CHECK: error: expected kinds to be pairs of levels of 16, 8, 4 or 2
module {
}
