//===- PMKVQDialect.cpp - The dialect and its formats ---------------------===//
//
// Registration of attributes, types, ops, and the table of formats.
// Neighbours: PMKVQAttrs.cpp, PMKVQTypes.cpp, PMKVQOps.cpp, PMKVQTileOps.cpp.
//
//===----------------------------------------------------------------------===//

#include "pmkvq/IR/PMKVQ.h"
#include "llvm/ADT/STLExtras.h"

using namespace mlir;
using namespace mlir::pmkvq;

#include "pmkvq/IR/PMKVQDialect.cpp.inc"
#include "pmkvq/IR/PMKVQEnums.cpp.inc"

void PMKVQDialect::initialize() {
  registerAttributes();
  registerTypes();
  registerOps();
}

void PMKVQDialect::addFormat(std::unique_ptr<FormatModel> format) {
  llvm::StringRef name = format->getName();
  bool inserted = formats.try_emplace(name, std::move(format)).second;
  (void)inserted;
  assert(inserted && "a format's name may be taken once");
}

const FormatModel *PMKVQDialect::lookupFormat(llvm::StringRef name) const {
  auto it = formats.find(name);
  return it == formats.end() ? nullptr : it->second.get();
}

SmallVector<StringRef> PMKVQDialect::formatNames() const {
  SmallVector<StringRef> names(formats.keys());
  llvm::sort(names);
  return names;
}
