// Layers of clips of their own: attention decodes by the layer's type, codes
// are made and shifted by kernels that all layers share.
// RUN: pmkvq-opt %s --pmkvq-stage-plan --convert-pmkvq-to-tile | FileCheck %s
// RUN: pmkvq-opt %s --pmkvq-stage-plan --pmkvq-stage-tile --pmkvq-stage-fold | FileCheck %s --check-prefix=FOLD

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64>
func.func @create() -> (!kv, !kv, !kv) {
  %0 = pmkvq.create layer 0 max_tokens 128 calibration <key_clip = 0.75> : !kv
  %1 = pmkvq.create layer 1 max_tokens 128 : !kv
  %2 = pmkvq.create layer 2 max_tokens 128 calibration <key_clip = 0.75> : !kv
  return %0, %1, %2 : !kv, !kv, !kv
}

// CHECK-LABEL: func @step
func.func @step(%q: tensor<?x2x64xf32>, %b: !pmkvq.batch, %c0: !kv, %c1: !kv, %c2: !kv)
    -> (tensor<?x2x64xf32>) {
  // CHECK: launch @attend_0 {{.*}}clip = 7.500000e-01
  %o0 = pmkvq.attend %q, %c0, %b scale 1.0 : tensor<?x2x64xf32>, !kv
  // CHECK: launch @attend_1
  %o1 = pmkvq.attend %o0, %c1, %b scale 1.0 : tensor<?x2x64xf32>, !kv
  // CHECK: launch @attend_0 {{.*}}clip = 7.500000e-01
  %o2 = pmkvq.attend %o1, %c2, %b scale 1.0 : tensor<?x2x64xf32>, !kv
  return %o2 : tensor<?x2x64xf32>
}

// The step of keys at 2 bits is range * clip / 3: 0.25 where the clip is 0.75.
// FOLD-LABEL: kernel @attend_0
// FOLD: dense<2.500000e-01> : vector<64xf32>
// FOLD-LABEL: kernel @attend_1
// FOLD-NOT: dense<2.500000e-01> : vector<64xf32>
// FOLD: dense<0.266666681> : vector<64xf32>

// CHECK-LABEL: kernel @pmkvq_requantize_key_4_2
// CHECK-NOT: clip
// CHECK-NOT: kernel @pmkvq_requantize_key_4_2
