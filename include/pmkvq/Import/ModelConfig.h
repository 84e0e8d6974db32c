//===- ModelConfig.h - What config.json says of a model ---------*- C++ -*-===//
//
// Reads a model's sizes and switches, refuses what is not built, and knows the
// tensors that follow from them.  Neighbours: Safetensors.h (the tensors),
// ImportModel.h (the module that is made of both).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_IMPORT_MODELCONFIG_H
#define PMKVQ_IMPORT_MODELCONFIG_H

#include "pmkvq/Import/Safetensors.h"
#include <array>
#include <optional>

namespace mlir::pmkvq {

/// How positions turn queries and keys.
struct RopeConfig {
  double theta = 0;
  /// What each pair of elements turns a token, in radians; [headDim / 2].
  std::vector<float> frequencies;
  /// A factor of every cosine and sine.
  float attentionFactor = 1;
};

/// What calibration found for one layer; keys first.
struct LayerCalibration {
  std::array<double, 2> clip = {};
  /// [part], at 8, 4 and 2 bits; of values maybe at 1, in all layers or none.
  std::array<std::vector<double>, 2> loss;
  /// The same as KL, nats a token; none: it was not measured.
  std::optional<std::array<std::vector<double>, 2>> divergence;
  /// Key scales as exponents of two: keys are divided, queries multiplied;
  /// [kvHeads * headDim].  Empty: there are none.
  std::vector<int8_t> keyExponents;
  /// Mean squares of the channels of a kv head's queries, after RoPE;
  /// [kvHeads * headDim].  Empty: there are none.
  std::vector<float> querySquares;
  /// How much of the losses one page bears, the newest first;
  /// [kvHeads * ages].  Empty: it was not measured.
  std::vector<float> pageShares;
};

/// What calibration found, and what of.
struct Calibration {
  std::vector<LayerCalibration> layers;
  /// Format attributes of keys and values as text, "<per_token, hadamard>".
  std::array<std::string, 2> formats;
  /// Whether losses are the divergences.
  bool byDivergence = false;
  /// Whether divergences are of keys that were scaled.
  bool scaledDivergences = false;
  /// Whether they are of keys that fell with feedback.
  bool fedBackDivergences = false;
};

/// A decoder of the Llama family: RMS norm, RoPE, grouped queries, SwiGLU.
struct ModelConfig {
  /// The file, for messages.
  std::string path;
  int64_t layers;
  int64_t hiddenSize;
  int64_t intermediateSize;
  int64_t vocabSize;
  int64_t heads;
  int64_t kvHeads;
  int64_t headDim;
  /// Tokens that a sequence may have.
  int64_t maxPositions;
  double rmsNormEps;
  RopeConfig rope;
  /// The last linear layer's weight is the embedding.
  bool tiedEmbeddings;
  bool qkvBias;
  bool outputBias;
  /// q, k and v lie in one tensor, gate and up in another.
  bool fusedProjections;
  /// Each head of queries and keys is normalized before RoPE.
  bool queryKeyNorms;
  /// Tokens that end a text.
  std::vector<int32_t> stopTokens;
  std::optional<Calibration> calibration;
  /// Whether weights take the calibration's key scales; all layers have some.
  bool foldKeyScales = false;
};

/// Reads config.json and, if there is one, generation_config.json of a folder.
///
/// Errors: the file, the field, what was expected and what is.
llvm::Expected<ModelConfig> readModelConfig(llvm::StringRef folder);

/// A tensor that a model has, and the config's fields that say so.
struct TensorSpec {
  std::string name;
  llvm::SmallVector<int64_t> shape;
  llvm::StringRef fields;
  /// Weights that share the tensor, from its first row on; none: it is one.
  struct Part {
    std::string name;
    int64_t rows;
  };
  // NOLINTNEXTLINE(readability-redundant-member-init): lists leave it out.
  std::vector<Part> parts = {};
};

/// The tensors outside the layers.
std::vector<TensorSpec> getOuterTensors(const ModelConfig &config);

/// The tensors of one layer.
std::vector<TensorSpec> getLayerTensors(const ModelConfig &config,
                                        int64_t layer);

/// Checks that a checkpoint has the tensors of the config, in their shapes and
/// in bf16, f16 or f32, and no layer or bias beyond them.
///
/// Errors: the file, the tensor, the fields, both shapes.
llvm::Error checkTensors(const ModelConfig &config,
                         const Checkpoint &checkpoint);

} // namespace mlir::pmkvq

#endif // PMKVQ_IMPORT_MODELCONFIG_H
