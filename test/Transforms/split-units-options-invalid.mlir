// Options that are no kinds of units: a level without a partner, a level that is
// none, and one whose low 32 bits are.
// RUN: not pmkvq-opt %s --pass-pipeline="builtin.module(pmkvq-split-units{kinds=4})" 2>&1 | FileCheck %s
// RUN: not pmkvq-opt %s --pass-pipeline="builtin.module(pmkvq-split-units{kinds=4,0})" 2>&1 | FileCheck %s
// RUN: not pmkvq-opt %s --pass-pipeline="builtin.module(pmkvq-split-units{kinds=2,4294967298})" 2>&1 | FileCheck %s

// CHECK: error: expected kinds to be pairs of levels of 16, 8, 4 or 2
module {
}
