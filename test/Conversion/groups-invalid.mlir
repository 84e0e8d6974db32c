// Groups smaller than the axis are refused where kernels would need them.
// RUN: not pmkvq-opt %s --convert-pmkvq-to-tile 2>&1 | FileCheck %s --check-prefix=TILE
// RUN: not pmkvq-opt %s --pass-pipeline="builtin.module(pmkvq.kernel(pmkvq-fold-parameters))" 2>&1 | FileCheck %s --check-prefix=FOLD
// RUN: not pmkvq-opt %s --convert-pmkvq-tile-to-vector 2>&1 | FileCheck %s --check-prefix=VECTOR

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token, group = 32>>
!raw = !pmkvq.tile<key, 16, 128, 64>
!k8 = !pmkvq.tile<key, 8, 128, 64, <per_channel, group = 32>>

// TILE: error: 'pmkvq.requantize' op not lowered yet: a group of 32 in the format of the value, expected the whole axis of 64
func.func @requantize(%c: !kv, %p: !pmkvq.pages) -> !kv {
  %r = pmkvq.requantize key %c, %p from 8 to 4 : !kv
  return %r : !kv
}

pmkvq.kernel @kernel(%q: !pmkvq.rows<3, 64>, %raw: !raw, %task: index) -> i1 {
  // VECTOR: error: 'pmkvq.quantize' op not lowered yet: groups smaller than the axis in '!pmkvq.tile<key, 8, 128, 64, <per_channel, group = 32>>'
  %codes, %ok = pmkvq.quantize %raw : !raw -> !k8
  // FOLD: error: 'pmkvq.scores' op not lowered yet: groups smaller than the axis in '!pmkvq.tile<key, 8, 128, 64, <per_channel, group = 32>>'
  %x = pmkvq.scores %q, %codes : !pmkvq.rows<3, 64>, !k8 -> !pmkvq.rows<3, 128>
  pmkvq.return %ok
}
