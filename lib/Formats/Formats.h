//===- Formats.h - The formats of this library ------------------*- C++ -*-===//
//
// One function a format; registerFormats calls each.  Private to lib/Formats.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_FORMATS_FORMATS_H
#define PMKVQ_LIB_FORMATS_FORMATS_H

#include "pmkvq/Formats/Format.h"
#include <memory>

namespace mlir::pmkvq {
std::unique_ptr<FormatModel> createPaperFormat();
std::unique_ptr<FormatModel> createPerChannelFormat();
std::unique_ptr<FormatModel> createPerTokenFormat();
std::unique_ptr<FormatModel> createPerTokenSymmetricFormat();
} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_FORMATS_FORMATS_H
