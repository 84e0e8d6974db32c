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

namespace mlir::pmkvq {

/// A decoder of the Llama or Qwen2 family.
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
  double ropeTheta;
  /// The last linear layer's weight is the embedding.
  bool tiedEmbeddings;
  bool qkvBias;
  bool outputBias;
  /// Tokens that end a text.
  std::vector<int32_t> stopTokens;
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
