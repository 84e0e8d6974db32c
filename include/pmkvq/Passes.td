//===- Passes.td - Every pass, in pipeline order -----------*- tablegen -*-===//
//
// Neighbours: DevicePasses.td (those to GPU code), lib/Transforms (pmkvq to
// pmkvq), lib/Conversion (pmkvq to elsewhere), lib/Pipelines/Stages.cpp (the
// stages made of them).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_PASSES_TD
#define PMKVQ_PASSES_TD

include "mlir/Pass/PassBase.td"

//===----------------------------------------------------------------------===//
// Planning: whole caches
//===----------------------------------------------------------------------===//

def SetSchedule : Pass<"pmkvq-set-schedule", "::mlir::ModuleOp"> {
  let summary = "Set schedule, floors and budget of all caches";
  let description = [{
    Sets the attributes of every `pmkvq.create` and narrows the ladder of every
    cache type to the levels that can occur under the schedule: from 16 to the
    lower floor, under `none` from the higher floor to the lower.
    `layer-floors` gives single layers floors of their own: layers, a colon, and
    the floor of both parts or those of keys and values, `0-3:8` or `5:4+2`.

    Before: `pmkvq.create layer 0 max_tokens 8192 : !kv`
    After:  `pmkvq.create layer 0 max_tokens 8192
             schedule <keys_last, key_floor = 4, value_floor = 2> : !kv`
  }];
  let options = [
    Option<"schedule", "schedule", "std::string", "\"keys_last\"",
           "When pages are lowered: keys_last, page, least_loss, layer, none, or "
           "an added name">,
    Option<"keyFloor", "key-floor", "int64_t", "2",
           "Lowest level of keys, bits">,
    Option<"valueFloor", "value-floor", "int64_t", "2",
           "Lowest level of values, bits">,
    Option<"budget", "budget", "int64_t", "0",
           "Bytes for all caches together; 0 is no limit">,
    ListOption<"layerFloors", "layer-floors", "std::string",
               "Floors of single layers: LAYERS:BITS or LAYERS:KEY+VALUE">];
  let dependentDialects = ["::mlir::pmkvq::PMKVQDialect"];
}

def SetFormats : Pass<"pmkvq-set-formats", "::mlir::ModuleOp"> {
  let summary = "Choose the formats of all caches";
  let description = [{
    Rewrites every cache type of the module to one with the given formats.

    Precondition: every `pmkvq.create` has a schedule.
    Postcondition: every cache is planned with these formats.

    Before: `!pmkvq.cache<kv_heads = 2, head_dim = 128>`
    After:  `!pmkvq.cache<kv_heads = 2, head_dim = 128,
             key = <per_channel, hadamard>, value = <per_token, hadamard>>`
  }];
  let options = [
    Option<"key", "key", "std::string", "\"<per_channel, hadamard>\"",
           "Format of keys, as in #pmkvq.format">,
    Option<"value", "value", "std::string", "\"<per_token, hadamard>\"",
           "Format of values, as in #pmkvq.format">];
  let dependentDialects = ["::mlir::pmkvq::PMKVQDialect"];
}

def ApplyCalibration : Pass<"pmkvq-apply-calibration", "::mlir::ModuleOp"> {
  let summary = "Put each layer's calibrated clips into its cache type";
  let description = [{
    A clip in the calibration of a `pmkvq.create` takes the place of the
    format's in the types of that layer's caches: the create's, and those of
    `@step` from the layer's argument on.  Types of layers then differ in clips
    alone; layers of equal clips share their kernels.  With `feedback`, keys of
    all layers that can fall with it (see `#pmkvq.format`) do, where a floor is
    below 8 bits and calibrations have squares of queries: of all layers, or none.

    Precondition: caches are planned; `@step`, if there is one, takes one cache a
    create, in order.

    Before:
    ```mlir
    %c = pmkvq.create layer 0 max_tokens 128
      schedule <page, key_floor = 2, value_floor = 2>
      calibration <key_clip = 0.77>
      : !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>,
                     value = <per_token>>
    ```
    After: the same, and `key = <per_channel, clip = 0.77>`
  }];
  let dependentDialects = ["::mlir::pmkvq::PMKVQDialect"];
  let statistics = [
    Statistic<"numLayers", "layers", "Layers whose types have changed">];
  let options = [
    Option<"feedback", "feedback", "bool", /*default=*/"true",
           "Let keys fall with feedback where the calibration has squares of "
           "queries">];
}

def AllocateBits : Pass<"pmkvq-allocate-bits", "::mlir::ModuleOp"> {
  let summary = "Give layers the floors that lose least within the budget";
  let description = [{
    Solves the integer program: each layer's keys and values get one level, from
    16 down to the floor that the schedule has for them, so that the sum of the
    calibration's losses is least and all pages of the sequences `tokens`, at
    these levels, fit the budget with everything else.  A loss at 16 bits is 0.
    The levels become the floors of each layer's schedule, and ladders the levels
    that can then occur.  Layers in `keep` stay at the floors that they have.

    Of several best answers the one with the fewest bytes is taken.

    Precondition: caches are planned and have a budget; every layer that is not
    kept has both losses.
    Postcondition: floors of layers differ in general.

    Before:
    ```mlir
    %c = pmkvq.create layer 0 max_tokens 4096
      schedule <page, key_floor = 2, value_floor = 2> budget 4194304
      calibration <key_loss = [0.0, 0.001, 0.1], value_loss = [0.0, 0.0, 0.01]> : !kv
    ```
    After: the same, and `key_floor = 4`, if that is what the budget buys
  }];
  let options = [
    ListOption<"tokens", "tokens", "int64_t",
               "Tokens that each sequence has cached at its end; one sequence of "
               "max_tokens if empty">,
    ListOption<"keep", "keep", "int64_t", "Layers whose floors stay">];
  let dependentDialects = ["::mlir::pmkvq::PMKVQDialect"];
  let statistics = [
    Statistic<"numRaised", "raised", "Parts whose floors have risen">];
}

def FoldValueRotation : Pass<"pmkvq-fold-value-rotation", "::mlir::ModuleOp"> {
  let summary = "Fold the rotation of values into the weights around them";
  let description = [{
    Where values come from a linear layer (and a bias) and the attention result
    goes into one, their weights take the rotation, and `append` and `attend`
    say that it is done.  Attention stays the same in exact arithmetic: the
    transform is its own inverse.

    Precondition: value formats say `hadamard`; weights have one use each.
    Postcondition: `values_rotated` and `result_rotated` where it was possible.
  }];
  let dependentDialects = ["::mlir::pmkvq::PMKVQDialect"];
  let statistics = [
    Statistic<"numAppends", "appends", "Appends whose values come rotated">,
    Statistic<"numAttends", "attends", "Attends whose results stay rotated">];
}

def AddPageFunctions : Pass<"pmkvq-add-page-functions", "::mlir::ModuleOp"> {
  let summary = "Add the functions that flush and requantize pages";
  let description = [{
    Adds one function for each part and level that a flush may write, and for
    each part and step of the ladder.

    Precondition: caches have formats and a schedule, and types that differ in
    clips at most: these functions make and shift codes, which no clip changes.

    ```mlir
    func.func @requantize_key_8_4(%caches: !kv, %pages: !pmkvq.pages) -> !kv {
      %0 = pmkvq.requantize key %caches, %pages from 8 to 4 : !kv
      return %0 : !kv
    }
    ```
  }];
  let dependentDialects = ["::mlir::pmkvq::PMKVQDialect",
                           "::mlir::func::FuncDialect"];
}

//===----------------------------------------------------------------------===//
// Tile form
//===----------------------------------------------------------------------===//

def ConvertPMKVQToTile : Pass<"convert-pmkvq-to-tile", "::mlir::ModuleOp"> {
  let summary = "Lower ops on caches to kernels in tile form";
  let description = [{
    `append` and `attend` become launches of kernels, one kernel for all layers
    that share type and flags; functions that `flush` or `requantize` become
    kernels; `create` becomes the program's description of itself.

    Precondition: caches are planned and of one type but for clips; creates lie in one function
    of their own, in the order of layers, and each flush and requantize in one.
    Postcondition: no op on whole caches is left.
  }];
  let dependentDialects = [
    "::mlir::LLVM::LLVMDialect", "::mlir::arith::ArithDialect",
    "::mlir::func::FuncDialect", "::mlir::pmkvq::PMKVQDialect",
    "::mlir::scf::SCFDialect", "::mlir::tensor::TensorDialect"];
}

def FoldParameters : Pass<"pmkvq-fold-parameters", "::mlir::pmkvq::KernelOp"> {
  let summary = "Fold formats' parameters out of products with tiles";
  let description = [{
    An element decodes as offset + step * code.  Where groups lie along the
    summed axis, step scales the rows before the product and offset adds one
    number a row; where they lie along the other axis, step scales the product
    and offset adds an outer product.  The format says what offset and step are.

    Before: `%x = pmkvq.scores %q, %k`
    After (per channel):
    ```mlir
    %min, %range = pmkvq.load_parameters %k
    %step = arith.mulf %range, %c        // by the format
    %qs = pmkvq.scale %q, %step
    %b = pmkvq.reduce %q, %min
    %y = pmkvq.contract %qs, %k
    %x = pmkvq.add_outer %y, %b, %ones
    ```
    Postcondition: no `scores` or `accumulate` is left.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect",
                           "::mlir::math::MathDialect",
                           "::mlir::pmkvq::PMKVQDialect"];
  let statistics = [Statistic<"numFolded", "folded", "Products folded">];
}

def ProductsToIntegers
    : Pass<"pmkvq-products-to-integers", "::mlir::pmkvq::KernelOp"> {
  let summary = "Take products with codes of integers";
  let description = [{
    A CPU multiplies 16-bit integers and adds them up twice as fast as floats,
    and codes need no conversion to be integers.  Rows before a product with
    codes on a linear grid below level 16 are rounded to 15 bits and a sign, in a
    unit of their own.  Multiplications by a vector are taken into the rounding,
    an addition of one number a row into the product.  What rounding loses from
    the sum of a row is added times the middle code: errors then meet a code's
    distance from the middle, and are half as large.

    Before:
    ```mlir
    %qs = pmkvq.scale %q, %step
    %y = pmkvq.contract %qs, %k
    %x = pmkvq.add_outer %y, %b, %ones
    ```
    After:
    ```mlir
    %i, %unit, %lost = pmkvq.round_rows %q by %step
    %c = arith.mulf %lost, %middle
    %bias = arith.addf %b, %c
    %x = pmkvq.contract_integers %i, %k unit %unit bias %bias
    ```
    Postcondition: what `contract` is left has a tile at level 16 or a code book.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect",
                           "::mlir::pmkvq::PMKVQDialect"];
  let statistics = [Statistic<"numProducts", "products", "Products of integers">];
}

def PrefetchPages : Pass<"pmkvq-prefetch-pages", "::mlir::pmkvq::KernelOp"> {
  let summary = "Fetch the next page while one is worked on";
  let description = [{
    Blocks lie anywhere, so no hardware foresees the next page.  Products and
    parameters of a loop over pages get the next page's tile at the same level as
    what lies ahead; in the last round that is the first page of the task that
    the list names.  If its level is another, the wrong lines are fetched, or too
    few.  What quantizes or shifts the page of a task gets that of the task which
    the list names.

    Before: `%y = pmkvq.contract %q, %k` on a page fetched at the loop's index
    After:
    ```mlir
    %next = pmkvq.fetch %cache[%sequence, %head, %after]
    %a = pmkvq.take key %next
    %y = pmkvq.contract %q, %k ahead %a
    ```
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect",
                           "::mlir::pmkvq::PMKVQDialect"];
  let statistics = [Statistic<"numAhead", "ahead", "Ops that look ahead">];
}

def ConvertTileToVector : Pass<"convert-pmkvq-tile-to-vector",
                               "::mlir::ModuleOp"> {
  let summary = "Lower kernels in tile form to vector code for the CPU";
  let description = [{
    Rows and softmax states become memory that fits the first-level cache, tiles
    become addresses of blocks and parameters; work is done on vectors of 8
    lanes, in the order of CodeLayout.h.  With registers of 64 bytes products and
    softmax take 16 lanes, two vectors of codes, at a time.

    Precondition: `pmkvq-fold-parameters` ran.
    Postcondition: no kernel is left; each is a function KernelFn.
  }];
  let options = [Option<"registerBytes", "register-bytes", "int64_t", "32",
                        "Bytes of a vector register: 32 or 64">];
  let dependentDialects = [
    "::mlir::LLVM::LLVMDialect", "::mlir::arith::ArithDialect",
    "::mlir::func::FuncDialect", "::mlir::math::MathDialect",
    "::mlir::scf::SCFDialect", "::mlir::vector::VectorDialect"];
}

include "pmkvq/DevicePasses.td"

//===----------------------------------------------------------------------===//
// Host code
//===----------------------------------------------------------------------===//

def LowerLinears : Pass<"pmkvq-lower-linears", "::mlir::func::FuncOp"> {
  let summary = "Lower linear layers to calls of the runtime";
  let description = [{
    A `linalg.matmul` on memrefs, f32 [m, k] times bf16 [n, k] transposed,
    becomes a call of pmkvq_rt_linear.

    Precondition: bufferized.
    Postcondition: no such product is left.
  }];
  let dependentDialects = [
    "::mlir::LLVM::LLVMDialect", "::mlir::arith::ArithDialect",
    "::mlir::func::FuncDialect", "::mlir::memref::MemRefDialect"];
}

def OutlineLoops : Pass<"pmkvq-outline-loops", "::mlir::ModuleOp"> {
  let summary = "Give equal linalg ops of all layers one function";
  let description = [{
    Each linalg op on memrefs becomes a call; ops that differ only in their
    operands call the same function.

    Precondition: bufferized; linear layers lowered.
    Postcondition: no linalg op is left outside functions of one op.
  }];
  let dependentDialects = ["::mlir::LLVM::LLVMDialect",
                           "::mlir::func::FuncDialect"];
  let statistics = [Statistic<"numFunctions", "functions", "Functions made">];
}

def LowerHost : Pass<"pmkvq-lower-host", "::mlir::ModuleOp"> {
  let summary = "Give the step its entry point and call the runtime's hooks";
  let description = [{
    `@step` becomes `pmkvq_step(StepArgs *)`: arguments and weights are read
    from the struct, launches become calls of pmkvq_rt_launch, and the result
    is the worst status of all launches. Buffers become places in
    StepArgs::scratch, shared by those that are not in use together;
    `pmkvq_scratch(rows, outputs)` says how many bytes a step needs.

    Precondition: bufferized; linear layers lowered.
    Postcondition: pmkvq ops are left in kernels only.
  }];
  let dependentDialects = [
    "::mlir::LLVM::LLVMDialect", "::mlir::arith::ArithDialect",
    "::mlir::func::FuncDialect", "::mlir::memref::MemRefDialect"];
}

#endif // PMKVQ_PASSES_TD
