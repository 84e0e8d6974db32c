//===- ModelTensors.cpp - The tensors that a config asks for --------------===//
//
// Names and shapes as Hugging Face has them.  Neighbours: ModelConfig.h.
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Import/ModelConfig.h"

using namespace mlir;
using namespace mlir::pmkvq;
using llvm::Error;

std::vector<TensorSpec> mlir::pmkvq::getLayerTensors(const ModelConfig &config,
                                                     int64_t layer) {
  std::vector<TensorSpec> specs;
  std::string prefix = "model.layers." + std::to_string(layer) + ".";
  int64_t hidden = config.hiddenSize, inner = config.intermediateSize;
  int64_t q = config.heads * config.headDim;
  int64_t kv = config.kvHeads * config.headDim;
  constexpr StringRef qFields = "num_attention_heads, head_dim, hidden_size";
  constexpr StringRef kvFields = "num_key_value_heads, head_dim, hidden_size";
  auto add = [&](StringRef name, SmallVector<int64_t> shape, StringRef fields) {
    specs.push_back({prefix + name.str(), std::move(shape), fields});
  };
  auto addFused = [&](StringRef name, ArrayRef<TensorSpec::Part> parts,
                      StringRef fields) {
    int64_t rows = 0;
    for (const TensorSpec::Part &part : parts)
      rows += part.rows;
    add(name, {rows, hidden}, fields);
    for (const TensorSpec::Part &part : parts)
      specs.back().parts.push_back({prefix + part.name, part.rows});
  };
  add("input_layernorm.weight", {hidden}, "hidden_size");
  if (config.fusedProjections) {
    addFused("self_attn.qkv_proj.weight",
             {{"self_attn.q_proj.weight", q},
              {"self_attn.k_proj.weight", kv},
              {"self_attn.v_proj.weight", kv}},
             "num_attention_heads, num_key_value_heads, head_dim, hidden_size");
  } else {
    add("self_attn.q_proj.weight", {q, hidden}, qFields);
    add("self_attn.k_proj.weight", {kv, hidden}, kvFields);
    add("self_attn.v_proj.weight", {kv, hidden}, kvFields);
  }
  if (config.qkvBias) {
    add("self_attn.q_proj.bias", {q}, qFields);
    add("self_attn.k_proj.bias", {kv}, kvFields);
    add("self_attn.v_proj.bias", {kv}, kvFields);
  }
  if (config.queryKeyNorms) {
    add("self_attn.q_norm.weight", {config.headDim}, "head_dim");
    add("self_attn.k_norm.weight", {config.headDim}, "head_dim");
  }
  add("self_attn.o_proj.weight", {hidden, q}, qFields);
  if (config.outputBias)
    add("self_attn.o_proj.bias", {hidden}, "hidden_size");
  add("post_attention_layernorm.weight", {hidden}, "hidden_size");
  constexpr StringRef innerFields = "intermediate_size, hidden_size";
  if (config.fusedProjections) {
    addFused("mlp.gate_up_proj.weight",
             {{"mlp.gate_proj.weight", inner}, {"mlp.up_proj.weight", inner}},
             innerFields);
  } else {
    add("mlp.gate_proj.weight", {inner, hidden}, innerFields);
    add("mlp.up_proj.weight", {inner, hidden}, innerFields);
  }
  add("mlp.down_proj.weight", {hidden, inner},
      "hidden_size, intermediate_size");
  return specs;
}

std::vector<TensorSpec>
mlir::pmkvq::getOuterTensors(const ModelConfig &config) {
  std::vector<TensorSpec> specs;
  specs.push_back({"model.embed_tokens.weight",
                   {config.vocabSize, config.hiddenSize},
                   "vocab_size, hidden_size"});
  specs.push_back({"model.norm.weight", {config.hiddenSize}, "hidden_size"});
  if (!config.tiedEmbeddings)
    specs.push_back({"lm_head.weight",
                     {config.vocabSize, config.hiddenSize},
                     "tie_word_embeddings, vocab_size, hidden_size"});
  return specs;
}

static Error tensorError(const TensorView &view, const Twine &name,
                         const Twine &message) {
  return fileError(view.path, "tensor " + name, message);
}

static Error checkTensor(const ModelConfig &config, const TensorSpec &spec,
                         const Checkpoint &checkpoint) {
  const TensorView *view = checkpoint.lookup(spec.name);
  if (!view) {
    Error missing = checkpoint.find(spec.name).takeError();
    return llvm::createStringError(
        llvm::toString(std::move(missing)) + ", expected shape " +
        formatShape(spec.shape) + " by " + spec.fields + " of " + config.path);
  }
  if (ArrayRef<int64_t>(view->shape) != ArrayRef<int64_t>(spec.shape))
    return tensorError(*view, spec.name,
                       "expected shape " + formatShape(spec.shape) + " by " +
                           spec.fields + " of " + config.path + ", got " +
                           formatShape(view->shape));
  if (view->dtype != DType::BF16 && view->dtype != DType::F16 &&
      view->dtype != DType::F32)
    return tensorError(*view, spec.name,
                       "expected dtype BF16, F16 or F32, got " +
                           getName(view->dtype));
  return Error::success();
}

/// A tensor that the model would silently run without.
static Error checkNothingBeyond(const ModelConfig &config,
                                const Checkpoint &checkpoint) {
  std::string next = "model.layers." + std::to_string(config.layers) + ".";
  if (const TensorView *view =
          checkpoint.lookup(next + "input_layernorm.weight"))
    return tensorError(*view, next + "input_layernorm.weight",
                       "expected no layer beyond num_hidden_layers " +
                           Twine(config.layers) + " of " + config.path);
  std::vector<std::string> unused = {"mlp.gate_proj.bias"};
  if (!config.qkvBias)
    unused.emplace_back("self_attn.q_proj.bias");
  if (!config.outputBias)
    unused.emplace_back("self_attn.o_proj.bias");
  if (!config.queryKeyNorms)
    unused.emplace_back("self_attn.q_norm.weight");
  for (const std::string &name : unused)
    if (const TensorView *view = checkpoint.lookup("model.layers.0." + name))
      return tensorError(*view, "model.layers.0." + name,
                         "expected no such tensor by attention_bias, mlp_bias "
                         "and model_type of " +
                             config.path);
  return Error::success();
}

Error mlir::pmkvq::checkTensors(const ModelConfig &config,
                                const Checkpoint &checkpoint) {
  for (const TensorSpec &spec : getOuterTensors(config))
    if (Error error = checkTensor(config, spec, checkpoint))
      return error;
  for (int64_t layer = 0; layer < config.layers; ++layer)
    for (const TensorSpec &spec : getLayerTensors(config, layer))
      if (Error error = checkTensor(config, spec, checkpoint))
        return error;
  return checkNothingBeyond(config, checkpoint);
}
