//===- RegisterFormats.cpp - Formats join the dialect ---------------------===//
//
// Adds every format of this library to the dialect when it is loaded.
// Neighbours: Formats.h.
//
//===----------------------------------------------------------------------===//

#include "Formats.h"
#include "mlir/IR/DialectRegistry.h"
#include "pmkvq/IR/PMKVQ.h"

using namespace mlir;
using namespace mlir::pmkvq;

void mlir::pmkvq::registerFormats(DialectRegistry &registry) {
  registry.insert<PMKVQDialect>();
  registry.addExtension(+[](MLIRContext *, PMKVQDialect *dialect) {
    dialect->addFormat(createPaperFormat());
    dialect->addFormat(createPerChannelFormat());
    dialect->addFormat(createPerTokenFormat());
    dialect->addFormat(createPerTokenSymmetricFormat());
  });
}
