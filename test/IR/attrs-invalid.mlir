// Every constraint of attributes, violated once.
// RUN: pmkvq-opt %s -split-input-file -verify-diagnostics

// FormatAttr C1: an unknown name lists the known ones.
// expected-error @+1 {{(C1) unknown format 'per_page', expected one of: paper, per_channel, per_token}}
func.func private @f() attributes {a = #pmkvq.format<per_page>}

// -----

// FormatAttr C2: clip at either end of its open interval.
// expected-error @+1 {{(C2) expected clip in (0.7, 0.9)}}
func.func private @f() attributes {a = #pmkvq.format<per_token, clip = 0.7>}

// -----

// expected-error @+1 {{(C2) expected clip in (0.7, 0.9)}}
func.func private @f() attributes {a = #pmkvq.format<per_token, clip = 0.9>}

// -----

// FormatAttr: a field that it does not have.
// expected-error @+1 {{expected 'clip', 'hadamard' or 'plain'}}
func.func private @f() attributes {a = #pmkvq.format<per_token, group = 32>}

// -----

// RotationAttr C1: dimension.
// expected-error @+1 {{(C1) expected a dimension of at least 0, got -1}}
func.func private @f() attributes {a = #pmkvq.rotation<dim = -1, block = 64>}

// -----

// RotationAttr C1: block.
// expected-error @+1 {{(C1) expected a block that is a power of two, got 96}}
func.func private @f() attributes {a = #pmkvq.rotation<dim = 0, block = 96>}

// -----

// expected-error @+1 {{(C1) expected a block that is a power of two, got 0}}
func.func private @f() attributes {a = #pmkvq.rotation<dim = 0, block = 0>}

// -----

// ScheduleAttr C1.
// expected-error @+1 {{(C1) expected a floor of 16, 8, 4 or 2, got 3}}
func.func private @f() attributes {a = #pmkvq.schedule<page, key_floor = 3, value_floor = 2>}

// -----

// expected-error @+1 {{(C1) expected a floor of 16, 8, 4 or 2, got 0}}
func.func private @f() attributes {a = #pmkvq.schedule<none, key_floor = 2, value_floor = 0>}

// -----

// A floor that would be 8 in 32 bits.
// expected-error @+1 {{(C1) expected a floor of 16, 8, 4 or 2, got 4294967304}}
func.func private @f() attributes {a = #pmkvq.schedule<page, key_floor = 4294967304, value_floor = 2>}
