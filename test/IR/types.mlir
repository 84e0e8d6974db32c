// Types and attributes: defaults are left out, everything else is written back.
// RUN: pmkvq-opt %s | pmkvq-opt | FileCheck %s
// RUN: pmkvq-opt %s --mlir-print-op-generic | pmkvq-opt | FileCheck %s

// CHECK-LABEL: @cache_without_formats
// CHECK-SAME: (!pmkvq.cache<kv_heads = 2, head_dim = 128>)
func.func private @cache_without_formats(!pmkvq.cache<kv_heads = 2, head_dim = 128>)

// CHECK-LABEL: @cache_with_defaults_written
// CHECK-SAME: (!pmkvq.cache<kv_heads = 1, head_dim = 64, key = <per_channel>, value = <per_token>>)
func.func private @cache_with_defaults_written(
    !pmkvq.cache<kv_heads = 1, head_dim = 64, key = <per_channel, clip = 0.8>,
                 value = <per_token>, ladder = [16, 8, 4, 2], sink = 1>)

// CHECK-LABEL: @cache_without_defaults
// CHECK-SAME: key = <per_token, hadamard, clip = 7.500000e-01>
// CHECK-SAME: value = <per_channel, clip = 8.500000e-01, group = 32>, ladder = [8, 4], sink = 16>)
func.func private @cache_without_defaults(
    !pmkvq.cache<kv_heads = 4, head_dim = 128,
                 key = <per_token, hadamard, clip = 0.75>,
                 value = <per_channel, group = 32, clip = 0.85>, ladder = [8, 4], sink = 16>)

// CHECK-LABEL: @cache_fields_in_any_order
// CHECK-SAME: (!pmkvq.cache<kv_heads = 2, head_dim = 64, ladder = [2], sink = 0>)
func.func private @cache_fields_in_any_order(
    !pmkvq.cache<sink = 0, ladder = [2], head_dim = 64, kv_heads = 2>)

// CHECK-LABEL: @cache_with_full_formats
// CHECK-SAME: key = <per_channel, hadamard>, value = <per_token>>)
func.func private @cache_with_full_formats(
    !pmkvq.cache<kv_heads = 2, head_dim = 64,
                 key = #pmkvq.format<per_channel, hadamard>,
                 value = #pmkvq.format<per_token>>)

// CHECK-LABEL: @cache_with_feedback
// CHECK-SAME: key = <per_channel, hadamard, feedback>, value = <per_token>>)
func.func private @cache_with_feedback(
    !pmkvq.cache<kv_heads = 2, head_dim = 64,
                 key = <per_channel, feedback, hadamard>, value = <per_token>>)

// CHECK-LABEL: @batch_and_pages
// CHECK-SAME: (!pmkvq.batch, !pmkvq.pages)
func.func private @batch_and_pages(!pmkvq.batch, !pmkvq.pages)

// CHECK-LABEL: @feedback
// CHECK-SAME: (!pmkvq.feedback)
func.func private @feedback(!pmkvq.feedback)

// CHECK-LABEL: @page
// CHECK-SAME: (!pmkvq.page<<kv_heads = 2, head_dim = 64>>)
func.func private @page(!pmkvq.page<<kv_heads = 2, head_dim = 64>>)

// CHECK-LABEL: @tiles
// CHECK-SAME: !pmkvq.tile<key, 2, 128, 64, <per_channel, hadamard>>
// CHECK-SAME: !pmkvq.tile<value, 16, 128, 128, <per_token, clip = 7.500000e-01>>
// CHECK-SAME: !pmkvq.tile<key, 16, 129, 64>
func.func private @tiles(!pmkvq.tile<key, 2, 128, 64, <per_channel, hadamard>>,
                         !pmkvq.tile<value, 16, 128, 128, <per_token, clip = 0.75>>,
                         !pmkvq.tile<key, 16, 129, 64>)

// CHECK-LABEL: @raw_tile
// CHECK-SAME: (!pmkvq.tile<value, 16, 129, 64>)
func.func private @raw_tile(!pmkvq.tile<value, 16, 129, 64>)

// CHECK-LABEL: @rows_and_state
// CHECK-SAME: (!pmkvq.rows<3, 128>, !pmkvq.softmax<3, 64>)
func.func private @rows_and_state(!pmkvq.rows<3, 128>, !pmkvq.softmax<3, 64>)

// CHECK-LABEL: @formats
// CHECK-SAME: a = #pmkvq.format<per_channel>, b = #pmkvq.format<per_token, hadamard, clip = 7.100000e-01>
// CHECK-SAME: c = #pmkvq.format<per_token, hadamard, clip = 7.100000e-01, group = 32, feedback>
func.func private @formats() attributes {
  a = #pmkvq.format<per_channel, clip = 0.8>,
  b = #pmkvq.format<per_token, clip = 0.71, hadamard>,
  c = #pmkvq.format<per_token, feedback, hadamard, group = 32, clip = 0.71>}

// CHECK-LABEL: @schedules
// CHECK-SAME: a = #pmkvq.schedule<page, key_floor = 4, value_floor = 2>
// CHECK-SAME: b = #pmkvq.schedule<none, key_floor = 16, value_floor = 8>
func.func private @schedules() attributes {
  a = #pmkvq.schedule<page, key_floor = 4, value_floor = 2>,
  b = #pmkvq.schedule<none, key_floor = 16, value_floor = 8>}

// CHECK-LABEL: @rotation
// CHECK-SAME: a = #pmkvq.rotation<dim = 1, block = 64>
func.func private @rotation() attributes {a = #pmkvq.rotation<dim = 1, block = 64>}
