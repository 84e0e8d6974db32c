// Every constraint of types, violated once.
// RUN: pmkvq-opt %s -split-input-file -verify-diagnostics

// CacheType C1.
// expected-error @+1 {{(C1) expected 1 to 1024 kv_heads, got 0}}
func.func private @f(!pmkvq.cache<kv_heads = 0, head_dim = 64>)

// -----

// CacheType C2.
// expected-error @+1 {{(C2) expected a head_dim of 64, 80, 96, 128 or 256, got 72}}
func.func private @f(!pmkvq.cache<kv_heads = 2, head_dim = 72>)

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

// expected-error @+1 {{(C3) expected levels of 16, 8, 4, 2 or 1, got 0}}
func.func private @f(!pmkvq.cache<kv_heads = 2, head_dim = 64, ladder = [1, 0]>)

// -----

// Keys have none below 2.
// expected-error @+1 {{(C3) expected a level above 1}}
func.func private @f(!pmkvq.cache<kv_heads = 2, head_dim = 64, ladder = [1]>)

// -----

// CacheType C7.
// expected-error @+1 {{(C7) expected a head_dim that is a multiple of 64 for values at level 1, got 96}}
func.func private @f(!pmkvq.cache<kv_heads = 2, head_dim = 96, ladder = [2, 1]>)

// -----

// A level that would be 8 in 32 bits.
// expected-error @+1 {{(C3) expected levels of 16, 8, 4, 2 or 1, got 4294967304}}
func.func private @f(!pmkvq.cache<kv_heads = 2, head_dim = 64, ladder = [4294967304]>)

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

// CacheType C6: each axis.
// expected-error @+1 {{(C6) expected a group that divides the 128 elements of the axis of 'per_channel', got 48}}
func.func private @f(!pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, group = 48>, value = <per_token>>)

// -----

// expected-error @+1 {{(C6) expected a group that divides the 64 elements of the axis of 'per_token', got 128}}
func.func private @f(!pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token, group = 128>>)

// -----

// TileType C1.
// expected-error @+1 {{(C1) expected a level of 16, 8, 4 or 2, or of 1 for values, got 32}}
func.func private @f(!pmkvq.tile<key, 32, 128, 64, <per_channel>>)

// -----

// expected-error @+1 {{(C1) expected a level of 16, 8, 4 or 2, or of 1 for values, got 1}}
func.func private @f(!pmkvq.tile<key, 1, 128, 64, <per_channel>>)

// -----

// TileType C6.
// expected-error @+1 {{(C6) expected a head_dim that is a multiple of 64 at level 1, got 80}}
func.func private @f(!pmkvq.tile<value, 1, 128, 80, <per_token>>)

// -----

// A level that would be 8 in 32 bits.
// expected-error @+1 {{(C1) expected a level of 16, 8, 4 or 2, or of 1 for values, got 4294967304}}
func.func private @f(!pmkvq.tile<key, 4294967304, 128, 64, <per_channel>>)

// -----

// TileType C2: with a format, and raw but more than a fixed area.
// expected-error @+1 {{(C2) expected 128, 64, 32 or 16 tokens in a tile with a format, got 63}}
func.func private @f(!pmkvq.tile<key, 4, 63, 64, <per_channel>>)

// -----

// expected-error @+1 {{(C2) expected 1 to 144 tokens, got 145}}
func.func private @f(!pmkvq.tile<key, 16, 145, 64>)

// -----

// TileType C4.
// expected-error @+1 {{(C4) expected a format below level 16}}
func.func private @f(!pmkvq.tile<key, 8, 128, 64>)

// -----

// TileType C3.
// expected-error @+1 {{(C3) expected a head_dim of 64, 80, 96, 128 or 256, got 72}}
func.func private @f(!pmkvq.tile<key, 4, 128, 72, <per_channel>>)

// -----

// TileType C5.
// expected-error @+1 {{(C5) expected a group that divides the 64 elements of the axis of 'per_token', got 48}}
func.func private @f(!pmkvq.tile<value, 4, 128, 64, <per_token, group = 48>>)

// -----

// RowsType C1.
// expected-error @+1 {{(C1) expected positive sizes, got 0 x 64}}
func.func private @f(!pmkvq.rows<0, 64>)

// -----

// IntegerRowsType C1.
// expected-error @+1 {{(C1) expected positive sizes, got 3 x 0}}
func.func private @f(!pmkvq.integer_rows<3, 0>)

// -----

// SoftmaxType C1.
// expected-error @+1 {{(C1) expected positive sizes, got 3 x -1}}
func.func private @f(!pmkvq.softmax<3, -1>)
