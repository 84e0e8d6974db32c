//===- AddPageFunctions.cpp - Functions that flush and requantize ---------===//
//
// The schedule's work on pages, as functions over page lists that the runtime
// calls by name.  Neighbours: pmkvq_rt/Abi.h (the names), convert-pmkvq-to-tile
// (which makes kernels of them).
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq/Passes.h"
#include "pmkvq_rt/Geometry.h"

namespace mlir::pmkvq {
#define GEN_PASS_DEF_ADDPAGEFUNCTIONS
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;

namespace {
class AddPageFunctionsPass
    : public mlir::pmkvq::impl::AddPageFunctionsBase<AddPageFunctionsPass> {
public:
  void runOnOperation() override {
    SmallVector<CreateOp> creates;
    getOperation().walk([&](CreateOp create) { creates.push_back(create); });
    if (creates.empty())
      return;
    CreateOp first = creates.front();
    for (CreateOp create : creates)
      if (failed(verifySame(first, create)))
        return signalPassFailure();
    for (Part part : {Part::Key, Part::Value})
      addFunctions(creates, part);
  }

private:
  LogicalResult verifySame(CreateOp first, CreateOp create) {
    CacheType type = create.getCache().getType();
    if (!type.isPlanned() || !create.getSchedule())
      return create.emitOpError("expected formats and a schedule; run "
                                "pmkvq-set-formats and pmkvq-set-schedule");
    if (type.withoutClips() != first.getCache().getType().withoutClips() ||
        create.getScheduleAttr().getName() !=
            first.getScheduleAttr().getName() ||
        create.getBudgetAttr() != first.getBudgetAttr())
      return create.emitOpError("expected type but for clips, schedule but "
                                "for floors, and budget of layer ")
             << first.getLayer() << ": " << first.getCache().getType();
    return success();
  }

  /// Where pages fall, a part may be flushed to and pass any level down to its
  /// lowest floor; under `none` it is only ever written at a layer's floor.
  void addFunctions(ArrayRef<CreateOp> creates, Part part) {
    CreateOp create = creates.front();
    CacheType cache = create.getCache().getType().withoutClips();
    bool lowers = create.getScheduleAttr().getModel().lowers;
    SmallVector<int64_t> floors =
        llvm::map_to_vector(creates, [&](CreateOp op) {
          return op.getScheduleAttr().getFloor(part);
        });
    int64_t floor = *llvm::min_element(floors);
    for (int64_t level : cache.getLevels(part)) {
      // Nothing is flushed to level 1: values fall there from 2, in pairs.
      if (level < floor || level < rt::kLadder.back() ||
          (!lowers && !llvm::is_contained(floors, level)))
        continue;
      std::string name = stringifyPart(part).str();
      addFunction(cache, ("flush_" + Twine(name) + "_" + Twine(level)).str(),
                  [&](ImplicitLocOpBuilder &b, Value caches, Value pages) {
                    return FlushOp::create(b, cache, part, caches, pages, level)
                        .getResult();
                  });
      if (!lowers || level / 2 < floor)
        continue;
      addFunction(cache,
                  ("requantize_" + Twine(name) + "_" + Twine(level) + "_" +
                   Twine(level / 2))
                      .str(),
                  [&](ImplicitLocOpBuilder &b, Value caches, Value pages) {
                    return RequantizeOp::create(b, cache, part, caches, pages,
                                                level, level / 2)
                        .getResult();
                  });
    }
  }

  void
  addFunction(CacheType cache, StringRef name,
              function_ref<Value(ImplicitLocOpBuilder &, Value, Value)> body) {
    ImplicitLocOpBuilder b(getOperation().getLoc(), &getContext());
    b.setInsertionPointToEnd(getOperation().getBody());
    auto pages = PagesType::get(&getContext());
    auto function = func::FuncOp::create(
        b, name, b.getFunctionType({cache, pages}, {cache}));
    Block *entry = function.addEntryBlock();
    b.setInsertionPointToStart(entry);
    func::ReturnOp::create(
        b, body(b, entry->getArgument(0), entry->getArgument(1)));
  }
};
} // namespace
