// RUN: pmkvq-opt %s --split-input-file --pmkvq-allocate-bits="tokens=257" | FileCheck %s
// RUN: pmkvq-opt %s --split-input-file --pmkvq-allocate-bits="tokens=257 keep=1" | FileCheck %s --check-prefix=KEEP
// RUN: pmkvq-opt %s --split-input-file --pmkvq-allocate-bits="tokens=129" | FileCheck %s --check-prefix=WINDOW

!kv = !pmkvq.cache<kv_heads = 1, head_dim = 64, key = <per_channel>, value = <per_token>>

// 257 tokens are a page a layer.  Fixed areas 2 x 33,024, tables 2 x 72,
// parameters 2 x 768: the budget leaves 7 blocks of 2,048 bytes, three more than
// all at 2 bits.  A block for the keys of layer 0 saves 0.9, one for its values
// 0.05, one for the values of layer 1 0.3: more than three for the keys of layer 0,
// 1.0, which are best where layer 1 stays.
// CHECK-LABEL: func @create
// KEEP-LABEL: func @create
func.func @create() -> (!kv, !kv) {
  // CHECK: pmkvq.create layer 0 {{.*}}schedule <page, key_floor = 4, value_floor = 4>{{.*}} : <kv_heads = 1, head_dim = 64, key = <per_channel>, value = <per_token>>
  // KEEP: pmkvq.create layer 0 {{.*}}schedule <page, key_floor = 8, value_floor = 2>
  %0 = pmkvq.create layer 0 max_tokens 4096
    schedule <page, key_floor = 2, value_floor = 2> budget 82064
    calibration <key_loss = [0.0, 0.1, 1.0], value_loss = [0.0, 0.01, 0.06]> : !kv
  // CHECK: pmkvq.create layer 1 {{.*}}schedule <page, key_floor = 2, value_floor = 4>
  // KEEP: pmkvq.create layer 1 {{.*}}schedule <page, key_floor = 2, value_floor = 2>
  %1 = pmkvq.create layer 1 max_tokens 4096
    schedule <page, key_floor = 2, value_floor = 2> budget 82064
    calibration <key_loss = [0.0, 0.0, 0.001], value_loss = [0.0, 0.1, 0.4]> : !kv
  return %0, %1 : !kv, !kv
}
// WINDOW-LABEL: func @create
// A window holds 129 tokens: no floor matters.
// WINDOW: layer 0 {{.*}}key_floor = 2, value_floor = 2
// WINDOW: layer 1 {{.*}}key_floor = 2, value_floor = 2

// -----

// The ladder becomes that of the floors; values cannot be below 8.
!kv = !pmkvq.cache<kv_heads = 1, head_dim = 64, key = <per_channel>, value = <per_token>, ladder = [8]>

// CHECK-LABEL: func @none
// CHECK-SAME: -> !pmkvq.cache<{{.*}}ladder = [16, 8]>
func.func @none() -> !kv {
  // CHECK: schedule <none, key_floor = 16, value_floor = 8>
  %0 = pmkvq.create layer 0 max_tokens 4096
    schedule <none, key_floor = 8, value_floor = 8> budget 60000
    calibration <key_loss = [0.2, 0.5, 1.0], value_loss = [0.1, 0.2, 0.3]> : !kv
  return %0 : !kv
}
