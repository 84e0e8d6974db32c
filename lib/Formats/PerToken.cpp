//===- PerToken.cpp - Parameters per token --------------------------------===//
//
// The format `per_token`: the head dims of a token share minimum and range (as
// the paper at head_dim 128).  Neighbours: UniformFormat.h.
//
//===----------------------------------------------------------------------===//

#include "Formats.h"
#include "pmkvq/Formats/UniformFormat.h"

using namespace mlir::pmkvq;

namespace {
class PerToken : public UniformFormat {
  llvm::StringRef getName() const override { return "per_token"; }
  GroupAxis getGroupAxis() const override { return GroupAxis::Token; }
};
} // namespace

std::unique_ptr<FormatModel> mlir::pmkvq::createPerTokenFormat() {
  return std::make_unique<PerToken>();
}
