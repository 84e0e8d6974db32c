//===- TileToWarpgroups.cpp - Prefill kernels as code of warpgroups -------===//
//
// Turns kernels in tile form over 128 rows into functions of a gpu.module.
// Neighbours: SplitRows.cpp (the tile form), PrefillKernel.h (the roles of
// warpgroups), SegmentsToWarpgroups.cpp (kernels over segments), DeviceAbi.h
// (arguments and work list).
//
//===----------------------------------------------------------------------===//

#include "LanePass.h"
#include "PrefillKernel.h"
#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/IR/Matchers.h"
#include "pmkvq/Passes.h"
#include "pmkvq/Target/WarpgroupLayout.h"
#include "pmkvq_rt/DeviceAbi.h"

namespace mlir::pmkvq {
#define GEN_PASS_DEF_CONVERTTILETOWARPGROUPS
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

using namespace mlir;
using namespace mlir::pmkvq;
using Values = LaneBuilder::Values;
namespace rt = ::pmkvq::rt;
using ::pmkvq::HalfTile;
using ::pmkvq::PrefillLayout;

static TileType levelTile(ByLevelOp op, int64_t level) {
  ArrayRef<int64_t> ladder = op.getPage().getType().getCache().getLadder();
  size_t i = llvm::find(ladder, level) - ladder.begin();
  return cast<TileType>(op.getLevels()[i].front().getArgument(0).getType());
}

LogicalResult mlir::pmkvq::findLevels(KernelOp kernel, ByLevelOp op,
                                      ArrayRef<int64_t> wanted,
                                      SmallVectorImpl<int64_t> &levels,
                                      FormatAttr &format) {
  ArrayRef<int64_t> ladder = op.getPage().getType().getCache().getLadder();
  for (int64_t level : wanted.empty() ? ladder : wanted) {
    if (!llvm::is_contained(ladder, level))
      return kernel.emitOpError("has no pages at level ") << level;
    levels.push_back(level);
    TileType tile = levelTile(op, level);
    format = tile.getFormat();
    if (!tile.isRaw() && !tile.groupsAlongReduction())
      return kernel.emitOpError("has ")
             << (op.getPart() == Part::Key
                     ? "keys with parameters per token"
                     : "values with parameters per channel")
             << "; prefill on a GPU supports the other axis";
    if (!tile.isRaw() && tile.hasPartialGroups())
      return kernel.emitOpError("has groups smaller than an axis; prefill on "
                                "a GPU supports whole axes");
  }
  return success();
}

namespace {
/// What a kernel over 128 rows is made of.
struct PrefillParts {
  LoadRowsOp load;
  ScaleOp scale;
  ForPageOp pages;
  StoreRowsOp store;
  ByLevelOp levels[rt::kParts];
};

class PrefillLowering {
public:
  PrefillLowering(KernelOp kernel, OpBuilder &at,
                  const WarpgroupOptions &options)
      : kernel(kernel), b(kernel.getLoc(), at), options(options), roles(b) {
    roles.shared = options.layout;
    roles.wideRanges = options.wideRanges;
  }

  LogicalResult run() {
    if (failed(match()))
      return failure();
    createFunction();
    loadArguments();
    initBarriers();
    Value warpgroup = b.shr(b.threadId(), 7);
    auto branch =
        scf::IfOp::create(b,
                          b.compare(arith::CmpIPredicate::ult, warpgroup,
                                    PrefillLayout::kProducers),
                          /*withElseRegion=*/true);
    b.setInsertionPointToStart(branch.thenBlock());
    b.setRegisters(PrefillLayout::kProducerRegisters, /*increase=*/false);
    produceTiles(roles, warpgroup);
    b.setInsertionPointToStart(branch.elseBlock());
    b.setRegisters(PrefillLayout::kConsumerRegisters, /*increase=*/true);
    consumeTiles(roles, b.sub(warpgroup, b.i32(PrefillLayout::kProducers)));
    return success();
  }

private:
  //===--------------------------------------------------------------------===//
  // The kernel
  //===--------------------------------------------------------------------===//

  LogicalResult match() {
    kernel.walk([&](Operation *op) {
      if (auto part = dyn_cast<LoadRowsOp>(op))
        parts.load = part;
      else if (auto part = dyn_cast<ScaleOp>(op))
        parts.scale = part;
      else if (auto part = dyn_cast<ForPageOp>(op))
        parts.pages = part;
      else if (auto part = dyn_cast<StoreRowsOp>(op))
        parts.store = part;
      else if (auto part = dyn_cast<ByLevelOp>(op))
        parts.levels[part.getPart() == Part::Key ? rt::kKey : rt::kValue] =
            part;
    });
    if (!parts.load || !parts.scale || !parts.pages || !parts.store ||
        !parts.levels[rt::kKey] || !parts.levels[rt::kValue])
      return kernel.emitOpError("is not over 128 rows and pages");
    DenseFPElementsAttr factor;
    if (!matchPattern(parts.scale.getBy(), m_Constant(&factor)) ||
        !factor.isSplat())
      return kernel.emitOpError("expected queries times a constant");
    roles.scale = factor.getSplatValue<APFloat>().convertToFloat();
    if (!(roles.scale > 0))
      return kernel.emitOpError("expected a positive scale of scores, got ")
             << roles.scale;
    roles.group = static_cast<int64_t>(parts.load.getGroup());
    roles.heads =
        cast<MemRefType>(parts.load.getSource().getType()).getDimSize(1);
    if (int64_t width = parts.load.getType().getWidth();
        width != HalfTile::kColumns)
      return kernel.emitOpError("has a head_dim of ")
             << width << "; prefill on a GPU supports " << HalfTile::kColumns;
    const PrefillLayout &shared = roles.shared;
    if (shared.stages < 2 || shared.bytes() > kSharedBytes)
      return kernel.emitOpError("expected 2 or 3 stages of tiles, got ")
             << shared.stages;
    for (rt::Part part : {rt::kKey, rt::kValue})
      if (failed(matchLevels(part)))
        return failure();
    return success();
  }

  LogicalResult matchLevels(rt::Part part) {
    return findLevels(kernel, parts.levels[part], options.levels[part],
                      roles.levels[part], roles.formats[part]);
  }

  void createFunction() {
    MLIRContext *context = b.getContext();
    auto function = LLVM::LLVMFuncOp::create(
        b, kernel.getSymName(),
        LLVM::LLVMFunctionType::get(LLVM::LLVMVoidType::get(context),
                                    {LLVM::LLVMPointerType::get(context)}));
    auto bytes =
        LLVM::LLVMArrayType::get(b.getI64Type(), sizeof(rt::PrefillArgs) / 8);
    function.setArgAttr(0, LLVM::LLVMDialect::getByValAttrName(),
                        TypeAttr::get(bytes));
    function.setArgAttr(0, LLVM::LLVMDialect::getAlignAttrName(),
                        b.getI64IntegerAttr(8));
    function->setAttr("nvvm.kernel", b.getUnitAttr());
    function->setAttr("nvvm.reqntid",
                      b.getDenseI32ArrayAttr({PrefillLayout::kThreads}));
    function->setAttr("nvvm.minctasm", b.getI32IntegerAttr(1));
    Block *entry = function.addEntryBlock(b);
    b.setInsertionPointToStart(entry);
    LLVM::ReturnOp::create(b, ValueRange());
    b.setInsertionPoint(entry->getTerminator());
    arguments = entry->getArgument(0);
  }

  Value pointerField(size_t offset) {
    Value address = b.load(b.pointer(0), b.at(arguments, offset), 8);
    return LLVM::AddrSpaceCastOp::create(b, b.pointer(kGlobalSpace), address);
  }

  void loadArguments() {
    roles.codes = pointerField(offsetof(rt::PrefillArgs, codes));
    roles.parameters = pointerField(offsetof(rt::PrefillArgs, parameters));
    roles.queries = pointerField(offsetof(rt::PrefillArgs, queries));
    roles.results = pointerField(offsetof(rt::PrefillArgs, results));
    Value pages = pointerField(offsetof(rt::PrefillArgs, pages));
    Value tasks = pointerField(offsetof(rt::PrefillArgs, tasks));
    Value task = b.farAt(tasks, b.blockId(), sizeof(rt::PrefillTask));
    Values words = b.loadConstantWords(task, 4);
    Values more = b.loadConstantWords(b.at(task, 16), 2);
    roles.taskRow = words[0];
    roles.taskRows = words[1];
    roles.taskHead = words[2];
    roles.pageCount = more[0];
    roles.position = more[1];
    roles.entries = b.farAt(pages, words[3], sizeof(rt::PrefillPage));
    roles.lane = b.andBits(b.threadId(), 31);
    roles.warp = b.andBits(b.shr(b.threadId(), 5), 3);
    roles.base = LLVM::AddressOfOp::create(b, b.pointer(kSharedSpace),
                                           kWarpgroupMemoryName);
  }

  void initBarriers() {
    Value isFirst = b.compare(arith::CmpIPredicate::eq, b.threadId(), 0);
    auto branch = scf::IfOp::create(b, isFirst, /*withElseRegion=*/false);
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(branch.thenBlock());
      // One arrival a warp.
      constexpr int64_t warps = PrefillLayout::kWarpgroup / 32;
      for (int64_t stage = 0; stage < roles.shared.stages; ++stage)
        for (auto which :
             {PrefillLayout::kFullKeys, PrefillLayout::kFullValues,
              PrefillLayout::kEmptyKeys, PrefillLayout::kEmptyValues}) {
          bool full = which == PrefillLayout::kFullKeys ||
                      which == PrefillLayout::kFullValues;
          b.initBarrierFor(roles.barrierOf(which, b.i32(stage)),
                           full ? warps : warps * PrefillLayout::kConsumers);
        }
      b.fenceBarrierInit();
    }
    b.barrier();
  }

  /// What a thread block of sm_90 can have.
  static constexpr int64_t kSharedBytes = int64_t{227} * 1024;
  KernelOp kernel;
  WarpgroupBuilder b;
  const WarpgroupOptions &options;
  PrefillParts parts;
  PrefillKernel roles;
  Value arguments;
};

class ConvertTileToWarpgroupsPass
    : public mlir::pmkvq::impl::ConvertTileToWarpgroupsBase<
          ConvertTileToWarpgroupsPass> {
public:
  using ConvertTileToWarpgroupsBase::ConvertTileToWarpgroupsBase;

  void getDependentDialects(DialectRegistry &registry) const override {
    registerLaneDialects(registry);
  }

  void runOnOperation() override {
    SmallVector<KernelOp> kernels;
    for (KernelOp kernel : getOperation().getOps<KernelOp>()) {
      Block &body = kernel.getBody().front();
      if (!body.getOps<PrefillTaskOp>().empty() ||
          !body.getOps<ForSegmentOp>().empty())
        kernels.push_back(kernel);
    }
    if (kernels.empty())
      return;
    OpBuilder builder = OpBuilder::atBlockEnd(getOperation().getBody());
    auto module = gpu::GPUModuleOp::create(builder, getOperation().getLoc(),
                                           "prefill_kernels");
    builder.setInsertionPointToStart(module.getBody());
    auto type = LLVM::LLVMArrayType::get(builder.getI8Type(), 0);
    // Tiles' swizzle counts from a multiple of 1,024 bytes.
    LLVM::GlobalOp::create(builder, module.getLoc(), type, /*isConstant=*/false,
                           LLVM::Linkage::External, kWarpgroupMemoryName,
                           Attribute(),
                           /*alignment=*/1024, kSharedSpace);
    WarpgroupOptions options;
    options.levels[rt::kKey].assign(keys.begin(), keys.end());
    options.levels[rt::kValue].assign(values.begin(), values.end());
    options.layout.stages = stages;
    options.warpgroups = warpgroups;
    options.dependentLaunch = dependentLaunch;
    options.wideRanges = wideRanges;
    for (KernelOp kernel : kernels) {
      builder.setInsertionPointToEnd(module.getBody());
      bool isPrefill =
          !kernel.getBody().front().getOps<PrefillTaskOp>().empty();
      if (failed(isPrefill ? PrefillLowering(kernel, builder, options).run()
                           : lowerSegments(kernel, builder, options)))
        return signalPassFailure();
      kernel.erase();
    }
  }
};
} // namespace
