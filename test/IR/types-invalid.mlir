// Every constraint of types and attributes, violated once.
// RUN: pmkvq-opt %s -split-input-file -verify-diagnostics

// FormatAttr C1: an unknown name lists the known ones.
// expected-error @+1 {{(C1) unknown format 'per_page', expected one of: per_channel, per_token}}
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
// expected-error @+1 {{expected 'clip'or 'hadamard'}}
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

// CacheType C1.
// expected-error @+1 {{(C1) expected kv_heads of at least 1, got 0}}
func.func private @f(!pmkvq.cache<kv_heads = 0, head_dim = 64>)

// -----

// CacheType C2.
// expected-error @+1 {{(C2) expected a head_dim of 64 or 128, got 80}}
func.func private @f(!pmkvq.cache<kv_heads = 2, head_dim = 80>)

// -----

// CacheType C3: rising, with a gap, a level twice, no level, not a level.
// expected-error @+1 {{(C3) expected each level to be half of the one before, got 16 after 8}}
func.func private @f(!pmkvq.cache<kv_heads = 2, head_dim = 64, ladder = [8, 16]>)

// -----

// expected-error @+1 {{(C3) expected each level to be half of the one before, got 4 after 16}}
func.func private @f(!pmkvq.cache<kv_heads = 2, head_dim = 64, ladder = [16, 4]>)

// -----

// expected-error @+1 {{(C3) expected each level to be half of the one before, got 8 after 8}}
func.func private @f(!pmkvq.cache<kv_heads = 2, head_dim = 64, ladder = [8, 8]>)

// -----

// expected-error @+1 {{(C3) expected at least one level}}
func.func private @f(!pmkvq.cache<kv_heads = 2, head_dim = 64, ladder = []>)

// -----

// expected-error @+1 {{(C3) expected levels of 16, 8, 4 or 2, got 1}}
func.func private @f(!pmkvq.cache<kv_heads = 2, head_dim = 64, ladder = [2, 1]>)

// -----

// CacheType C4.
// expected-error @+1 {{(C4) expected a sink of 0 to 16 tokens, got 17}}
func.func private @f(!pmkvq.cache<kv_heads = 2, head_dim = 64, sink = 17>)

// -----

// CacheType C5: one format alone.
// expected-error @+1 {{(C5) expected formats for key and value, or for neither; only key has one}}
func.func private @f(!pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_token>>)

// -----

// expected-error @+1 {{(C5) expected formats for key and value, or for neither; only value has one}}
func.func private @f(!pmkvq.cache<kv_heads = 2, head_dim = 64, value = <per_token>>)

// -----

// CacheType: a field that it does not have, an attribute that is no format.
// expected-error @+1 {{unknown field 'heads', expected kv_heads, head_dim, key, value, ladder or sink}}
func.func private @f(!pmkvq.cache<heads = 2>)

// -----

// expected-error @+1 {{expected a #pmkvq.format}}
func.func private @f(!pmkvq.cache<kv_heads = 2, head_dim = 64, key = "per_token">)

// -----

// TileType C1.
// expected-error @+1 {{(C1) expected a level of 16, 8, 4 or 2, got 32}}
func.func private @f(!pmkvq.tile<key, 32, 128, 64, <per_channel>>)

// -----

// TileType C2.
// expected-error @+1 {{(C2) expected 128 tokens below level 16, got 64}}
func.func private @f(!pmkvq.tile<key, 4, 64, 64, <per_channel>>)

// -----

// RowsType C1.
// expected-error @+1 {{(C1) expected positive sizes, got 0 x 64}}
func.func private @f(!pmkvq.rows<0, 64>)
