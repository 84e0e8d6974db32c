//===- VerifyProgram.cpp - Ops on caches that fit together ----------------===//
//
// See VerifyProgram.h.
//
//===----------------------------------------------------------------------===//

#include "VerifyProgram.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "pmkvq_rt/Abi.h"

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;

CacheOps mlir::pmkvq::collectCacheOps(ModuleOp module) {
  CacheOps ops;
  module.walk([&](Operation *op) {
    if (auto append = dyn_cast<AppendOp>(op))
      ops.appends.push_back(append);
    else if (auto attend = dyn_cast<AttendOp>(op))
      ops.attends.push_back(attend);
    else if (auto create = dyn_cast<CreateOp>(op))
      ops.creates.push_back(create);
    else if (isa<FlushOp, RequantizeOp>(op))
      ops.pageOps.push_back(op);
  });
  return ops;
}

/// Every op with the type of its cache, creates first.
static SmallVector<std::pair<Operation *, CacheType>>
cacheTypes(const CacheOps &ops) {
  SmallVector<std::pair<Operation *, CacheType>> types;
  for (CreateOp op : ops.creates)
    types.push_back({op, op.getCache().getType()});
  for (AppendOp op : ops.appends)
    types.push_back({op, op.getCache().getType()});
  for (AttendOp op : ops.attends)
    types.push_back({op, op.getCache().getType()});
  for (Operation *op : ops.pageOps)
    types.push_back({op, cast<CacheType>(op->getResult(0).getType())});
  return types;
}

/// Kernels decode by parameters of whole axes.
static LogicalResult verifyGroups(Operation *op, CacheType type) {
  for (Part part : {Part::Key, Part::Value}) {
    FormatAttr format = type.getFormat(part);
    int64_t axis = format.getAxisSize(rt::kPageTokens, type.getHeadDim());
    int64_t group = format.getGroupSize(rt::kPageTokens, type.getHeadDim());
    if (group != axis)
      return op->emitOpError("not lowered yet: a group of ")
             << group << " in the format of the " << stringifyPart(part)
             << ", expected the whole axis of " << axis;
  }
  return success();
}

static LogicalResult verifyTypes(const CacheOps &ops) {
  auto types = cacheTypes(ops);
  for (auto [op, type] : types) {
    if (!type.isPlanned())
      return op->emitOpError("expected a cache with formats; run "
                             "pmkvq-set-formats first");
    if (type.withoutClips() != types.front().second.withoutClips())
      return op->emitOpError("expected all caches of a program to have one "
                             "type but for clips, here ")
             << types.front().second << ", got " << type;
    if (failed(verifyGroups(op, type)))
      return failure();
  }
  return success();
}

/// Floors may differ.
static bool sameSchedule(CreateOp a, CreateOp b) {
  ScheduleAttr one = a.getScheduleAttr(), other = b.getScheduleAttr();
  return one && other ? one.getName() == other.getName() : one == other;
}

static LogicalResult verifyCreates(const CacheOps &ops) {
  for (auto [layer, made] : llvm::enumerate(ops.creates)) {
    CreateOp first = ops.creates.front(), create = made;
    auto function = dyn_cast<func::FuncOp>(create->getParentOp());
    if (!function || function != first->getParentOp() ||
        !llvm::all_of(function.getBody().getOps(),
                      llvm::IsaPred<CreateOp, func::ReturnOp>))
      return create.emitOpError("expected one function of its own for all "
                                "creates of the module");
    if (create.getLayer() != layer)
      return create.emitOpError("expected layers in order, here ")
             << layer << ", got " << create.getLayer();
    if (create.getMaxTokens() != first.getMaxTokens() ||
        !sameSchedule(create, first) ||
        create.getBudgetAttr() != first.getBudgetAttr())
      return create.emitOpError("expected type, max_tokens, schedule but for "
                                "floors, and budget of layer 0");
    if (layer >= size_t{rt::kMaxLayers})
      return create.emitOpError("expected at most ")
             << rt::kMaxLayers << " layers";
  }
  return success();
}

static LogicalResult verifyPageOps(const CacheOps &ops) {
  for (Operation *op : ops.pageOps) {
    auto function = dyn_cast<func::FuncOp>(op->getParentOp());
    if (!function || !function.getBody().hasOneBlock() ||
        op->getNextNode() != op->getBlock()->getTerminator() ||
        op->getPrevNode())
      return op->emitOpError("expected a function of its own");
  }
  return success();
}

/// An append changes its cache in place, so what reads the old value must come
/// before it.
static LogicalResult verifyOrder(const CacheOps &ops) {
  for (AppendOp made : ops.appends) {
    AppendOp append = made;
    for (Operation *user : append.getCache().getUsers()) {
      bool before = user->getBlock() == append->getBlock() &&
                    user->isBeforeInBlock(append);
      if (user != append && !before)
        return user->emitOpError("uses a cache after an append to it; expected "
                                 "the append's result");
    }
  }
  return success();
}

static LogicalResult verifyQueryHeads(const CacheOps &ops) {
  auto heads = [](AttendOp op) {
    return cast<ShapedType>(op.getQuery().getType()).getDimSize(1);
  };
  for (AttendOp made : ops.attends) {
    AttendOp attend = made;
    if (heads(attend) != heads(ops.attends.front()))
      return attend.emitOpError("expected ")
             << heads(ops.attends.front())
             << " query heads as the program's first attend, got "
             << heads(attend);
  }
  return success();
}

/// The cache that `value` is after any number of appends.
static Value originOf(Value value) {
  while (auto append = value.getDefiningOp<AppendOp>())
    value = append.getCache();
  return value;
}

/// Values of `range` that are caches.
static SmallVector<Value> cachesAmong(ValueRange range) {
  return llvm::filter_to_vector(
      range, [](Value value) { return isa<CacheType>(value.getType()); });
}

static LogicalResult verifyStep(ModuleOp module, const CacheOps &ops) {
  auto step = module.lookupSymbol<func::FuncOp>("step");
  if (!step || step.isDeclaration() || ops.creates.empty())
    return success();
  SmallVector<Value> taken = cachesAmong(step.getArguments());
  if (taken.size() != ops.creates.size())
    return step.emitOpError("expected ")
           << ops.creates.size() << " caches, one a create, got "
           << taken.size();
  for (Block &block : step.getBody()) {
    auto terminator = dyn_cast<func::ReturnOp>(block.getTerminator());
    if (!terminator)
      continue;
    SmallVector<Value> given = cachesAmong(terminator.getOperands());
    if (!given.empty() && llvm::map_to_vector(given, originOf) != taken)
      return terminator.emitOpError("expected the step's caches in the order "
                                    "of its arguments");
  }
  return success();
}

LogicalResult mlir::pmkvq::verifyProgram(ModuleOp module, const CacheOps &ops) {
  return success(succeeded(verifyTypes(ops)) && succeeded(verifyCreates(ops)) &&
                 succeeded(verifyPageOps(ops)) && succeeded(verifyOrder(ops)) &&
                 succeeded(verifyQueryHeads(ops)) &&
                 succeeded(verifyStep(module, ops)));
}
