// Keys fall with feedback where calibration has squares of queries, unless the
// option says no.
// RUN: pmkvq-opt %s --pmkvq-apply-calibration --split-input-file | FileCheck %s
// RUN: pmkvq-opt %s --pmkvq-apply-calibration=feedback=false --split-input-file | FileCheck %s --check-prefix=NEAREST --implicit-check-not=feedback

!kv = !pmkvq.cache<kv_heads = 1, head_dim = 64, key = <per_channel, hadamard>,
                   value = <per_token, hadamard>>

// Values do not, and keys keep their clip.
// CHECK-LABEL: func @create() -> !pmkvq.cache<{{.*}}key = <per_channel, hadamard, clip = 7.700000e-01, feedback>, value = <per_token, hadamard>>
// NEAREST-LABEL: func @create() -> !pmkvq.cache<{{.*}}key = <per_channel, hadamard, clip = 7.700000e-01>, value = <per_token, hadamard>>
func.func @create() -> !kv {
  // CHECK: pmkvq.create {{.*}} : <{{.*}}feedback>, value = <per_token, hadamard>>
  %0 = pmkvq.create layer 0 max_tokens 128
    schedule <page, key_floor = 2, value_floor = 2>
    calibration <key_clip = 0.77, query_squares = [
      1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0,
      1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0,
      1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0,
      1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]> : !kv
  return %0 : !kv
}

// CHECK-LABEL: func @step
// CHECK-SAME: hadamard, clip = 7.700000e-01, feedback>, value = <per_token, hadamard>>, %{{.*}}: !pmkvq.batch)
func.func @step(%q: tensor<?x1x64xf32>, %c: !kv, %b: !pmkvq.batch) -> (tensor<?x1x64xf32>, !kv) {
  // CHECK: pmkvq.append {{.*}}feedback>
  %a = pmkvq.append %c, %q, %q, %b : !kv, tensor<?x1x64xf32>
  // CHECK: pmkvq.attend {{.*}}feedback>
  %o = pmkvq.attend %q, %a, %b scale 1.0 : tensor<?x1x64xf32>, !kv
  return %o, %a : tensor<?x1x64xf32>, !kv
}

// -----

// Keys that are not rotated cannot.
// CHECK: pmkvq.create {{.*}}key = <per_channel>, value
%plain = pmkvq.create layer 0 max_tokens 128
  schedule <page, key_floor = 2, value_floor = 2>
  calibration <query_squares = [
      1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0,
      1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0,
      1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0,
      1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]>
  : !pmkvq.cache<kv_heads = 1, head_dim = 64, key = <per_channel>, value = <per_token>>

// -----

// Nor can those of a format without ranges.
// CHECK: pmkvq.create {{.*}}key = <paper, hadamard>, value
%paper = pmkvq.create layer 0 max_tokens 128
  schedule <page, key_floor = 2, value_floor = 2>
  calibration <query_squares = [
      1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0,
      1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0,
      1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0,
      1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]>
  : !pmkvq.cache<kv_heads = 1, head_dim = 64, key = <paper, hadamard>, value = <paper>>

// -----

// Without squares there is nothing to go by.
// CHECK: pmkvq.create {{.*}}key = <per_channel, hadamard, clip = 7.700000e-01>, value
%clips = pmkvq.create layer 0 max_tokens 128
  schedule <page, key_floor = 2, value_floor = 2>
  calibration <key_clip = 0.77>
  : !pmkvq.cache<kv_heads = 1, head_dim = 64, key = <per_channel, hadamard>, value = <per_token>>
