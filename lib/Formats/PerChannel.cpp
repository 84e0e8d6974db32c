//===- PerChannel.cpp - Parameters per head dim ---------------------------===//
//
// The format `per_channel`: the 128 tokens of a page share minimum and range,
// per head dim (KIVI's axis for keys).  Neighbours: UniformFormat.h.
//
//===----------------------------------------------------------------------===//

#include "Formats.h"
#include "pmkvq/Formats/UniformFormat.h"

using namespace mlir::pmkvq;

namespace {
class PerChannel : public UniformFormat {
  llvm::StringRef getName() const override { return "per_channel"; }
  GroupAxis getGroupAxis() const override { return GroupAxis::HeadDim; }
};
} // namespace

std::unique_ptr<FormatModel> mlir::pmkvq::createPerChannelFormat() {
  return std::make_unique<PerChannel>();
}
