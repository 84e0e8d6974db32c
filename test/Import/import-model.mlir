// A checkpoint becomes the step of its model over explicit caches, in ops that
// pmkvq-opt reads again.  Neighbours: lib/Import/ImportModel.cpp.

// RUN: pmkvq-run %models/reasoner --emit=import | pmkvq-opt | FileCheck %s

// Weights lie outside the module, under readable names.
// CHECK-DAG: pmkvq.weight @embed_tokens : tensor<1056x384xbf16> from "model.embed_tokens.weight"
// CHECK-DAG: pmkvq.weight @layers.5.self_attn.v_proj.bias : tensor<256xbf16> from "model.layers.5.self_attn.v_proj.bias"

// Caches have no formats yet.
// CHECK-LABEL: func.func @create
// CHECK-COUNT-6: pmkvq.create layer {{[0-5]}} max_tokens 8192 : <kv_heads = 2, head_dim = 128>
// CHECK-NEXT: return

// CHECK-LABEL: func.func @step(
// CHECK-SAME: %[[BATCH:.*]]: !pmkvq.batch, %[[TOKENS:[a-z0-9]*]]: tensor<?xi32>, %[[POSITIONS:[a-z0-9]*]]: tensor<?xi32>, %[[OUTPUTS:[a-z0-9]*]]: tensor<?xi32>, %[[LOGITS:[a-z0-9]*]]: tensor<?x1056xf32>, %[[C0:[a-z0-9]*]]: !pmkvq.cache
// CHECK: %[[TABLE:.*]] = pmkvq.get_weight @embed_tokens
// CHECK: %[[H0:.*]] = linalg.generic {{.*}} ins(%[[TOKENS]]
// CHECK: tensor.extract %[[TABLE]]

// The angles of RoPE are computed once.
// CHECK: math.cos
// CHECK: math.sin
// CHECK-NOT: math.cos

// The values' linear layer starts from the bias and has no other use.
// CHECK: %[[BV:.*]] = pmkvq.get_weight @layers.0.self_attn.v_proj.bias
// CHECK: %[[V0:.*]] = linalg.generic {{.*}} ins(%[[BV]] : tensor<256xbf16>)
// CHECK: %[[WV:.*]] = pmkvq.get_weight @layers.0.self_attn.v_proj :
// CHECK: %[[V:.*]] = linalg.matmul {{.*}} ins(%{{.*}}, %[[WV]] : tensor<?x384xf32>, tensor<256x384xbf16>) outs(%[[V0]]
// CHECK: %[[VH:.*]] = tensor.expand_shape %[[V]] {{.*}} into tensor<?x2x128xf32>
// CHECK: %[[C:.*]] = pmkvq.append %[[C0]], %{{.*}}, %[[VH]], %[[BATCH]]
// CHECK: %[[A:.*]] = pmkvq.attend %{{.*}}, %[[C]], %[[BATCH]] scale 0.0883883461 : tensor<?x6x128xf32>

// Both blocks accumulate into the residual stream.
// CHECK: %[[AJ:.*]] = tensor.collapse_shape %[[A]]
// CHECK: %[[WO:.*]] = pmkvq.get_weight @layers.0.self_attn.o_proj
// CHECK: %[[H1:.*]] = linalg.matmul {{.*}} ins(%[[AJ]], %[[WO]] : {{.*}}) outs(%[[H0]]
// CHECK: %[[WD:.*]] = pmkvq.get_weight @layers.0.mlp.down_proj
// CHECK: linalg.matmul {{.*}} ins(%{{.*}}, %[[WD]] : {{.*}}) outs(%[[H1]]

// Only the rows asked for reach the head, which writes the caller's buffer.
// CHECK: pmkvq.get_weight @layers.5.mlp.down_proj
// CHECK: %[[LAST:.*]] = linalg.matmul
// CHECK: linalg.generic {{.*}} ins(%[[OUTPUTS]]
// CHECK: tensor.extract %[[LAST]]
// CHECK: %[[HEAD:.*]] = pmkvq.get_weight @embed_tokens
// CHECK: %[[ZERO:.*]] = linalg.fill {{.*}} outs(%[[LOGITS]]
// CHECK: %[[RESULT:.*]] = linalg.matmul {{.*}} ins(%{{.*}}, %[[HEAD]] : {{.*}}) outs(%[[ZERO]]
// CHECK: return %[[RESULT]], %[[C]],
