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
// expected-error @+1 {{expected 'clip', 'feedback', 'group', 'hadamard' or 'plain'}}
func.func private @f() attributes {a = #pmkvq.format<per_token, bits = 4>}

// -----

// FormatAttr C3: none, and negative.
// expected-error @+1 {{(C3) expected a group of at least 1 element, got 0}}
func.func private @f() attributes {a = #pmkvq.format<per_token, group = 0>}

// -----

// expected-error @+1 {{(C3) expected a group of at least 1 element, got -32}}
func.func private @f() attributes {a = #pmkvq.format<per_token, group = -32>}

// -----

// FormatAttr C4: no rotation, and a format without ranges.
// expected-error @+1 {{(C4) expected feedback with hadamard and a format that has ranges, got per_channel, plain}}
func.func private @f() attributes {a = #pmkvq.format<per_channel, feedback>}

// -----

// expected-error @+1 {{(C4) expected feedback with hadamard and a format that has ranges, got paper, hadamard}}
func.func private @f() attributes {a = #pmkvq.format<paper, hadamard, feedback>}

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

// Values alone may have 1 bit, under some schedules.
// expected-error @+1 {{(C1) expected a floor of 16, 8, 4 or 2, got 1}}
func.func private @f() attributes {a = #pmkvq.schedule<page, key_floor = 1, value_floor = 2>}

// -----

// ScheduleAttr C3.
// expected-error @+1 {{(C3) expected a schedule that lowers values to 1 bit in pairs, page, keys_last or least_loss, got none}}
func.func private @f() attributes {a = #pmkvq.schedule<none, key_floor = 2, value_floor = 1>}

// -----

// expected-error @+1 {{(C1) expected a floor of 16, 8, 4, 2 or 1 for values, got 0}}
func.func private @f() attributes {a = #pmkvq.schedule<none, key_floor = 2, value_floor = 0>}

// -----

// ScheduleAttr C2.
// expected-error @+1 {{(C2) unknown schedule 'weekly', expected one of: keys_last, layer, least_loss, none, page}}
func.func private @f() attributes {a = #pmkvq.schedule<weekly, key_floor = 2, value_floor = 2>}

// -----

// CalibrationAttr C1: either clip.
// expected-error @+1 {{(C1) expected clips in (0.7, 0.9), got 7.000000e-01}}
func.func private @f() attributes {a = #pmkvq.calibration<key_clip = 0.7>}

// -----

// expected-error @+1 {{(C1) expected clips in (0.7, 0.9), got 9.000000e-01}}
func.func private @f() attributes {a = #pmkvq.calibration<value_clip = 0.9>}

// -----

// CalibrationAttr C2: how many, sign, finite.
// expected-error @+1 {{(C2) expected losses of keys at 8, 4 and 2 bits, got 2 numbers}}
func.func private @f() attributes {a = #pmkvq.calibration<key_loss = [0.0, 1.0]>}

// -----

// Values alone may have one more.
// expected-error @+1 {{(C2) expected losses of keys at 8, 4 and 2 bits, got 4 numbers}}
func.func private @f() attributes {a = #pmkvq.calibration<key_loss = [0.0, 0.1, 1.0, 2.0]>}

// -----

// expected-error @+1 {{(C2) expected losses of values at 8, 4 and 2 bits, maybe 1, got 5 numbers}}
func.func private @f() attributes {a = #pmkvq.calibration<value_loss = [0.0, 0.1, 1.0, 2.0, 3.0]>}

// -----

// expected-error @+1 {{(C2) expected losses that are finite and not negative, got -1.000000e+00}}
func.func private @f() attributes {a = #pmkvq.calibration<value_loss = [0.0, 0.0, -1.0]>}

// -----

// expected-error @+1 {{(C2) expected losses that are finite and not negative, got nan}}
func.func private @f() attributes {a = #pmkvq.calibration<key_loss = [0.0, 0.0, 0x7FF8000000000000]>}

// -----

// CalibrationAttr C3: sign, finite.
// expected-error @+1 {{(C3) expected squares that are finite and not negative, got -1.000000e+00}}
func.func private @f() attributes {a = #pmkvq.calibration<query_squares = [0.0, -1.0]>}

// -----

// expected-error @+1 {{(C3) expected squares that are finite and not negative, got INF}}
func.func private @f() attributes {a = #pmkvq.calibration<query_squares = [0x7FF0000000000000]>}

// -----

// expected-error @+1 {{(C3) expected squares that are finite and not negative, got nan}}
func.func private @f() attributes {a = #pmkvq.calibration<query_squares = [0x7FF8000000000000]>}

// -----

// expected-error @+1 {{(C3) expected shares that are finite and not negative, got -1.000000e+00}}
func.func private @f() attributes {a = #pmkvq.calibration<page_shares = [0.0, -1.0]>}

// -----

// A floor that would be 8 in 32 bits.
// expected-error @+1 {{(C1) expected a floor of 16, 8, 4 or 2, got 4294967304}}
func.func private @f() attributes {a = #pmkvq.schedule<page, key_floor = 4294967304, value_floor = 2>}
