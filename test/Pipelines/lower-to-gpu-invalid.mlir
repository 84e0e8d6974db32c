// What the GPU's pipeline does not take: each says so on the op.
// RUN: pmkvq-opt --pmkvq-stage-plan --pmkvq-stage-tile %S/Inputs/step.mlir -o %t.tile
// RUN: not pmkvq-opt --pmkvq-lower-to-gpu %t.tile 2>&1 | FileCheck %s --check-prefix=STEP
// RUN: not pmkvq-opt --pmkvq-lower-to-gpu %s 2>&1 | FileCheck %s --check-prefix=KERNEL

// A whole step: its launches, before kernels change under them.
// STEP: error: 'pmkvq.launch' op is outside of kernels; this pipeline takes a module of kernels in tile form alone
// STEP-NOT: (C1)

// A kernel that no step knows.
// KERNEL: [[@LINE+2]]:1: error: 'pmkvq.kernel' op 'other' is not lowered by any step of this pipeline
// KERNEL-NOT: error
pmkvq.kernel @other(%batch: !pmkvq.batch, %task: index) -> i1 {
  %ok = arith.constant true
  pmkvq.return %ok
}
