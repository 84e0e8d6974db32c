// A model that cannot be imported gives one line and no module.  Neighbours:
// test/python/test_run_bad_input.py and the unit tests have the many cases.

// RUN: mkdir -p %t
// RUN: not pmkvq-run %t --emit=import 2>&1 | FileCheck %s --check-prefix=FOLDER
// FOLDER: {{^}}pmkvq-run: error: {{.*}}config.json: file: No such file or directory{{$}}

// RUN: not pmkvq-run %models/reasoner --emit=code 2>&1 | FileCheck %s --check-prefix=EMIT
// EMIT: {{^}}pmkvq-run: error: --emit: expected import or mlir or {{.*}}asm or artifact, got 'code'{{$}}
