// RUN: pmkvq-opt %s --split-input-file --verify-diagnostics --convert-pmkvq-tile-to-vector

// Products must have been folded.
!q = !pmkvq.rows<3, 64>
!k = !pmkvq.tile<key, 8, 128, 64, <per_channel>>
pmkvq.kernel @unfolded(%q: !q, %k: !k, %task: index) -> i1 {
  // expected-error @+1 {{failed to legalize operation 'pmkvq.scores'}}
  %x = pmkvq.scores %q, %k : !q, !k -> !pmkvq.rows<3, 128>
  %ok = arith.constant true
  pmkvq.return %ok
}

// -----

// A kernel launches nothing.
pmkvq.kernel @launches(%b: !pmkvq.batch, %task: index) -> i1 {
  // expected-error @+1 {{failed to legalize operation 'pmkvq.launch'}}
  pmkvq.launch @launches over rows, %b
  %ok = arith.constant true
  pmkvq.return %ok
}
