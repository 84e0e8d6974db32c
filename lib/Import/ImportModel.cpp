//===- ImportModel.cpp - A model's step as a module -----------------------===//
//
// Puts a decoder together: weights, caches, layers.  Neighbours: StepBuilder.h
// (what a layer consists of), ModelConfig.h.
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Import/ImportModel.h"
#include "StepBuilder.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Diagnostics.h"
#include "mlir/IR/Verifier.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq_rt/Geometry.h"
#include <cmath>

using namespace mlir;
using namespace mlir::pmkvq;

namespace {
class Importer {
public:
  Importer(ModuleOp module, const ModelConfig &config)
      : config(config), b(module.getLoc(), module.getBodyRegion()), step(b) {
    b.setInsertionPointToEnd(module.getBody());
    cacheType = cast<CacheType>(makeCacheType());
  }

  void run() {
    addWeights();
    addCreate();
    addStep();
  }

private:
  Type makeCacheType();
  void addWeights();
  void addWeight(const TensorSpec &spec, std::optional<int64_t> layer = {});
  DenseI8ArrayAttr keyScalesOf(StringRef tensor, int64_t layer);
  void addCreate();
  CalibrationAttr calibrationOf(int64_t layer);
  DenseF32ArrayAttr querySquaresOf(const LayerCalibration &found);
  void addStep();
  func::FuncOp beginFunction(StringRef name, TypeRange arguments,
                             TypeRange results);
  RankedTensorType rowsType(ArrayRef<int64_t> sizes, Type element);
  /// The layer whose ops follow, also in their locations.
  void enterLayer(int64_t layer);
  Value weight(StringRef name);
  Value layerWeight(StringRef name) { return weight(prefix + name.str()); }
  /// The inputs of one step; caches are replaced layer by layer.
  struct Inputs {
    Value batch, tokens, positions, outputs, logits;
    SmallVector<Value> caches;
  };
  Value addLayer(Value hidden, Value &cache, Value batch,
                 const StepBuilder::Angles &angles);
  Value projectHeads(Value x, StringRef name, int64_t heads);
  Value addAttention(Value x, Value &cache, Value batch,
                     const StepBuilder::Angles &angles);
  Value addHead(Value hidden, const Inputs &inputs);

  const ModelConfig &config;
  ImplicitLocOpBuilder b;
  StepBuilder step;
  CacheType cacheType;
  /// "model.layers.N."
  std::string prefix;
};
} // namespace

//===----------------------------------------------------------------------===//
// Weights
//===----------------------------------------------------------------------===//

/// "model.layers.0.mlp.up_proj.weight" -> "layers.0.mlp.up_proj".
static StringRef symbolName(StringRef tensor) {
  tensor.consume_front("model.");
  tensor.consume_back(".weight");
  return tensor;
}

/// What a weight's rows are scaled by, so that keys of the layer are divided by
/// powers of two and their queries multiplied: the norms of both, or else what
/// they are projected with.  Channels that RoPE turns together have one scale,
/// so it is as if keys and queries themselves were scaled.  Null: the weight
/// makes neither.
DenseI8ArrayAttr Importer::keyScalesOf(StringRef tensor, int64_t layer) {
  tensor.consume_front("model.layers." + std::to_string(layer) + ".self_attn.");
  StringRef maker = tensor.split('.').first;
  StringRef kind = config.queryKeyNorms ? "norm" : "proj";
  bool isQuery = maker == ("q_" + kind).str();
  if (!isQuery && maker != ("k_" + kind).str())
    return {};
  ArrayRef<int8_t> keys = config.calibration->layers[layer].keyExponents;
  // A norm has one weight for all heads; a kv head is that of several queries.
  int64_t heads = config.queryKeyNorms ? 1 : config.kvHeads;
  int64_t copies =
      isQuery && !config.queryKeyNorms ? config.heads / config.kvHeads : 1;
  SmallVector<int8_t> exponents;
  for (int64_t row = 0; row < heads * copies * config.headDim; ++row) {
    int64_t head = row / config.headDim / copies;
    int8_t exponent = keys[head * config.headDim + row % config.headDim];
    exponents.push_back(static_cast<int8_t>(isQuery ? exponent : -exponent));
  }
  return b.getDenseI8ArrayAttr(exponents);
}

void Importer::addWeight(const TensorSpec &spec, std::optional<int64_t> layer) {
  auto add = [&](StringRef name, ArrayRef<int64_t> shape, IntegerAttr row) {
    auto type = RankedTensorType::get(shape, b.getBF16Type());
    DenseI8ArrayAttr scales;
    if (layer && config.foldKeyScales)
      scales = keyScalesOf(name, *layer);
    WeightOp::create(b, b.getStringAttr(symbolName(name)), TypeAttr::get(type),
                     b.getStringAttr(spec.name), row,
                     /*rotations=*/ArrayAttr(), scales);
  };
  if (spec.parts.empty())
    return add(spec.name, spec.shape, IntegerAttr());
  int64_t row = 0;
  for (const TensorSpec::Part &part : spec.parts) {
    SmallVector<int64_t> shape = spec.shape;
    shape[0] = part.rows;
    add(part.name, shape, b.getI64IntegerAttr(row));
    row += part.rows;
  }
}

void Importer::addWeights() {
  for (const TensorSpec &spec : getOuterTensors(config))
    addWeight(spec);
  for (int64_t layer = 0; layer < config.layers; ++layer)
    for (const TensorSpec &spec : getLayerTensors(config, layer))
      addWeight(spec, layer);
}

Value Importer::weight(StringRef name) {
  StringRef symbol = symbolName(name);
  auto op = SymbolTable::lookupNearestSymbolFrom<WeightOp>(
      b.getInsertionBlock()->getParentOp(), b.getStringAttr(symbol));
  return GetWeightOp::create(b, op.getType(),
                             FlatSymbolRefAttr::get(b.getContext(), symbol));
}

//===----------------------------------------------------------------------===//
// Functions
//===----------------------------------------------------------------------===//

Type Importer::makeCacheType() {
  // The whole ladder; the stages narrow it.
  SmallVector<int64_t> ladder(::pmkvq::rt::kLadder.begin(),
                              ::pmkvq::rt::kLadder.end());
  return CacheType::get(b.getContext(), config.kvHeads, config.headDim,
                        FormatAttr(), FormatAttr(), ladder, kImportedSink);
}

RankedTensorType Importer::rowsType(ArrayRef<int64_t> sizes, Type element) {
  SmallVector<int64_t> shape = {ShapedType::kDynamic};
  llvm::append_range(shape, sizes);
  return RankedTensorType::get(shape, element);
}

func::FuncOp Importer::beginFunction(StringRef name, TypeRange arguments,
                                     TypeRange results) {
  auto function =
      func::FuncOp::create(b, name, b.getFunctionType(arguments, results));
  b.setInsertionPointToEnd(function.addEntryBlock());
  return function;
}

CalibrationAttr Importer::calibrationOf(int64_t layer) {
  if (!config.calibration)
    return CalibrationAttr();
  const LayerCalibration &found = config.calibration->layers[layer];
  auto key = static_cast<size_t>(Part::Key);
  auto value = static_cast<size_t>(Part::Value);
  return CalibrationAttr::get(
      b.getContext(), b.getF64FloatAttr(found.clip[key]),
      b.getF64FloatAttr(found.clip[value]),
      b.getDenseF64ArrayAttr(found.loss[key]),
      b.getDenseF64ArrayAttr(found.loss[value]), querySquaresOf(found),
      found.pageShares.empty() ? DenseF32ArrayAttr()
                               : b.getDenseF32ArrayAttr(found.pageShares));
}

/// Squares of queries as the program has them: multiplied by key scales, if it
/// has these.
DenseF32ArrayAttr Importer::querySquaresOf(const LayerCalibration &found) {
  if (found.querySquares.empty())
    return {};
  std::vector<float> squares = found.querySquares;
  if (config.foldKeyScales)
    for (auto [square, exponent] : llvm::zip(squares, found.keyExponents))
      square = std::ldexp(square, 2 * exponent);
  return b.getDenseF32ArrayAttr(squares);
}

void Importer::addCreate() {
  OpBuilder::InsertionGuard guard(b);
  SmallVector<Type> types(config.layers, cacheType);
  beginFunction("create", {}, types);
  SmallVector<Value> caches;
  for (int64_t layer = 0; layer < config.layers; ++layer)
    caches.push_back(CreateOp::create(b, cacheType, layer, config.maxPositions,
                                      ScheduleAttr(), IntegerAttr(),
                                      calibrationOf(layer)));
  func::ReturnOp::create(b, caches);
}

void Importer::addStep() {
  OpBuilder::InsertionGuard guard(b);
  Type ids = rowsType({}, b.getI32Type());
  Type logits = rowsType({config.vocabSize}, b.getF32Type());
  SmallVector<Type> arguments = {BatchType::get(b.getContext()), ids, ids, ids,
                                 logits};
  SmallVector<Type> results = {logits};
  arguments.append(config.layers, cacheType);
  results.append(config.layers, cacheType);
  auto values = beginFunction("step", arguments, results).getArguments();
  Inputs inputs{values[0], values[1],
                values[2], values[3],
                values[4], llvm::to_vector_of<Value>(values.drop_front(5))};

  step.setRows(inputs.tokens);
  Value hidden =
      step.gatherRows(weight("model.embed_tokens.weight"), inputs.tokens);
  auto angles = step.ropeAngles(inputs.positions, config.rope.frequencies,
                                config.rope.attentionFactor);
  Location outer = b.getLoc();
  for (auto [layer, cache] : llvm::enumerate(inputs.caches)) {
    enterLayer(layer);
    hidden = addLayer(hidden, cache, inputs.batch, angles);
  }
  b.setLoc(outer);
  SmallVector<Value> returned = {addHead(hidden, inputs)};
  llvm::append_range(returned, inputs.caches);
  func::ReturnOp::create(b, returned);
}

//===----------------------------------------------------------------------===//
// Layers
//===----------------------------------------------------------------------===//

void Importer::enterLayer(int64_t layer) {
  prefix = "model.layers." + std::to_string(layer) + ".";
  b.setLoc(NameLoc::get(b.getStringAttr("layer " + Twine(layer))));
}

Value Importer::projectHeads(Value x, StringRef name, int64_t heads) {
  std::string layer = ("self_attn." + name).str();
  Value init = config.qkvBias ? step.broadcastBias(layerWeight(layer + ".bias"))
                              : step.zeros(heads * config.headDim);
  return step.splitHeads(step.linear(x, layerWeight(layer + ".weight"), init),
                         heads);
}

Value Importer::addAttention(Value x, Value &cache, Value batch,
                             const StepBuilder::Angles &angles) {
  auto turned = [&](StringRef name, int64_t heads) {
    Value projected = projectHeads(x, (name + "_proj").str(), heads);
    if (config.queryKeyNorms)
      projected = step.rmsNorm(
          projected, layerWeight(("self_attn." + name + "_norm.weight").str()),
          config.rmsNormEps);
    return step.rope(projected, angles);
  };
  Value q = turned("q", config.heads);
  Value k = turned("k", config.kvHeads);
  Value v = projectHeads(x, "v_proj", config.kvHeads);
  cache = AppendOp::create(b, cacheType, cache, k, v, batch);
  APFloat scale(1 / std::sqrt(static_cast<float>(config.headDim)));
  Value attended = AttendOp::create(b, q, cache, batch, scale);
  return step.joinHeads(attended);
}

Value Importer::addLayer(Value hidden, Value &cache, Value batch,
                         const StepBuilder::Angles &angles) {
  // Both blocks add into the residual stream: it is the accumulator of their
  // last linear layer.
  Value normed = step.rmsNorm(hidden, layerWeight("input_layernorm.weight"),
                              config.rmsNormEps);
  Value attended = addAttention(normed, cache, batch, angles);
  if (config.outputBias)
    hidden = step.addBias(hidden, layerWeight("self_attn.o_proj.bias"));
  hidden =
      step.linear(attended, layerWeight("self_attn.o_proj.weight"), hidden);

  normed = step.rmsNorm(hidden, layerWeight("post_attention_layernorm.weight"),
                        config.rmsNormEps);
  auto project = [&](StringRef name) {
    Value weight = layerWeight(name);
    return step.linear(normed, weight, step.zeros(config.intermediateSize));
  };
  Value gate = project("mlp.gate_proj.weight");
  Value up = project("mlp.up_proj.weight");
  Value inner = step.swiGLU(gate, up);
  return step.linear(inner, layerWeight("mlp.down_proj.weight"), hidden);
}

Value Importer::addHead(Value hidden, const Inputs &inputs) {
  step.setRows(inputs.outputs);
  Value rows = step.gatherRows(hidden, inputs.outputs);
  Value normed =
      step.rmsNorm(rows, weight("model.norm.weight"), config.rmsNormEps);
  Value table = weight(config.tiedEmbeddings ? "model.embed_tokens.weight"
                                             : "lm_head.weight");
  return step.linear(normed, table, step.zeros(inputs.logits));
}

//===----------------------------------------------------------------------===//
// The module
//===----------------------------------------------------------------------===//

void mlir::pmkvq::registerImportDialects(DialectRegistry &registry) {
  registry.insert<arith::ArithDialect, func::FuncDialect, linalg::LinalgDialect,
                  math::MathDialect, PMKVQDialect, tensor::TensorDialect>();
}

llvm::Expected<OwningOpRef<ModuleOp>>
mlir::pmkvq::importModel(MLIRContext *context, const ModelConfig &config) {
  context->loadDialect<arith::ArithDialect, func::FuncDialect,
                       linalg::LinalgDialect, math::MathDialect, PMKVQDialect,
                       tensor::TensorDialect>();
  OwningOpRef<ModuleOp> module(
      ModuleOp::create(NameLoc::get(StringAttr::get(context, "model"))));
  Importer(*module, config).run();
  std::string message;
  ScopedDiagnosticHandler handler(context, [&](Diagnostic &diagnostic) {
    if (message.empty())
      message = diagnostic.str();
    return success();
  });
  if (failed(verify(*module)))
    return llvm::createStringError("imported module: " + message);
  return module;
}
