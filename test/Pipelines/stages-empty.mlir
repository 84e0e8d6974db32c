// An empty module goes through every stage.
// RUN: pmkvq-opt %s --pmkvq-stage-plan --pmkvq-stage-tile --pmkvq-stage-fold --pmkvq-stage-vector --pmkvq-stage-buffers --pmkvq-stage-host --pmkvq-stage-llvm | FileCheck %s
// CHECK: module {
// CHECK-NEXT: }
module {
}
