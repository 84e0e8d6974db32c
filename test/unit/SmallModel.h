//===- SmallModel.h - A model of random weights -----------------*- C++ -*-===//
//
// Two layers of a llama of any head_dim, as a checkpoint in a folder that goes
// away with it.  Neighbours: AttentionReplayTest.cpp (who runs it),
// CompilerImportFiles.h (the folder).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TEST_UNIT_SMALLMODEL_H
#define PMKVQ_TEST_UNIT_SMALLMODEL_H

#include "CompilerImportFiles.h"
#include "pmkvq/Reference/Bits.h"

#include <random>
#include <utility>
#include <vector>

namespace pmkvq::test {

class SmallModel {
public:
  static constexpr int64_t kLayers = 2, kHeads = 4, kKvHeads = 2;
  static constexpr int64_t kHidden = 64, kInner = 96, kTokens = 32;

  explicit SmallModel(int64_t headDim) {
    folder_.write("config.json", config(headDim));
    for (int64_t layer = 0; layer < kLayers; ++layer)
      addLayer("model.layers." + std::to_string(layer) + ".", headDim);
    add("model.embed_tokens.weight", kTokens, kHidden);
    addNorm("model.norm.weight");
    header_.back() = '}';
    header_.append((8 - header_.size() % 8) % 8, ' ');
    folder_.write("model.safetensors", safetensors(header_, 0) + data_);
  }

  std::string folder() const { return folder_.path(""); }

private:
  static std::string config(int64_t headDim) {
    auto field = [](const char *name, int64_t value) {
      return "\"" + std::string(name) + "\": " + std::to_string(value) + ", ";
    };
    return "{\"model_type\": \"llama\", \"hidden_act\": \"silu\", "
           "\"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, " +
           field("hidden_size", kHidden) + field("intermediate_size", kInner) +
           field("num_hidden_layers", kLayers) +
           field("num_attention_heads", kHeads) +
           field("num_key_value_heads", kKvHeads) + field("head_dim", headDim) +
           field("vocab_size", kTokens) +
           field("max_position_embeddings", 4096) +
           "\"tie_word_embeddings\": true}";
  }

  void addLayer(const std::string &layer, int64_t headDim) {
    addNorm(layer + "input_layernorm.weight");
    addNorm(layer + "post_attention_layernorm.weight");
    const std::string attention = layer + "self_attn.", mlp = layer + "mlp.";
    add(attention + "q_proj.weight", kHeads * headDim, kHidden);
    add(attention + "k_proj.weight", kKvHeads * headDim, kHidden);
    add(attention + "v_proj.weight", kKvHeads * headDim, kHidden);
    add(attention + "o_proj.weight", kHidden, kHeads * headDim);
    add(mlp + "gate_proj.weight", kInner, kHidden);
    add(mlp + "up_proj.weight", kInner, kHidden);
    add(mlp + "down_proj.weight", kHidden, kInner);
  }

  void add(const std::string &name, int64_t rows, int64_t columns) {
    std::normal_distribution<float> normal(0.0f, 0.15f);
    start(name, std::to_string(rows) + ", " + std::to_string(columns),
          rows * columns);
    for (int64_t i = 0; i < rows * columns; ++i)
      append(normal(random_));
  }
  void addNorm(const std::string &name) {
    start(name, std::to_string(kHidden), kHidden);
    for (int64_t i = 0; i < kHidden; ++i)
      append(1.0f);
  }

  void start(const std::string &name, const std::string &shape, int64_t count) {
    header_ += "\"" + name + R"(": {"dtype": "BF16", "shape": [)" + shape +
               "], \"data_offsets\": [" + std::to_string(data_.size()) + ", " +
               std::to_string(data_.size() + static_cast<size_t>(count) * 2) +
               "]},";
  }
  void append(float x) {
    uint16_t bits = reference::floatToBf16(x);
    data_ += static_cast<char>(bits & 0xff);
    data_ += static_cast<char>(bits >> 8);
  }

  TemporaryFolder folder_;
  std::mt19937 random_{11};
  std::string header_ = "{", data_;
};

} // namespace pmkvq::test

#endif // PMKVQ_TEST_UNIT_SMALLMODEL_H
