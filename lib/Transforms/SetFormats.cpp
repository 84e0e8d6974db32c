//===- SetFormats.cpp - Choose the formats of all caches ------------------===//
//
// Rewrites cache types.  Neighbours: SetSchedule.cpp (which narrows their
// ladders by the same means).
//
//===----------------------------------------------------------------------===//

#include "CacheTypes.h"
#include "mlir/AsmParser/AsmParser.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "pmkvq/Passes.h"

namespace mlir::pmkvq {
#define GEN_PASS_DEF_SETFORMATS
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

using namespace mlir;
using namespace mlir::pmkvq;

namespace {
class SetFormatsPass
    : public mlir::pmkvq::impl::SetFormatsBase<SetFormatsPass> {
public:
  using SetFormatsBase::SetFormatsBase;

  void runOnOperation() override {
    FormatAttr keyFormat = parse(key), valueFormat = parse(value);
    if (!keyFormat || !valueFormat)
      return signalPassFailure();
    bool valid = true;
    auto error = [&] { return getOperation().emitError(); };
    replaceCacheTypes(getOperation(), [&](CacheType type) {
      // A group may not divide the type's sizes.
      auto planned = CacheType::getChecked(
          error, type.getContext(), type.getKvHeads(), type.getHeadDim(),
          keyFormat, valueFormat, type.getLadder(), type.getSink());
      valid &= static_cast<bool>(planned);
      return planned ? planned : type;
    });
    if (!valid)
      signalPassFailure();
  }

private:
  /// The format written as `text`; reports what is wrong with it.
  FormatAttr parse(StringRef text) {
    std::string full = ("#pmkvq.format" + text).str();
    auto format =
        dyn_cast_or_null<FormatAttr>(parseAttribute(full, &getContext()));
    if (!format)
      emitError(getOperation().getLoc(), "cannot read the format '")
          << text << "'";
    return format;
  }
};
} // namespace
