//===- ModelConfig.cpp - What config.json says of a model -----------------===//
//
// Neighbours: ModelConfig.h, ModelTensors.cpp (the tensors that follow).
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Import/ModelConfig.h"
#include "Fields.h"
#include "RopeConfig.h"
#include "pmkvq/IR/HeadDims.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"

using namespace mlir;
using namespace mlir::pmkvq;
using llvm::Error;
using llvm::Expected;
using nlohmann::json;

//===----------------------------------------------------------------------===//
// Architecture
//===----------------------------------------------------------------------===//

namespace {
/// What a model_type means, beyond what its config.json says.  Files may leave
/// out fields whose value is the default of the class in `transformers`.
struct Architecture {
  StringRef type;
  StringRef className;
  /// 0: as many as query heads; so does null in the file.
  int64_t kvHeads = 0;
  /// 0: the hidden size over the query heads.
  int64_t headDim = 0;
  /// Of every layer, if sliding_window is missing; 0: none.
  int64_t window = 0;
  /// Biases of q, k and v, whatever attention_bias says.
  bool qkvBias = false;
  /// attention_bias is a field of it, for q, k, v and o.
  bool hasAttentionBias = false;
  /// sliding_window counts only if use_sliding_window is set.
  bool hasWindowSwitch = false;
  bool queryKeyNorms = false;
  bool fusedProjections = false;
};
} // namespace

static std::vector<Architecture> makeArchitectures() {
  Architecture llama{"llama", "LlamaForCausalLM"};
  llama.hasAttentionBias = true;

  Architecture mistral{"mistral", "MistralForCausalLM"};
  mistral.kvHeads = 8;
  mistral.window = 4096;

  Architecture qwen2{"qwen2", "Qwen2ForCausalLM"};
  qwen2.kvHeads = 32;
  qwen2.qkvBias = qwen2.hasWindowSwitch = true;

  Architecture qwen3{"qwen3", "Qwen3ForCausalLM"};
  qwen3.kvHeads = 32;
  qwen3.headDim = 128;
  qwen3.hasAttentionBias = qwen3.hasWindowSwitch = true;
  qwen3.queryKeyNorms = true;

  Architecture phi3{"phi3", "Phi3ForCausalLM"};
  phi3.fusedProjections = true;

  return {llama, mistral, qwen2, qwen3, phi3};
}

static ArrayRef<Architecture> getArchitectures() {
  static const std::vector<Architecture> architectures = makeArchitectures();
  return architectures;
}

/// `"a", "b" or "c"`, of a member of every architecture.
static std::string listArchitectures(StringRef Architecture::*member) {
  std::string list;
  ArrayRef<Architecture> all = getArchitectures();
  for (auto [index, architecture] : llvm::enumerate(all)) {
    if (index > 0)
      list += index + 1 == all.size() ? " or " : ", ";
    list += json((architecture.*member).str()).dump();
  }
  return list;
}

/// The architecture that fields `model_type` and `architectures` agree on.
static const Architecture &readArchitecture(Fields &fields) {
  const json *type = fields.find("model_type");
  const json *names = fields.find("architectures");
  const json *name = names && names->is_array() && names->size() == 1
                         ? &names->front()
                         : nullptr;
  const Architecture *known = nullptr;
  for (const Architecture &architecture : getArchitectures()) {
    bool typeFits = !type || *type == architecture.type.str();
    bool nameFits = !name || *name == architecture.className.str();
    if ((type || name) && typeFits && nameFits)
      return architecture;
    if (type && typeFits)
      known = &architecture;
  }
  if (known)
    fields.fail("architectures",
                "[\"" + known->className + "\"], as model_type says", names);
  else if (type || !name)
    fields.fail("model_type", listArchitectures(&Architecture::type), type);
  else
    fields.fail("architectures",
                "one of " + listArchitectures(&Architecture::className), names);
  return getArchitectures().front();
}

static void refuseWindow(Fields &fields, const Architecture &architecture) {
  if (architecture.hasWindowSwitch) {
    fields.only("use_sliding_window", false,
                "attention in a sliding window is not built");
  } else {
    const json *window = fields.find("sliding_window");
    bool isMissing = !fields.getObject().contains("sliding_window");
    int64_t size = 0;
    if (window)
      size = fields.count("sliding_window");
    else if (isMissing)
      size = architecture.window;
    int64_t positions = fields.count("max_position_embeddings");
    if (size > 0 && size < positions)
      fields.fail("sliding_window",
                  "null or at least max_position_embeddings " +
                      Twine(positions) +
                      " (attention in a sliding window is not built)",
                  window);
  }
  const json *types = fields.find("layer_types");
  if (types && types->is_array())
    for (const json &type : *types)
      if (type != "full_attention")
        fields.fail("layer_types", "\"full_attention\" in every layer", &type);
}

/// Refuses what would change the computation and is not built.
static void refuseUnsupported(Fields &fields,
                              const Architecture &architecture) {
  fields.only("hidden_act", "silu", "no other activation is built");
  fields.only("mlp_bias", false, "biases of the MLP are not built");
  fields.only("quantization_config", nullptr,
              "quantized weights are not built");
  fields.only("partial_rotary_factor", 1.0, "partial RoPE is not built");
  for (const char *name : {"attn_logit_softcapping", "final_logit_softcapping"})
    fields.only(name, nullptr, "softcapping is not built");
  for (const char *name : {"attention_multiplier", "query_pre_attn_scalar"})
    fields.only(name, nullptr, "no other scale of attention is built");
  for (const char *name : {"embedding_multiplier", "residual_multiplier",
                           "logits_scaling", "logit_scale"})
    fields.only(name, 1.0, "scaled activations are not built");
  for (const char *name : {"num_experts", "num_local_experts"})
    fields.only(name, nullptr, "mixtures of experts are not built");
  for (const char *name : {"qk_layernorm", "use_qk_norm"})
    fields.only(name, architecture.queryKeyNorms,
                "the norms of queries and keys are those of model_type");
  refuseWindow(fields, architecture);
}

//===----------------------------------------------------------------------===//
// Sizes
//===----------------------------------------------------------------------===//

static void readHeads(Fields &fields, const Architecture &architecture,
                      ModelConfig &config) {
  // What the attention kernel holds of queries a kv head.
  constexpr int64_t maxGroup = 16;
  config.heads = fields.count("num_attention_heads");
  bool isMissing = !fields.getObject().contains("num_key_value_heads");
  config.kvHeads = fields.count(
      "num_key_value_heads",
      isMissing && architecture.kvHeads ? architecture.kvHeads : config.heads);
  const json *kvHeads = fields.find("num_key_value_heads");
  if (config.heads % config.kvHeads != 0)
    fields.fail("num_key_value_heads",
                "a divisor of num_attention_heads " + Twine(config.heads),
                kvHeads);
  else if (config.heads / config.kvHeads > maxGroup)
    fields.fail("num_key_value_heads",
                "at least " + Twine((config.heads + maxGroup - 1) / maxGroup) +
                    " (more than 16 query heads a kv head are not built)",
                kvHeads);
  int64_t headDim = architecture.headDim;
  if (!headDim && !fields.find("head_dim") &&
      config.hiddenSize % config.heads != 0)
    fields.fail("hidden_size",
                "a multiple of num_attention_heads " + Twine(config.heads),
                fields.find("hidden_size"));
  if (!headDim)
    headDim = std::max<int64_t>(1, config.hiddenSize / config.heads);
  config.headDim = fields.count("head_dim", headDim);
  if (!isHeadDim(config.headDim)) {
    json actual = config.headDim;
    fields.fail("head_dim",
                Twine(kHeadDimsText) + " (no other head dim is built)",
                &actual);
  }
}

static void readSizes(Fields &fields, const Architecture &architecture,
                      ModelConfig &config) {
  config.layers = fields.count("num_hidden_layers");
  config.hiddenSize = fields.count("hidden_size");
  config.intermediateSize = fields.count("intermediate_size");
  config.vocabSize = fields.count("vocab_size");
  config.maxPositions = fields.count("max_position_embeddings");
  config.rmsNormEps = fields.positive("rms_norm_eps");
  readHeads(fields, architecture, config);
}

//===----------------------------------------------------------------------===//
// Stop tokens
//===----------------------------------------------------------------------===//

/// The field eos_token_id: a number, a list, or nothing.
static std::vector<int32_t> readStopTokens(Fields &fields, int64_t vocabSize) {
  std::vector<int32_t> tokens;
  auto add = [&](const json &token) {
    if (token.is_number_unsigned() &&
        token.get<uint64_t>() < static_cast<uint64_t>(vocabSize))
      tokens.push_back(token.get<int32_t>());
    else
      fields.fail("eos_token_id", "token ids from 0 to " + Twine(vocabSize - 1),
                  &token);
  };
  const json *value = fields.find("eos_token_id");
  if (value && value->is_array())
    llvm::for_each(*value, add);
  else if (value)
    add(*value);
  return tokens;
}

/// The stop tokens of a generation_config.json, if there is one, take the place
/// of those of config.json.
static Error readGenerationConfig(StringRef path, ModelConfig &config) {
  if (!llvm::sys::fs::exists(path))
    return Error::success();
  Expected<json> document = readJsonObject(path);
  if (!document)
    return document.takeError();
  Fields fields(*document, path);
  std::vector<int32_t> tokens = readStopTokens(fields, config.vocabSize);
  if (!tokens.empty())
    config.stopTokens = std::move(tokens);
  return fields.takeError();
}

//===----------------------------------------------------------------------===//
// All of it
//===----------------------------------------------------------------------===//

static std::string fileIn(StringRef folder, StringRef name) {
  SmallString<128> path(folder);
  llvm::sys::path::append(path, name);
  return path.str().str();
}

Expected<ModelConfig> mlir::pmkvq::readModelConfig(StringRef folder) {
  ModelConfig config;
  config.path = fileIn(folder, "config.json");
  Expected<json> document = readJsonObject(config.path);
  if (!document)
    return document.takeError();
  Fields fields(*document, config.path);
  const Architecture &architecture = readArchitecture(fields);
  refuseUnsupported(fields, architecture);
  readSizes(fields, architecture, config);
  config.rope = readRope(fields, config.headDim, config.maxPositions);
  config.tiedEmbeddings = fields.flag("tie_word_embeddings", false);
  config.outputBias =
      architecture.hasAttentionBias && fields.flag("attention_bias", false);
  config.qkvBias = architecture.qkvBias || config.outputBias;
  config.queryKeyNorms = architecture.queryKeyNorms;
  config.fusedProjections = architecture.fusedProjections;
  config.stopTokens = readStopTokens(fields, config.vocabSize);
  if (Error error = fields.takeError())
    return error;
  if (Error error = readGenerationConfig(
          fileIn(folder, "generation_config.json"), config))
    return error;
  return config;
}
