//===- Write.h - Kernels that write a cache on a GPU ------------*- C++ -*-===//
//
// Loads the kernels that append, flush and requantize, and launches them.
// Neighbours: DeviceAbi.h (tasks and arguments), Decode.h (the cache's memory
// and the kernel that reads it).
//
// Mental model.  Which pages are written and where their blocks lie is decided
// on the host, as for the CPU; a launch takes a list of page parts that go from
// one level to one other.  Launches of a stream follow each other, so a page
// may be flushed and read without the host waiting between.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_RT_CUDA_WRITE_H
#define PMKVQ_RT_CUDA_WRITE_H

#include "pmkvq_rt/DeviceAbi.h"
#include "pmkvq_rt/cuda/Device.h"

#include <array>
#include <map>
#include <optional>
#include <string>

namespace pmkvq::rt::cuda {

/// The module of the kernels that write a cache, as the compiler gives it.
struct WriterCode {
  /// PTX or a cubin.
  std::string code;
  /// Threads of a block, by kernel.
  std::map<std::string, int32_t> threads;
};

/// The kernels of one cache's formats and head_dim.
class CacheWriters {
public:
  /// Errors: those of Module::load; Internal if a kernel is missing.
  static Result<CacheWriters> load(const DeviceRef &device,
                                   const WriterCode &code);

  /// Rotates and stores `rows` new rows of `kvHeads` heads each.
  Status append(const Stream &stream, const AppendArgs &arguments, int64_t rows,
                int64_t kvHeads) const;

  /// `count` windows become pages whose `part` is at level `to`.
  Status flush(const Stream &stream, const PagesArgs &arguments, int64_t count,
               Part part, int32_t to) const;

  /// `part` of `count` pages falls from level `from` to half of it, in place.
  Status requantize(const Stream &stream, const PagesArgs &arguments,
                    int64_t count, Part part, int32_t from) const;

private:
  struct Kernel {
    Function function;
    uint32_t threads;
  };
  using ByLevel = std::array<std::optional<Kernel>, kLadder.size()>;

  CacheWriters() = default;
  static Status launch(const std::optional<Kernel> &kernel,
                       const Stream &stream, const PagesArgs &arguments,
                       int64_t count, int32_t level);

  std::optional<Kernel> append_;
  /// By part and ladderIndex of the level.
  std::array<ByLevel, kParts> flush_, requantize_;
};

} // namespace pmkvq::rt::cuda

#endif // PMKVQ_RT_CUDA_WRITE_H
