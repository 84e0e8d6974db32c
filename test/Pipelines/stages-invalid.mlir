// Stages out of order: each says what it expected.
// RUN: not pmkvq-opt --pmkvq-stage-tile %S/Inputs/step.mlir 2>&1 | FileCheck %s --check-prefix=TILE
// RUN: not pmkvq-opt --pmkvq-stage-buffers %S/Inputs/step.mlir 2>&1 | FileCheck %s --check-prefix=BUFFERS
// RUN: not pmkvq-opt --pmkvq-stage-host %S/Inputs/step.mlir 2>&1 | FileCheck %s --check-prefix=HOST
// RUN: not pmkvq-opt --pmkvq-stage-plan --pmkvq-stage-plan %S/Inputs/step.mlir 2>&1 | FileCheck %s --check-prefix=TWICE
// RUN: not pmkvq-opt --pmkvq-stage-plan --pmkvq-stage-tile --pmkvq-stage-vector %S/Inputs/step.mlir 2>&1 | FileCheck %s --check-prefix=VECTOR
// RUN: not pmkvq-opt --pmkvq-stage-plan --pmkvq-stage-tile --pmkvq-stage-fold --pmkvq-stage-buffers --pmkvq-stage-host %S/Inputs/step.mlir 2>&1 | FileCheck %s --check-prefix=KERNEL
// RUN: not pmkvq-opt --pmkvq-stage-plan="key-floor=3" %S/Inputs/step.mlir 2>&1 | FileCheck %s --check-prefix=FLOOR
// RUN: not pmkvq-opt --pmkvq-stage-plan="key=<per_page>" %S/Inputs/step.mlir 2>&1 | FileCheck %s --check-prefix=FORMAT

// TILE: error: 'pmkvq.create' op expected a cache with formats; run pmkvq-set-formats first
// BUFFERS: error: op was not bufferized
// HOST: error: 'func.func' op expected argument 'tokens' to be a contiguous memref of ?xi32, got 'tensor<?xi32>'
// TWICE: error: redefinition of symbol named 'flush_key_16'
// VECTOR: error: failed to legalize operation 'pmkvq.scores'
// KERNEL: error: 'pmkvq.launch' op expected a lowered kernel; run convert-pmkvq-tile-to-vector first
// FLOOR: error: (C1) expected a floor of 16, 8, 4 or 2, got 3
// FORMAT: error: (C1) unknown format 'per_page', expected one of: paper, per_channel, per_token
