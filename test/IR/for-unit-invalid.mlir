// Constraints of for_unit, each violated once.
// RUN: pmkvq-opt %s -split-input-file -verify-diagnostics

// for_unit C1: a level without a partner.
!state = !pmkvq.softmax<4, 128>
!k = !pmkvq.tile<key, 2, 128, 128, <per_channel>>
!v = !pmkvq.tile<value, 2, 128, 128, <per_token>>
func.func @f(%segment: !pmkvq.segment, %init: !state) {
  // expected-error @+1 {{(C1) expected a pair of levels for each of 1 regions, got 3 levels}}
  %r = pmkvq.for_unit %segment from %init kinds [2, 2, 4] : !state {
  ^bb0(%s: !state, %tokens: index, %keys: !k, %values: !v):
    pmkvq.yield %s : !state
  }
  return
}

// -----

// for_unit C1: no kind at all.
!state = !pmkvq.softmax<4, 128>
func.func @f(%segment: !pmkvq.segment, %init: !state) {
  // expected-error @+1 {{(C1) expected a pair of levels for each of 0 regions, got 0 levels}}
  %r = "pmkvq.for_unit"(%segment, %init) <{kinds = array<i64>}>
    : (!pmkvq.segment, !state) -> !state
  return
}

// -----

// for_unit C1: 2^32 + 2 is no level, though its low half is.
!state = !pmkvq.softmax<4, 128>
!k = !pmkvq.tile<key, 2, 128, 128, <per_channel>>
!v = !pmkvq.tile<value, 2, 128, 128, <per_token>>
func.func @f(%segment: !pmkvq.segment, %init: !state) {
  // expected-error @+1 {{(C1) expected levels of 16, 8, 4 or 2, got 4294967298 and 2}}
  %r = pmkvq.for_unit %segment from %init kinds [4294967298, 2] : !state {
  ^bb0(%s: !state, %tokens: index, %keys: !k, %values: !v):
    pmkvq.yield %s : !state
  }
  return
}

// -----

// for_unit C2: a unit at 4 bits has 64 tokens.
!state = !pmkvq.softmax<4, 128>
!k = !pmkvq.tile<key, 4, 128, 128, <per_channel>>
!v = !pmkvq.tile<value, 4, 64, 128, <per_token>>
func.func @f(%segment: !pmkvq.segment, %init: !state) {
  // expected-error @+1 {{(C2) expected region 0 to take a state, an index, and tiles of 64 tokens and 128 dims at levels 4 and 4}}
  %r = pmkvq.for_unit %segment from %init kinds [4, 4] : !state {
  ^bb0(%s: !state, %tokens: index, %keys: !k, %values: !v):
    pmkvq.yield %s : !state
  }
  return
}

// -----

// for_unit C2: the sides are exchanged.
!state = !pmkvq.softmax<4, 128>
!k = !pmkvq.tile<key, 4, 64, 128, <per_channel>>
!v = !pmkvq.tile<value, 4, 64, 128, <per_token>>
func.func @f(%segment: !pmkvq.segment, %init: !state) {
  // expected-error @+1 {{(C2) expected region 0 to take}}
  %r = pmkvq.for_unit %segment from %init kinds [4, 4] : !state {
  ^bb0(%s: !state, %tokens: index, %values: !v, %keys: !k):
    pmkvq.yield %s : !state
  }
  return
}

// -----

// for_unit C2: the state is of another head_dim.
!state = !pmkvq.softmax<4, 64>
!k = !pmkvq.tile<key, 4, 64, 128, <per_channel>>
!v = !pmkvq.tile<value, 4, 64, 128, <per_token>>
func.func @f(%segment: !pmkvq.segment, %init: !state) {
  // expected-error @+1 {{(C2) expected region 0 to take a state, an index, and tiles of 64 tokens and 64 dims}}
  %r = pmkvq.for_unit %segment from %init kinds [4, 4] : !state {
  ^bb0(%s: !state, %tokens: index, %keys: !k, %values: !v):
    pmkvq.yield %s : !state
  }
  return
}

// -----

// for_unit C2: yields no state.
!state = !pmkvq.softmax<4, 128>
!k = !pmkvq.tile<key, 4, 64, 128, <per_channel>>
!v = !pmkvq.tile<value, 4, 64, 128, <per_token>>
func.func @f(%segment: !pmkvq.segment, %init: !state) {
  %r = pmkvq.for_unit %segment from %init kinds [4, 4] : !state {
  ^bb0(%s: !state, %tokens: index, %keys: !k, %values: !v):
    // expected-error @+1 {{(C2) expected to yield the next state}}
    pmkvq.yield %tokens : index
  }
  return
}

// -----

// for_unit C2: beside level 16 both sides have 16 tokens.
!state = !pmkvq.softmax<4, 128>
!k = !pmkvq.tile<key, 16, 32, 128>
!v = !pmkvq.tile<value, 4, 32, 128, <per_token>>
func.func @f(%segment: !pmkvq.segment, %init: !state) {
  // expected-error @+1 {{(C2) expected region 0 to take a state, an index, and tiles of 16 tokens and 128 dims at levels 16 and 4}}
  %r = pmkvq.for_unit %segment from %init kinds [16, 4] : !state {
  ^bb0(%s: !state, %tokens: index, %keys: !k, %values: !v):
    pmkvq.yield %s : !state
  }
  return
}
