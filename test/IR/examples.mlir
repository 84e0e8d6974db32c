// Every example in the dialect's descriptions parses and verifies, and every op
// has one: the script fails for an op without.
// RUN: python3 %S/Inputs/extract_examples.py %S/../../include/pmkvq/IR/*.td > %t
// RUN: pmkvq-opt --split-input-file %t | FileCheck %s

// CHECK-DAG: e = #pmkvq.format<
// CHECK-DAG: e = #pmkvq.rotation<
// CHECK-DAG: e = #pmkvq.schedule<
// CHECK-DAG: e = #pmkvq.calibration<
// CHECK-DAG: e = !pmkvq.cache<
// CHECK-DAG: e = !pmkvq.tile<
// CHECK-DAG: pmkvq.weight @r0
// CHECK-DAG: pmkvq.weight @v1 : tensor<256x384xbf16> from "layers.0.qkv_proj.weight" first_row 1024
// CHECK-DAG: pmkvq.get_weight
// CHECK-DAG: pmkvq.create
// CHECK-DAG: pmkvq.append
// CHECK-DAG: pmkvq.attend
// CHECK-DAG: pmkvq.flush
// CHECK-DAG: pmkvq.requantize
// CHECK-DAG: pmkvq.kernel @nothing
// CHECK-DAG: pmkvq.shift
// CHECK-DAG: pmkvq.softmax_finish
// CHECK-DAG: pmkvq.for_unit
// CHECK-DAG: pmkvq.multiply_codes
