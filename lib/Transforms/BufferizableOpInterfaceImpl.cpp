//===- BufferizableOpInterfaceImpl.cpp - pmkvq ops in bufferization -------===//
//
// A launch writes its `outs` without reading them; a weight is read-only
// memory; a prefetch frees nothing.  Neighbours: lib/Pipelines/Stages.cpp
// (which bufferizes).
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Transforms/BufferizableOpInterfaceImpl.h"
#include "mlir/Dialect/Bufferization/IR/BufferizableOpInterface.h"
#include "mlir/Dialect/Bufferization/IR/DstBufferizableOpInterfaceImpl.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"
#include "pmkvq/IR/PMKVQ.h"

using namespace mlir;
using namespace mlir::bufferization;
using namespace mlir::pmkvq;

namespace {
struct LaunchModel
    : DstBufferizableOpInterfaceExternalModel<LaunchModel, LaunchOp> {
  bool bufferizesToMemoryRead(Operation *op, OpOperand &operand,
                              const AnalysisState &) const {
    return !cast<LaunchOp>(op).isDpsInit(&operand);
  }

  LogicalResult bufferize(Operation *op, RewriterBase &rewriter,
                          const BufferizationOptions &options,
                          BufferizationState &state) const {
    auto launch = cast<LaunchOp>(op);
    auto toBuffers = [&](ValueRange values, SmallVector<Value> &buffers) {
      for (Value value : values) {
        FailureOr<Value> buffer = getBuffer(rewriter, value, options, state);
        if (failed(buffer))
          return failure();
        buffers.push_back(*buffer);
      }
      return success();
    };
    SmallVector<Value> inputs, outputs;
    if (failed(toBuffers(launch.getInputs(), inputs)) ||
        failed(toBuffers(launch.getOutputs(), outputs)))
      return failure();
    LaunchOp::create(rewriter, op->getLoc(), TypeRange{},
                     launch.getKernelAttr(), launch.getOverAttr(),
                     launch.getCache(), launch.getBatch(), inputs, outputs);
    replaceOpWithBufferizedValues(rewriter, op, outputs);
    return success();
  }
};

struct GetWeightModel
    : BufferizableOpInterface::ExternalModel<GetWeightModel, GetWeightOp> {
  bool isWritable(Operation *, Value, const AnalysisState &) const {
    return false;
  }

  FailureOr<BufferLikeType> getBufferType(Operation *, Value value,
                                          const BufferizationOptions &,
                                          const BufferizationState &,
                                          SmallVector<Value> &) const {
    auto tensor = cast<RankedTensorType>(value.getType());
    return cast<BufferLikeType>(
        MemRefType::get(tensor.getShape(), tensor.getElementType()));
  }

  LogicalResult bufferize(Operation *op, RewriterBase &rewriter,
                          const BufferizationOptions &,
                          BufferizationState &) const {
    auto weight = cast<GetWeightOp>(op);
    auto tensor = cast<RankedTensorType>(weight.getResult().getType());
    auto memref = MemRefType::get(tensor.getShape(), tensor.getElementType());
    replaceOpWithNewBufferizedOp<GetWeightOp>(rewriter, op, memref,
                                              weight.getWeightAttr());
    return success();
  }
};
/// A prefetch changes what caches hold, so it is not dead, and no buffer's
/// life: deallocation refuses ops of which it does not know that.
struct CacheLines : SideEffects::Resource::Base<CacheLines> {
  StringRef getName() override { return "cache lines"; }
};

struct PrefetchModel
    : MemoryEffectOpInterface::ExternalModel<PrefetchModel, LLVM::Prefetch> {
  void
  getEffects(Operation *,
             SmallVectorImpl<MemoryEffects::EffectInstance> &effects) const {
    effects.emplace_back(MemoryEffects::Write::get(), CacheLines::get());
  }
};
} // namespace

void mlir::pmkvq::registerBufferizableOpInterfaceExternalModels(
    DialectRegistry &registry) {
  registry.addExtension(+[](MLIRContext *context, PMKVQDialect *) {
    LaunchOp::attachInterface<LaunchModel>(*context);
    GetWeightOp::attachInterface<GetWeightModel>(*context);
  });
  registry.addExtension(+[](MLIRContext *context, LLVM::LLVMDialect *) {
    LLVM::Prefetch::attachInterface<PrefetchModel>(*context);
  });
}
