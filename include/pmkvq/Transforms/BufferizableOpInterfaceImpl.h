//===- BufferizableOpInterfaceImpl.h - pmkvq ops in bufferization -*- C++ -*-=//
//
// How `launch` and `get_weight` take part in one-shot bufferization.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TRANSFORMS_BUFFERIZABLEOPINTERFACEIMPL_H
#define PMKVQ_TRANSFORMS_BUFFERIZABLEOPINTERFACEIMPL_H

namespace mlir {
class DialectRegistry;
namespace pmkvq {
void registerBufferizableOpInterfaceExternalModels(DialectRegistry &registry);
} // namespace pmkvq
} // namespace mlir

#endif // PMKVQ_TRANSFORMS_BUFFERIZABLEOPINTERFACEIMPL_H
