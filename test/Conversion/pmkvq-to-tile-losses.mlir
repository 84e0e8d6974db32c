// A schedule by losses: the program exports what pages of each layer cost, losses at 8, 4, 2 and
// 1 bits of keys and of values (0 where there are none), then the shares of 64 pages of each kv head.
// RUN: pmkvq-opt %s --convert-pmkvq-to-tile | FileCheck %s

!kv = !pmkvq.cache<kv_heads = 1, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>

// CHECK-LABEL: func @pmkvq_describe
// CHECK: llvm.mlir.constant(4 : i32)
// A layer takes 8 + 64 floats.  Layer 0: 0, 0.5, 1, 0; 0, 0.25, 2, 4; shares 1, 0.5, 0.5, ...
// CHECK: llvm.mlir.global internal constant @page_losses_table(dense<
// CHECK-SAME: "0x000000000000003F0000803F00000000000000000000803E00000040000080400000803F{{((0000003F){63})}}
// Layer 1 without shares: all pages are alike.
// CHECK-SAME: 000000000000803E0000003F00000000000000000000803E0000003F00000000{{((0000803F){64})}}">
// CHECK-SAME: tensor<144xf32>) {{{addr_space = 0 : i32, alignment = 64 : i64}}} : !llvm.array<144 x f32>
// CHECK-LABEL: func @pmkvq_page_losses
// CHECK-SAME: (%[[LAYER:.*]]: i64) -> !llvm.ptr
// CHECK-NEXT: %[[TABLE:.*]] = llvm.mlir.addressof @page_losses_table
// CHECK-NEXT: %[[FLOATS:.*]] = llvm.mlir.constant(72 : i64)
// CHECK-NEXT: %[[INDEX:.*]] = llvm.mul %[[LAYER]], %[[FLOATS]]
// CHECK-NEXT: %[[AT:.*]] = llvm.getelementptr %[[TABLE]][%[[INDEX]]] : (!llvm.ptr, i64) -> !llvm.ptr, f32
// CHECK-NEXT: return %[[AT]]
func.func @create() -> (!kv, !kv) {
  %0 = pmkvq.create layer 0 max_tokens 4096 schedule <least_loss, key_floor = 2, value_floor = 2>
    calibration <key_loss = [0.0, 0.5, 1.0], value_loss = [0.0, 0.25, 2.0, 4.0], page_shares = [1.0, 0.5]> : !kv
  %1 = pmkvq.create layer 1 max_tokens 4096 schedule <least_loss, key_floor = 2, value_floor = 2>
    calibration <key_loss = [0.0, 0.25, 0.5], value_loss = [0.0, 0.25, 0.5]> : !kv
  return %0, %1 : !kv, !kv
}
