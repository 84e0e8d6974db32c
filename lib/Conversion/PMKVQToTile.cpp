//===- PMKVQToTile.cpp - Ops on caches to kernels in tile form ------------===//
//
// Replaces append and attend by launches, functions over page lists by kernels,
// and create by the program's description.  Neighbours: TileKernels.h (the
// kernels), pmkvq_rt/Abi.h (names and the description's struct).
//
//===----------------------------------------------------------------------===//

#include "TileKernels.h"
#include "VerifyProgram.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "pmkvq/Passes.h"
#include "pmkvq/Target/KeyFeedback.h"
#include "pmkvq_rt/Abi.h"
#include "pmkvq_rt/Schedule.h"
#include "llvm/Support/raw_ostream.h"
#include "llvm/Support/xxhash.h"

#include <map>

namespace mlir::pmkvq {
#define GEN_PASS_DEF_CONVERTPMKVQTOTILE
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;

namespace {
class ConvertPMKVQToTilePass
    : public mlir::pmkvq::impl::ConvertPMKVQToTileBase<ConvertPMKVQToTilePass> {
public:
  void runOnOperation() override {
    ModuleOp module = getOperation();
    CacheOps ops = collectCacheOps(module);
    if (failed(verifyProgram(module, ops)))
      return signalPassFailure();
    if (!ops.creates.empty())
      describe(ops.creates, ops.attends);
    for (AppendOp append : ops.appends)
      lowerAppend(append);
    for (AttendOp attend : ops.attends)
      lowerAttend(attend);
    for (Operation *op : ops.pageOps)
      lowerPageFunction(op);
  }

private:
  //===--------------------------------------------------------------------===//
  // Launches
  //===--------------------------------------------------------------------===//

  /// The kernel that `build` makes, made once for each `key`.
  KernelOp
  getKernel(StringRef prefix, Attribute key, Location loc,
            function_ref<KernelOp(ImplicitLocOpBuilder &, StringRef)> build) {
    auto [it, inserted] = kernels.try_emplace({prefix.str(), key});
    if (inserted) {
      ImplicitLocOpBuilder b(loc, &getContext());
      b.setInsertionPointToEnd(getOperation().getBody());
      std::string name =
          prefix.str() + "_" + std::to_string(counts[prefix.str()]++);
      it->second = build(b, name);
    }
    return it->second;
  }

  void lowerAppend(AppendOp append) {
    CacheType cache = append.getCache().getType();
    bool rotated = append.getValuesRotated();
    ImplicitLocOpBuilder b(append.getLoc(), append);
    auto key = b.getArrayAttr({TypeAttr::get(cache), b.getBoolAttr(rotated)});
    KernelOp kernel =
        getKernel("append", key, append.getLoc(),
                  [&](ImplicitLocOpBuilder &builder, StringRef name) {
                    return buildAppendKernel(builder, name, {cache, rotated});
                  });
    LaunchOp::create(b, TypeRange{}, kernel.getSymName(), WorkList::Rows,
                     append.getCache(), append.getBatch(),
                     ValueRange{append.getKey(), append.getValue()},
                     ValueRange{});
    append.getResult().replaceAllUsesWith(append.getCache());
    append.erase();
  }

  void lowerAttend(AttendOp attend) {
    auto query = cast<RankedTensorType>(attend.getQuery().getType());
    AttentionShape shape{attend.getCache().getType(), query.getDimSize(1),
                         attend.getScale().convertToFloat(),
                         attend.getResultRotated()};
    ImplicitLocOpBuilder b(attend.getLoc(), attend);
    auto key = b.getArrayAttr(
        {TypeAttr::get(shape.cache), b.getI64IntegerAttr(shape.queryHeads),
         attend.getScaleAttr(), b.getBoolAttr(shape.resultRotated)});
    KernelOp worker =
        getKernel("attend", key, attend.getLoc(),
                  [&](ImplicitLocOpBuilder &builder, StringRef name) {
                    return buildAttendKernel(builder, name, shape);
                  });
    KernelOp merge =
        getKernel("merge", key, attend.getLoc(),
                  [&](ImplicitLocOpBuilder &builder, StringRef name) {
                    return buildMergeKernel(builder, name, shape);
                  });
    LaunchOp::create(b, TypeRange{}, worker.getSymName(), WorkList::Attend,
                     attend.getCache(), attend.getBatch(),
                     ValueRange{attend.getQuery()}, ValueRange{});
    Value rows = tensor::DimOp::create(b, attend.getQuery(), 0);
    Value out = tensor::EmptyOp::create(
        b, query.getShape(), query.getElementType(), ValueRange{rows});
    auto launch = LaunchOp::create(b, TypeRange{query}, merge.getSymName(),
                                   WorkList::Merge, Value(), attend.getBatch(),
                                   ValueRange{}, ValueRange{out});
    attend.replaceAllUsesWith(launch.getResult(0));
    attend.erase();
  }

  //===--------------------------------------------------------------------===//
  // Page functions
  //===--------------------------------------------------------------------===//

  /// A function that holds one flush or requantize becomes the kernel
  /// pmkvq_NAME.
  void lowerPageFunction(Operation *op) {
    auto function = cast<func::FuncOp>(op->getParentOp());
    ImplicitLocOpBuilder b(op->getLoc(), &getContext());
    b.setInsertionPointToEnd(getOperation().getBody());
    std::string name = ("pmkvq_" + function.getName()).str();
    if (auto flush = dyn_cast<FlushOp>(op)) {
      buildFlushKernel(b, name, flush.getCaches().getType(), flush.getPart(),
                       flush.getTo());
    } else {
      auto requantize = cast<RequantizeOp>(op);
      buildRequantizeKernel(b, name, requantize.getCaches().getType(),
                            requantize.getPart(), requantize.getFrom());
    }
    function.erase();
  }

  //===--------------------------------------------------------------------===//
  // Description
  //===--------------------------------------------------------------------===//

  /// `pmkvq_describe(ProgramInfo *)` in place of the function of creates.
  void describe(ArrayRef<CreateOp> creates, ArrayRef<AttendOp> attends) {
    CreateOp create = creates.front();
    CacheType cache = create.getCache().getType();
    ScheduleAttr schedule = create.getScheduleAttr();
    ImplicitLocOpBuilder b(create.getLoc(), &getContext());
    b.setInsertionPointToEnd(getOperation().getBody());
    auto pointer = LLVM::LLVMPointerType::get(&getContext());
    auto function = func::FuncOp::create(b, "pmkvq_describe",
                                         b.getFunctionType({pointer}, {}));
    Block *entry = function.addEntryBlock();
    b.setInsertionPointToStart(entry);
    auto store = [&](size_t offset, int64_t value, unsigned width) {
      Value address = LLVM::GEPOp::create(
          b, pointer, b.getI8Type(), entry->getArgument(0),
          ArrayRef<LLVM::GEPArg>{static_cast<int32_t>(offset)});
      Value constant = LLVM::ConstantOp::create(
          b, b.getIntegerType(width),
          b.getIntegerAttr(b.getIntegerType(width), value));
      LLVM::StoreOp::create(b, constant, address);
    };
#define PMKVQ_STORE(field, value)                                              \
  store(offsetof(rt::ProgramInfo, field), value,                               \
        8 * sizeof(rt::ProgramInfo::field))
    PMKVQ_STORE(abiVersion, rt::kAbiVersion);
    PMKVQ_STORE(layers, creates.size());
    PMKVQ_STORE(kvHeads, cache.getKvHeads());
    PMKVQ_STORE(queryHeads, queryHeads(attends, cache));
    PMKVQ_STORE(headDim, cache.getHeadDim());
    PMKVQ_STORE(sinkTokens, cache.getSink());
    PMKVQ_STORE(vocabSize, vocabSize());
    PMKVQ_STORE(maxPositions, create.getMaxTokens());
    PMKVQ_STORE(schedule, schedule.getModel().kind);
    PMKVQ_STORE(budgetBytes, create.getBudget().value_or(0));
    PMKVQ_STORE(layout, rt::kLayoutCpu);
    PMKVQ_STORE(formatHash, static_cast<int64_t>(hashOf(creates)));
#undef PMKVQ_STORE
    for (Part part : {Part::Key, Part::Value}) {
      size_t index = static_cast<size_t>(part) * sizeof(int32_t);
      store(offsetof(rt::ProgramInfo, parameterBytes) + index,
            cache.getParameterBytes(part), 32);
      auto floor = [&](CreateOp op) {
        return op.getScheduleAttr().getFloor(part);
      };
      int64_t lowest = floor(create);
      for (CreateOp op : creates)
        lowest = std::min(lowest, floor(op));
      store(offsetof(rt::ProgramInfo, floor) + index, lowest, 32);
      for (auto [layer, op] : llvm::enumerate(creates))
        if (floor(op) != lowest)
          store(offsetof(rt::ProgramInfo, layerFloor) + rt::kParts * layer +
                    static_cast<size_t>(part),
                floor(op), 8);
    }
    func::ReturnOp::create(b);
    if (cache.getKey().getFeedback())
      addKeyFeedback(b, creates);
    if (schedule.getModel().needsLosses)
      addPageLosses(b, creates);
    create->getParentOfType<func::FuncOp>().erase();
  }

  /// `const float *pmkvq_key_feedback(int64_t layer)`
  void addKeyFeedback(ImplicitLocOpBuilder &b, ArrayRef<CreateOp> creates) {
    CreateOp first = creates.front();
    CacheType cache = first.getCache().getType();
    std::vector<float> table;
    for (CreateOp made : creates) {
      CreateOp create = made;
      FormatAttr format = create.getCache().getType().getKey();
      auto parts = format.getModel().getPartsOfRange(format, 2);
      ArrayRef<float> squares =
          create.getCalibrationAttr().getQuerySquares().asArrayRef();
      std::vector<float> layer = ::pmkvq::keyFeedbackOfLayer(
          squares.data(), cache.getKvHeads(), cache.getHeadDim(), parts.offset,
          parts.step);
      llvm::append_range(table, layer);
    }
    addTable(b, "key_feedback", creates.size(), table);
  }

  /// `const float *pmkvq_page_losses(int64_t layer)`
  void addPageLosses(ImplicitLocOpBuilder &b, ArrayRef<CreateOp> creates) {
    std::vector<float> table;
    for (CreateOp made : creates) {
      CreateOp create = made;
      CalibrationAttr calibration = create.getCalibrationAttr();
      rt::LayerLosses losses;
      for (Part part : {Part::Key, Part::Value})
        llvm::transform(calibration.getLoss(part).asArrayRef(),
                        losses.level[static_cast<size_t>(part)].begin(),
                        [](double loss) { return static_cast<float>(loss); });
      ArrayRef<float> shares;
      if (DenseF32ArrayAttr found = calibration.getPageShares())
        shares = found.asArrayRef();
      losses.setShares(shares.vec(), create.getCache().getType().getKvHeads());
      losses.forEach([&](float &number) { table.push_back(number); });
    }
    addTable(b, "page_losses", creates.size(), table);
  }

  /// `const float *pmkvq_NAME(int64_t layer)`: where a layer's part of `table`
  /// begins.
  void addTable(ImplicitLocOpBuilder &b, const std::string &name, size_t layers,
                ArrayRef<float> table) {
    auto size = static_cast<int64_t>(table.size());
    b.setInsertionPointToEnd(getOperation().getBody());
    auto type = LLVM::LLVMArrayType::get(b.getF32Type(), size);
    auto values = DenseElementsAttr::get(
        RankedTensorType::get({size}, b.getF32Type()), table);
    auto global =
        LLVM::GlobalOp::create(b, type, /*isConstant=*/true,
                               LLVM::Linkage::Internal, name + "_table", values,
                               /*alignment=*/kTableAlignment);
    auto pointer = LLVM::LLVMPointerType::get(&getContext());
    auto function = func::FuncOp::create(
        b, "pmkvq_" + name, b.getFunctionType({b.getI64Type()}, {pointer}));
    Block *entry = function.addEntryBlock();
    b.setInsertionPointToStart(entry);
    Value begin = LLVM::AddressOfOp::create(b, global);
    Value floats = LLVM::ConstantOp::create(
        b, b.getI64Type(),
        b.getI64IntegerAttr(size / static_cast<int64_t>(layers)));
    Value index = LLVM::MulOp::create(b, entry->getArgument(0), floats);
    Value layer = LLVM::GEPOp::create(b, pointer, b.getF32Type(), begin,
                                      ArrayRef<LLVM::GEPArg>{index});
    func::ReturnOp::create(b, layer);
  }
  static constexpr int64_t kTableAlignment = 64;

  /// What decides the meaning of codes and parameters: the types of all caches,
  /// but for how keys came to their codes.
  static uint64_t hashOf(ArrayRef<CreateOp> creates) {
    std::string text;
    llvm::raw_string_ostream stream(text);
    for (CreateOp create : creates) {
      CacheType type = create.getCache().getType();
      stream << type.withFormats(type.getKey().withFeedback(false),
                                 type.getValue());
    }
    return llvm::xxh3_64bits(text);
  }

  static int64_t queryHeads(ArrayRef<AttendOp> attends, CacheType cache) {
    if (attends.empty())
      return cache.getKvHeads();
    AttendOp attend = attends.front();
    return cast<ShapedType>(attend.getQuery().getType()).getDimSize(1);
  }

  /// Columns of the step's first result, the logits; 0 without a step.
  int64_t vocabSize() {
    auto step = getOperation().lookupSymbol<func::FuncOp>("step");
    if (!step || step.getNumResults() == 0)
      return 0;
    auto logits = dyn_cast<RankedTensorType>(step.getResultTypes().front());
    return logits && logits.getRank() == 2 ? logits.getDimSize(1) : 0;
  }

  struct KeyLess {
    bool operator()(const std::pair<std::string, Attribute> &a,
                    const std::pair<std::string, Attribute> &b) const {
      return std::make_pair(a.first, a.second.getAsOpaquePointer()) <
             std::make_pair(b.first, b.second.getAsOpaquePointer());
    }
  };
  std::map<std::pair<std::string, Attribute>, KernelOp, KeyLess> kernels;
  std::map<std::string, int> counts;
};
} // namespace
