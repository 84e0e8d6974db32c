//===- CacheTypes.h - Cache types of a whole module -------------*- C++ -*-===//
//
// Helpers that planning passes share.  Private to lib/Transforms.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_TRANSFORMS_CACHETYPES_H
#define PMKVQ_LIB_TRANSFORMS_CACHETYPES_H

#include "mlir/IR/AttrTypeSubElements.h"
#include "mlir/IR/BuiltinOps.h"
#include "pmkvq/IR/PMKVQ.h"

namespace mlir::pmkvq {

/// Replaces every cache type in `module`, in functions' types as well.
inline void replaceCacheTypes(ModuleOp module,
                              llvm::function_ref<CacheType(CacheType)> with) {
  AttrTypeReplacer replacer;
  replacer.addReplacement(
      [&](CacheType type) -> std::optional<Type> { return with(type); });
  replacer.recursivelyReplaceElementsIn(module, /*replaceAttrs=*/true,
                                        /*replaceLocs=*/false,
                                        /*replaceTypes=*/true);
}

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_TRANSFORMS_CACHETYPES_H
