//===- CompilerImportConfigTest.cpp - Configs, and the tensors they ask for
//===//
//
// What a config may say, and what contradicts it.  Neighbours:
// lib/Import/ModelConfig.cpp, ModelTensors.cpp.
//
//===----------------------------------------------------------------------===//

#include "CompilerImportFiles.h"
#include "pmkvq/Import/ModelConfig.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

using namespace mlir::pmkvq;
using namespace pmkvq::test;
using nlohmann::json;

namespace {

class Config : public testing::Test {
protected:
  /// The error of reading the config; empty if there is none.
  std::string read() {
    folder.write("config.json", fields.dump());
    auto read = readModelConfig(folder.path(""));
    if (!read)
      return llvm::toString(read.takeError());
    config = *read;
    return "";
  }

  void writeTensors(const std::vector<TensorSpec> &specs) {
    json header = json::object();
    size_t end = 0;
    for (const TensorSpec &spec : specs) {
      size_t begin = end, elements = 1;
      for (int64_t size : spec.shape)
        elements *= size;
      end += elements * 2;
      header[spec.name] = {
          {"dtype", "BF16"},
          {"shape", std::vector<int64_t>(spec.shape.begin(), spec.shape.end())},
          {"data_offsets", {begin, end}}};
    }
    folder.write("model.safetensors", safetensors(header.dump(), end));
  }

  std::vector<TensorSpec> allTensors() {
    std::vector<TensorSpec> specs = getOuterTensors(config);
    for (int64_t layer = 0; layer < config.layers; ++layer)
      for (TensorSpec &spec : getLayerTensors(config, layer))
        specs.push_back(spec);
    return specs;
  }

  std::string check() {
    Checkpoint checkpoint = llvm::cantFail(Checkpoint::open(folder.path("")));
    return llvm::toString(checkTensors(config, checkpoint));
  }

  TemporaryFolder folder;
  json fields = {
      {"model_type", "llama"},    {"architectures", {"LlamaForCausalLM"}},
      {"num_hidden_layers", 2},   {"hidden_size", 128},
      {"intermediate_size", 16},  {"vocab_size", 10},
      {"num_attention_heads", 2}, {"max_position_embeddings", 100},
      {"rms_norm_eps", 1e-5}};
  ModelConfig config;
};

#define EXPECT_CONTAINS(text, part)                                            \
  EXPECT_NE((text).find(part), std::string::npos) << (text)

TEST_F(Config, DefaultsAreThoseOfTheArchitectures) {
  ASSERT_EQ(read(), "");
  EXPECT_EQ(config.kvHeads, 2);
  EXPECT_EQ(config.headDim, 64);
  EXPECT_EQ(config.rope.theta, 10000);
  EXPECT_FALSE(config.tiedEmbeddings);
  EXPECT_FALSE(config.qkvBias);
  EXPECT_TRUE(config.stopTokens.empty());
}

TEST_F(Config, Qwen2HasBiasesAndLlamaOnlyIfItSaysSo) {
  fields["attention_bias"] = true;
  ASSERT_EQ(read(), "");
  EXPECT_TRUE(config.qkvBias && config.outputBias);
  fields["model_type"] = "qwen2";
  fields["architectures"] = {"Qwen2ForCausalLM"};
  fields["num_key_value_heads"] = 2;
  ASSERT_EQ(read(), "");
  EXPECT_TRUE(config.qkvBias && !config.outputBias);
}

TEST_F(Config, RopeThetaLiesInEitherPlace) {
  fields["rope_theta"] = 5e5;
  ASSERT_EQ(read(), "");
  EXPECT_EQ(config.rope.theta, 5e5);
  fields.erase("rope_theta");
  fields["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 1e6}};
  ASSERT_EQ(read(), "");
  EXPECT_EQ(config.rope.theta, 1e6);
}

TEST_F(Config, StopTokensComeFromTheGenerationConfigFirst) {
  fields["eos_token_id"] = 2;
  ASSERT_EQ(read(), "");
  EXPECT_EQ(config.stopTokens, std::vector<int32_t>({2}));
  folder.write("generation_config.json", R"({"eos_token_id":[3,4]})");
  ASSERT_EQ(read(), "");
  EXPECT_EQ(config.stopTokens, std::vector<int32_t>({3, 4}));
  folder.write("generation_config.json", R"({"eos_token_id":10})");
  EXPECT_CONTAINS(read(),
                  "generation_config.json: eos_token_id: expected token ids "
                  "from 0 to 9");
  folder.write("generation_config.json", "{}");
  ASSERT_EQ(read(), "");
  EXPECT_EQ(config.stopTokens, std::vector<int32_t>({2}));
}

TEST_F(Config, BadStopTokensAreNotHiddenByGoodOnes) {
  folder.write("generation_config.json", R"({"eos_token_id":3})");
  for (const json &value : {json(10), json(-1), json("2"), json(1.5),
                            json::array({2, 10}), json::object()}) {
    fields["eos_token_id"] = value;
    EXPECT_CONTAINS(read(), "/config.json: eos_token_id: expected token ids");
  }
}

TEST_F(Config, RefusesWhatIsNotBuilt) {
  const std::pair<const char *, json> changes[] = {
      {"hidden_act", "gelu"},
      {"mlp_bias", true},
      {"head_dim", 72},
      {"num_key_value_heads", 3},
      {"quantization_config", {{"bits", 4}}},
      {"partial_rotary_factor", 0.5},
      {"attn_logit_softcapping", 50},
      {"final_logit_softcapping", 30},
      {"query_pre_attn_scalar", 256},
      {"attention_multiplier", 0.1},
      {"residual_multiplier", 0.2},
      {"num_local_experts", 8},
      {"use_qk_norm", true},
      {"layer_types", {"full_attention", "sliding_attention"}},
      {"sliding_window", 99},
      {"rope_parameters", 1},
      {"rope_scaling", "yarn"}};
  json good = fields;
  for (const auto &[field, value] : changes) {
    fields = good;
    fields[field] = value;
    EXPECT_CONTAINS(read(), std::string("config.json: ") + field);
  }
}

TEST_F(Config, NamesTheArchitecturesThatThereAre) {
  fields["model_type"] = "gemma2";
  EXPECT_CONTAINS(read(), "config.json: model_type: expected \"llama\", "
                          "\"mistral\", \"qwen2\", \"qwen3\" or \"phi3\", got "
                          "\"gemma2\"");
  fields["model_type"] = "qwen3";
  EXPECT_CONTAINS(read(), "config.json: architectures: expected "
                          "[\"Qwen3ForCausalLM\"], as model_type says");
  fields.erase("model_type");
  fields["architectures"] = {"GemmaForCausalLM"};
  EXPECT_CONTAINS(read(), "config.json: architectures: expected one of "
                          "\"LlamaForCausalLM\"");
}

TEST_F(Config, FieldsLeftOutAreThoseOfTheArchitecture) {
  fields.erase("architectures");
  fields["model_type"] = "qwen3";
  fields["num_attention_heads"] = 32;
  ASSERT_EQ(read(), "");
  EXPECT_EQ(config.kvHeads, 32);
  EXPECT_EQ(config.headDim, 128);
  EXPECT_TRUE(config.queryKeyNorms);
  fields["model_type"] = "mistral";
  fields["head_dim"] = 64;
  ASSERT_EQ(read(), "");
  EXPECT_EQ(config.kvHeads, 8);
  fields["num_key_value_heads"] = nullptr;
  ASSERT_EQ(read(), "");
  EXPECT_EQ(config.kvHeads, 32);
}

TEST_F(Config, AWindowAsLongAsTheContextIsNone) {
  fields["model_type"] = "mistral";
  fields["architectures"] = {"MistralForCausalLM"};
  fields["num_key_value_heads"] = 2;
  ASSERT_EQ(read(), "");
  fields["sliding_window"] = 99;
  EXPECT_CONTAINS(read(), "config.json: sliding_window: expected null or at "
                          "least max_position_embeddings 100 (attention in a "
                          "sliding window is not built), got 99");
  fields["sliding_window"] = 100;
  ASSERT_EQ(read(), "");
  // Left out, it is the 4096 of the first of these models.
  fields["max_position_embeddings"] = 8192;
  fields.erase("sliding_window");
  EXPECT_CONTAINS(read(), "config.json: sliding_window: expected null");
  fields["sliding_window"] = nullptr;
  ASSERT_EQ(read(), "");
  fields["model_type"] = "qwen2";
  fields.erase("architectures");
  fields["sliding_window"] = 99;
  ASSERT_EQ(read(), "");
  fields["use_sliding_window"] = true;
  EXPECT_CONTAINS(read(), "config.json: use_sliding_window");
}

TEST_F(Config, RefusesRopeThatIsNotBuilt) {
  const std::tuple<json, const char *, const char *> cases[] = {
      {{{"rope_type", "dynamic"}, {"factor", 2}},
       "rope_type: expected \"default\", \"linear\", \"llama3\" or \"yarn\"",
       "the length of a sequence"},
      {{{"type", "longrope"}}, "type: expected", "the length of a sequence"},
      {{{"type", "mrope"}}, "type: expected", "got \"mrope\""},
      {{{"rope_type", "yarn"}}, "factor: expected a positive number", "none"},
      {{{"rope_type", "linear"}, {"factor", 0}}, "factor: expected", "got 0"},
      {{{"rope_type", "linear"}, {"type", "yarn"}}, "rope_type: expected", ""},
      {{{"rope_type", "linear"}, {"factor", 2}, {"beta_fast", 8}},
       "beta_fast: expected none",
       "the parameters of rope type linear are: rope_type, type, rope_theta, "
       "factor"},
      {{{"rope_type", "llama3"},
        {"factor", 8},
        {"low_freq_factor", 4},
        {"high_freq_factor", 4}},
       "high_freq_factor: expected more than low_freq_factor",
       "got 4"},
      {{{"partial_rotary_factor", 0.5}}, "partial_rotary_factor", "partial"}};
  for (auto &[parameters, first, second] : cases) {
    fields.erase("rope_parameters");
    fields["rope_scaling"] = parameters;
    std::string error = read();
    EXPECT_CONTAINS(error, std::string("config.json: rope_scaling.") + first);
    EXPECT_CONTAINS(error, second);
    fields.erase("rope_scaling");
    fields["rope_parameters"] = parameters;
    fields["rope_parameters"]["rope_theta"] = 1e4;
    error = read();
    EXPECT_CONTAINS(error,
                    std::string("config.json: rope_parameters.") + first);
  }
}

TEST_F(Config, BothFormsOfRopeMustAgree) {
  fields["rope_parameters"] = {
      {"rope_type", "linear"}, {"factor", 2}, {"rope_theta", 1e4}};
  fields["rope_scaling"] = {{"type", "linear"}, {"factor", 2}};
  ASSERT_EQ(read(), "");
  EXPECT_FLOAT_EQ(config.rope.frequencies[0], 0.5f);
  fields["rope_scaling"]["factor"] = 4;
  EXPECT_CONTAINS(read(), "config.json: rope_scaling: expected null or what "
                          "rope_parameters says");
}

TEST_F(Config, RefusesSizesThatAreNone) {
  json good = fields;
  for (const char *size :
       {"num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size",
        "num_attention_heads", "num_key_value_heads", "head_dim",
        "max_position_embeddings"})
    for (const json &value :
         {json(0), json(-1), json("8"), json(100000000000), json(1e11)}) {
      fields = good;
      fields[size] = value;
      EXPECT_CONTAINS(read(), std::string("config.json: ") + size +
                                  ": expected a whole number from 1 to");
    }
}

TEST_F(Config, RefusesValuesThatAreNone) {
  json good = fields;
  for (const json &value : {json(0), json(-1), json(1.5), json("8"), json(),
                            json(1u << 31), json::array(), json(true)}) {
    fields["hidden_size"] = value;
    EXPECT_CONTAINS(read(), "hidden_size: expected a whole number");
  }
  fields = good;
  fields["rms_norm_eps"] = 0;
  EXPECT_CONTAINS(read(), "rms_norm_eps: expected a positive number, got 0");
}

TEST_F(Config, AcceptsExactlyItsTensors) {
  ASSERT_EQ(read(), "");
  writeTensors(allTensors());
  EXPECT_EQ(check(), "");
}

TEST_F(Config, NamesTheTensorThatContradicts) {
  ASSERT_EQ(read(), "");
  std::vector<TensorSpec> specs = allTensors();
  for (TensorSpec &spec : specs)
    if (spec.name == "model.layers.1.mlp.up_proj.weight")
      spec.shape = {17, 128};
  writeTensors(specs);
  std::string error = check();
  for (const char *part : {"model.layers.1.mlp.up_proj.weight", "[16, 128]",
                           "[17, 128]", "intermediate_size"})
    EXPECT_CONTAINS(error, part);
}

TEST_F(Config, FusedProjectionsAreRowsOfOneTensor) {
  fields["model_type"] = "phi3";
  fields["architectures"] = {"Phi3ForCausalLM"};
  fields["num_key_value_heads"] = 1;
  ASSERT_EQ(read(), "");
  writeTensors(allTensors());
  EXPECT_EQ(check(), "");
  int64_t fused = 0;
  for (const TensorSpec &spec : getLayerTensors(config, 0)) {
    int64_t rows = 0;
    for (const TensorSpec::Part &part : spec.parts)
      rows += part.rows;
    fused += !spec.parts.empty();
    EXPECT_TRUE(spec.parts.empty() || rows == spec.shape[0]) << spec.name;
  }
  EXPECT_EQ(fused, 2);
  config.fusedProjections = false;
  EXPECT_CONTAINS(check(), "self_attn.q_proj.weight");
}

TEST_F(Config, NoticesNormsThatItWouldLeaveOut) {
  fields["model_type"] = "qwen3";
  fields["architectures"] = {"Qwen3ForCausalLM"};
  fields["num_key_value_heads"] = 2;
  fields["head_dim"] = 64;
  ASSERT_EQ(read(), "");
  writeTensors(allTensors());
  EXPECT_EQ(check(), "");
  config.queryKeyNorms = false;
  EXPECT_CONTAINS(check(), "model.layers.0.self_attn.q_norm.weight");
}

TEST_F(Config, NoticesTensorsThatItWouldLeaveOut) {
  ASSERT_EQ(read(), "");
  std::vector<TensorSpec> specs = allTensors();
  specs.push_back({"model.layers.0.self_attn.q_proj.bias", {128}, ""});
  writeTensors(specs);
  EXPECT_CONTAINS(check(), "attention_bias");
  writeTensors(allTensors());
  config.layers = 1;
  EXPECT_CONTAINS(check(), "num_hidden_layers 1");
}

} // namespace
