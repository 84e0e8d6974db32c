// RUN: pmkvq-opt %s --pmkvq-set-formats | FileCheck %s --check-prefixes=CHECK,DEFAULT
// RUN: pmkvq-opt %s --pmkvq-set-formats="key=<per_token,clip=0.75> value=<per_channel>" | FileCheck %s --check-prefixes=CHECK,CHOSEN

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, ladder = [16, 8], sink = 4>

// Formats join the types; heads, ladder and sink stay.
// CHECK-LABEL: func @create
func.func @create() -> !kv {
  // DEFAULT: pmkvq.create {{.*}} : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>, ladder = [16, 8], sink = 4>
  // CHOSEN: pmkvq.create {{.*}} : <kv_heads = 2, head_dim = 64, key = <per_token, clip = 7.500000e-01>, value = <per_channel>, ladder = [16, 8], sink = 4>
  %c = pmkvq.create layer 0 max_tokens 128
    schedule <page, key_floor = 8, value_floor = 8> : !kv
  return %c : !kv
}

// Types of functions and operands change with them.
// CHECK-LABEL: func @attend
// CHOSEN-SAME: !pmkvq.cache<{{.*}}value = <per_channel>
func.func @attend(%c: !kv, %q: tensor<?x2x64xf32>, %b: !pmkvq.batch) -> tensor<?x2x64xf32> {
  // CHOSEN: pmkvq.attend {{.*}}value = <per_channel>
  %r = pmkvq.attend %q, %c, %b scale 1.0 : tensor<?x2x64xf32>, !kv
  return %r : tensor<?x2x64xf32>
}

// Formats that were there are replaced.
// CHECK-LABEL: func private @planned
// CHOSEN-SAME: key = <per_token, clip = 7.500000e-01>, value = <per_channel>>
func.func private @planned(!pmkvq.cache<kv_heads = 2, head_dim = 64,
                           key = <per_channel>, value = <per_token, hadamard>>)
