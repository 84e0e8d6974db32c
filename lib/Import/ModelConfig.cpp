//===- ModelConfig.cpp - What config.json says of a model -----------------===//
//
// Neighbours: ModelConfig.h, ModelTensors.cpp (the tensors that follow).
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Import/ModelConfig.h"
#include "Json.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"
#include <cmath>

using namespace mlir;
using namespace mlir::pmkvq;
using llvm::Error;
using llvm::Expected;
using nlohmann::json;

namespace {
/// Typed access to an object of a file.  The first error is kept and everything
/// after it returns some valid value, so that reading needs no check a field.
class Fields {
public:
  Fields(const json &object, StringRef path, std::string prefix = "")
      : object(object), path(path.str()), prefix(std::move(prefix)) {}
  ~Fields() { llvm::consumeError(std::move(error)); }

  /// Null for a field that is missing or null.
  const json *find(const char *name) const {
    auto found = object.find(name);
    return found == object.end() || found->is_null() ? nullptr : &*found;
  }

  /// A number from 1 to 2^31 - 1.
  int64_t count(const char *name, std::optional<int64_t> fallback = {}) {
    constexpr int64_t max = std::numeric_limits<int32_t>::max();
    const json *value = find(name);
    if (!value && fallback)
      return *fallback;
    if (value && value->is_number_unsigned() && value->get<uint64_t>() >= 1 &&
        value->get<uint64_t>() <= max)
      return value->get<int64_t>();
    fail(name, "a whole number from 1 to " + Twine(max), value);
    return 1;
  }

  /// A positive finite number.
  double positive(const char *name, std::optional<double> fallback = {}) {
    const json *value = find(name);
    if (!value && fallback)
      return *fallback;
    if (value && value->is_number()) {
      double number = value->get<double>();
      if (std::isfinite(number) && number > 0)
        return number;
    }
    fail(name, "a positive number", value);
    return 1;
  }

  bool flag(const char *name, bool fallback) {
    const json *value = find(name);
    if (value && !value->is_boolean())
      fail(name, "true or false", value);
    return value && value->is_boolean() ? value->get<bool>() : fallback;
  }

  /// Refuses a field that is set to anything but null or `allowed`.
  void only(const char *name, const json &allowed, const Twine &reason) {
    const json *value = find(name);
    if (value && *value != allowed)
      fail(name, showJson(allowed) + " (" + reason + ")", value);
  }

  void fail(const char *name, const Twine &expected, const json *actual) {
    if (error)
      return;
    error = fileError(path, prefix + name,
                      "expected " + expected + ", got " +
                          (actual ? showJson(*actual) : std::string("none")));
  }

  /// Takes over the error of an inner object.
  void adopt(Error inner) {
    if (error)
      llvm::consumeError(std::move(inner));
    else
      error = std::move(inner);
  }

  Error takeError() { return std::move(error); }
  const std::string &getPath() const { return path; }

private:
  const json &object;
  std::string path;
  std::string prefix;
  Error error = Error::success();
};
} // namespace

//===----------------------------------------------------------------------===//
// Architecture
//===----------------------------------------------------------------------===//

/// The name that fields `model_type` and `architectures` agree on: "llama" or
/// "qwen2".
static StringRef readArchitecture(Fields &fields) {
  constexpr StringRef types[] = {"llama", "qwen2"};
  constexpr StringRef classes[] = {"LlamaForCausalLM", "Qwen2ForCausalLM"};
  const json *type = fields.find("model_type");
  const json *names = fields.find("architectures");
  const json *name = names && names->is_array() && names->size() == 1
                         ? &names->front()
                         : nullptr;
  for (auto [knownType, knownClass] : llvm::zip_equal(types, classes)) {
    bool typeFits = !type || *type == knownType.str();
    bool nameFits = !name || *name == knownClass.str();
    if ((type || name) && typeFits && nameFits)
      return knownType;
  }
  bool typeKnown = type && (*type == "llama" || *type == "qwen2");
  if (!typeKnown && (type || !name))
    fields.fail("model_type", "\"llama\" or \"qwen2\"", type);
  else
    fields.fail("architectures",
                "[\"LlamaForCausalLM\"] or [\"Qwen2ForCausalLM\"], as "
                "model_type says",
                names);
  return types[0];
}

/// Refuses what would change the computation and is not built.
static void refuseUnsupported(Fields &fields, bool isQwen2) {
  fields.only("hidden_act", "silu", "no other activation is built");
  fields.only("mlp_bias", false, "biases of the MLP are not built");
  fields.only("quantization_config", nullptr,
              "quantized weights are not built");
  fields.only("partial_rotary_factor", 1.0, "partial RoPE is not built");
  if (!isQwen2)
    return;
  fields.only("use_sliding_window", false,
              "attention in a sliding window is not built");
  const json *types = fields.find("layer_types");
  if (types && types->is_array())
    for (const json &type : *types)
      if (type != "full_attention")
        fields.fail("layer_types", "\"full_attention\" in every layer", &type);
}

//===----------------------------------------------------------------------===//
// RoPE
//===----------------------------------------------------------------------===//

static const json *ropeType(const json &parameters) {
  for (const char *key : {"rope_type", "type"})
    if (auto found = parameters.find(key); found != parameters.end())
      return &*found;
  return nullptr;
}

static double readRopeTheta(Fields &fields) {
  // The value that the architectures have had from the start.
  constexpr double defaultTheta = 10000;
  if (const json *scaling = fields.find("rope_scaling")) {
    const json *type = scaling->is_object() ? ropeType(*scaling) : nullptr;
    if (!type || *type != "default")
      fields.fail("rope_scaling", "null (scaled RoPE is not built)", scaling);
  }
  const json *parameters = fields.find("rope_parameters");
  if (!parameters)
    return fields.positive("rope_theta", defaultTheta);
  if (!parameters->is_object()) {
    fields.fail("rope_parameters", "a JSON object", parameters);
    return defaultTheta;
  }
  Fields inner(*parameters, fields.getPath(), "rope_parameters.");
  for (const char *key : {"rope_type", "type"})
    inner.only(key, "default", "no other RoPE is built");
  inner.only("partial_rotary_factor", 1.0, "partial RoPE is not built");
  double theta = inner.positive(
      "rope_theta", fields.find("rope_theta")
                        ? std::optional<double>(fields.positive("rope_theta"))
                        : std::nullopt);
  fields.adopt(inner.takeError());
  return theta;
}

//===----------------------------------------------------------------------===//
// Sizes
//===----------------------------------------------------------------------===//

static void readHeads(Fields &fields, ModelConfig &config) {
  // What the attention kernel holds of queries a kv head.
  constexpr int64_t maxGroup = 16;
  config.heads = fields.count("num_attention_heads");
  config.kvHeads = fields.count("num_key_value_heads", config.heads);
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
  if (!fields.find("head_dim") && config.hiddenSize % config.heads != 0)
    fields.fail("hidden_size",
                "a multiple of num_attention_heads " + Twine(config.heads),
                fields.find("hidden_size"));
  config.headDim = fields.count(
      "head_dim", std::max<int64_t>(1, config.hiddenSize / config.heads));
  if (config.headDim != 64 && config.headDim != 128) {
    json actual = config.headDim;
    fields.fail("head_dim", "64 or 128 (no other head dim is built)", &actual);
  }
}

static void readSizes(Fields &fields, ModelConfig &config) {
  config.layers = fields.count("num_hidden_layers");
  config.hiddenSize = fields.count("hidden_size");
  config.intermediateSize = fields.count("intermediate_size");
  config.vocabSize = fields.count("vocab_size");
  config.maxPositions = fields.count("max_position_embeddings");
  config.rmsNormEps = fields.positive("rms_norm_eps");
  readHeads(fields, config);
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
  bool isQwen2 = readArchitecture(fields) == "qwen2";
  refuseUnsupported(fields, isQwen2);
  readSizes(fields, config);
  config.ropeTheta = readRopeTheta(fields);
  config.tiedEmbeddings = fields.flag("tie_word_embeddings", false);
  config.outputBias = !isQwen2 && fields.flag("attention_bias", false);
  config.qkvBias = isQwen2 || config.outputBias;
  config.stopTokens = readStopTokens(fields, config.vocabSize);
  if (Error error = fields.takeError())
    return error;
  if (Error error = readGenerationConfig(
          fileIn(folder, "generation_config.json"), config))
    return error;
  return config;
}
