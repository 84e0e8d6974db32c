// RUN: not pmkvq-opt %s --pmkvq-set-formats=key=per_channel 2>&1 | FileCheck %s --check-prefix=TEXT
// RUN: not pmkvq-opt %s --pmkvq-set-formats="value=<per_page>" 2>&1 | FileCheck %s --check-prefix=NAME
// RUN: not pmkvq-opt %s --pmkvq-set-formats="value=<per_token>,x" 2>&1 | FileCheck %s --check-prefix=TAIL
// RUN: not pmkvq-opt %s --pmkvq-set-formats="value=<per_token,group=48>" 2>&1 | FileCheck %s --check-prefix=GROUP
// RUN: not pmkvq-opt %s --pmkvq-set-formats 2>&1 | FileCheck %s --check-prefix=SCHEDULE

// TEXT: error: cannot read the format 'per_channel'
// NAME: error: (C1) unknown format 'per_page', expected one of: paper, per_channel, per_token
// NAME: error: cannot read the format '<per_page>'
// TAIL: error: found trailing characters
// TAIL: error: cannot read the format '<per_token>,x'
// GROUP: error: (C6) expected a group that divides the 64 elements of the axis of 'per_token', got 48

// A planned cache needs a schedule.
func.func @create() {
  // SCHEDULE: error: 'pmkvq.create' op (C4) expected a schedule for a planned cache
  %c = pmkvq.create layer 0 max_tokens 128 : !pmkvq.cache<kv_heads = 2, head_dim = 64>
  return
}
