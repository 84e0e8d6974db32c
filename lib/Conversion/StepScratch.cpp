//===- StepScratch.cpp - Where a step's buffers lie -----------------------===//
//
// First fit over the order of ops.  Neighbours: StepScratch.h.
//
//===----------------------------------------------------------------------===//

#include "StepScratch.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace mlir::pmkvq;

static constexpr int64_t kScratchAlignment = 64;

namespace {
using UnitOf = llvm::function_ref<std::optional<ScratchUnit>(BlockArgument)>;

/// A place that is in use, until the op that frees it.
struct Tenant {
  int64_t begin, end;
  Operation *freed;
};
} // namespace

/// Elements that a value's fixed dimensions hold, if exactly one is dynamic.
static std::optional<int64_t> fixedElements(Value value) {
  auto type = dyn_cast<MemRefType>(value.getType());
  if (!type || type.getNumDynamicDims() != 1)
    return std::nullopt;
  int64_t elements = 1;
  for (int64_t size : type.getShape())
    elements *= ShapedType::isDynamic(size) ? 1 : size;
  return elements;
}

/// What the only dynamic size of a memref counts; none if it is something else.
static std::optional<ScratchUnit> unitOfMemref(Value memref, UnitOf unitOf);

/// The same for a size.
static std::optional<ScratchUnit> unitOfSize(Value size, UnitOf unitOf) {
  auto dim = size.getDefiningOp<memref::DimOp>();
  std::optional<int64_t> index = dim ? dim.getConstantIndex() : std::nullopt;
  if (!index)
    return std::nullopt;
  auto type = dyn_cast<MemRefType>(dim.getSource().getType());
  if (!type || !type.isDynamicDim(*index))
    return std::nullopt;
  return unitOfMemref(dim.getSource(), unitOf);
}

static std::optional<ScratchUnit> unitOfMemref(Value memref, UnitOf unitOf) {
  std::optional<int64_t> elements = fixedElements(memref);
  if (!elements)
    return std::nullopt;
  if (auto argument = dyn_cast<BlockArgument>(memref))
    return unitOf(argument);
  Operation *op = memref.getDefiningOp();
  if (auto buffer = dyn_cast<memref::AllocOp>(op))
    return unitOfSize(buffer.getDynamicSizes()[0], unitOf);
  // Another shape of the same elements: if as many are fixed, the dynamic size
  // is the same.
  if (isa<memref::ExpandShapeOp, memref::CollapseShapeOp, memref::CastOp>(op) &&
      fixedElements(op->getOperand(0)) == elements)
    return unitOfMemref(op->getOperand(0), unitOf);
  return std::nullopt;
}

/// Bytes of a buffer a unit.
static int64_t scratchBytes(MemRefType type) {
  int64_t bits = type.getElementTypeBitWidth();
  for (int64_t size : type.getShape())
    bits *= ShapedType::isDynamic(size) ? 1 : size;
  return llvm::alignTo(llvm::divideCeil(bits, 8), kScratchAlignment);
}

/// The lowest place of `bytes` bytes between tenants, which are in the order of
/// their places.
static Tenant *findGap(SmallVector<Tenant> &tenants, int64_t bytes,
                       int64_t &begin) {
  begin = 0;
  auto *next = tenants.begin();
  for (; next != tenants.end() && next->begin < begin + bytes; ++next)
    begin = std::max(begin, next->end);
  return next;
}

FailureOr<StepScratch> StepScratch::plan(func::FuncOp step, UnitOf unitOf) {
  StepScratch scratch;
  std::array<SmallVector<Tenant>, kScratchUnits> tenants;
  Block &body = step.getBody().front();
  auto visit = [&](memref::AllocOp buffer) -> LogicalResult {
    if (buffer->getBlock() != &body)
      return buffer.emitOpError("expected a buffer outside of loops");
    MemRefType type = buffer.getType();
    std::optional<ScratchUnit> unit = ScratchUnit::Step;
    if (buffer.getDynamicSizes().size() == 1)
      unit = unitOfSize(buffer.getDynamicSizes()[0], unitOf);
    if (!unit || buffer.getDynamicSizes().size() > 1 ||
        !type.getLayout().isIdentity() || !type.getElementType().isIntOrFloat())
      return buffer.emitOpError("expected a contiguous buffer whose size is "
                                "fixed, or the number of rows or outputs");
    auto index = static_cast<size_t>(*unit);
    llvm::erase_if(tenants[index], [&](const Tenant &tenant) {
      return tenant.freed && tenant.freed->isBeforeInBlock(buffer);
    });
    Operation *freed = nullptr;
    for (Operation *user : buffer->getUsers())
      if (isa<memref::DeallocOp>(user) && user->getBlock() == &body)
        freed = user;
    int64_t begin, bytes = scratchBytes(type);
    auto *place = findGap(tenants[index], bytes, begin);
    tenants[index].insert(place, {begin, begin + bytes, freed});
    scratch.places[buffer] = {*unit, begin};
    scratch.sizes[index] = std::max(scratch.sizes[index], begin + bytes);
    return success();
  };
  WalkResult result = step.walk([&](memref::AllocOp buffer) {
    return failed(visit(buffer)) ? WalkResult::interrupt()
                                 : WalkResult::advance();
  });
  if (result.wasInterrupted())
    return failure();
  return scratch;
}
