//===- ImportModel.h - A model's step as a module ---------------*- C++ -*-===//
//
// Makes the module that the stages start from.  Neighbours: ModelConfig.h (what
// it is made of), Pipelines.h (what happens to it).
//
// Mental model.  A step takes a ragged batch of rows, one token each, and the
// caches of all layers; it gives the logits of the rows asked for, and the
// caches.  Nothing is known at compile time about the number of rows.
//
//   pmkvq.weight @embed_tokens : tensor<1056x384xbf16>
//     from "model.embed_tokens.weight"
//   func.func @create() -> (!kv, ...)
//   func.func @step(%batch: !pmkvq.batch, %tokens: tensor<?xi32>,
//                   %positions: tensor<?xi32>, %outputs: tensor<?xi32>,
//                   %logits: tensor<?x1056xf32>, %c0: !kv, ...)
//     -> (tensor<?x1056xf32>, !kv, ...)
//
// Activations are f32, weights bf16, caches have no formats yet.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_IMPORT_IMPORTMODEL_H
#define PMKVQ_IMPORT_IMPORTMODEL_H

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/OwningOpRef.h"
#include "pmkvq/Import/ModelConfig.h"

namespace mlir {
class DialectRegistry;
namespace pmkvq {

/// First tokens that an imported model's caches keep in bf16.
inline constexpr int64_t kImportedSink = 1;

/// The dialects of an imported module.
void registerImportDialects(DialectRegistry &registry);

/// Builds the module of a model.  `context` must know the import dialects.
///
/// Errors: the verifier's, as text; they are defects of the importer.
llvm::Expected<OwningOpRef<ModuleOp>> importModel(MLIRContext *context,
                                                  const ModelConfig &config);

} // namespace pmkvq
} // namespace mlir

#endif // PMKVQ_IMPORT_IMPORTMODEL_H
