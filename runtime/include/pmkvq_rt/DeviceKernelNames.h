//===- DeviceKernelNames.h - What a GPU's kernels are called ----*- C++ -*-===//
//
// Names by which the runtime finds kernels in a module that the compiler made.
// Neighbours: DeviceAbi.h (their arguments).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_RT_DEVICEKERNELNAMES_H
#define PMKVQ_RT_DEVICEKERNELNAMES_H

#include "pmkvq_rt/Geometry.h"

#include <string>

namespace pmkvq::rt {

inline constexpr const char *kAppendKernel = "append";

/// The kernel that makes a page's part at level `to` of a window.
inline std::string flushKernel(Part part, int32_t to) {
  return std::string(part == kKey ? "flush_key_" : "flush_value_") +
         std::to_string(to);
}

/// The kernel that lowers a page's part from level `from` to half of it.
inline std::string requantizeKernel(Part part, int32_t from) {
  return std::string(part == kKey ? "requantize_key_" : "requantize_value_") +
         std::to_string(from);
}

} // namespace pmkvq::rt

#endif // PMKVQ_RT_DEVICEKERNELNAMES_H
