//===- Decode.h - Cache pools and decode attention on a GPU -----*- C++ -*-===//
//
// A cache's memory on a device, and launches of a decode kernel over it.
// Neighbours: Device.h (handles), DeviceWorkList.h (rows), DeviceAbi.h (what
// the kernel is passed).
//
// Mental model.  A CachePool is one range of device memory: blocks of codes,
// then fixed areas, then parameter slots.  Block and slot ids are handed out on
// the host, page tables stay there too: the device sees units alone, through
// the work list of a DecodeWork, which the host makes anew when a page comes or
// falls.
//
//   [block 0 .. blocks-1][fixed area 0 .. fixedAreas-1][slot 0 .. slots-1]
//
// A fixed area has the keys of deviceFixedTokens tokens, then the values.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_RT_CUDA_DECODE_H
#define PMKVQ_RT_CUDA_DECODE_H

#include "pmkvq_rt/BlockPool.h"
#include "pmkvq_rt/DeviceWorkList.h"
#include "pmkvq_rt/cuda/Device.h"

namespace pmkvq::rt::cuda {

/// Where the parts of a pool lie, in bytes.
struct PoolLayout {
  int64_t headDim = 128;
  int64_t sinkTokens = 1;
  /// Bytes of a page's parameters: the kernels say how many.
  int64_t slotBytes = 0;
  int64_t blocks = 0;
  int64_t fixedAreas = 0;
  int64_t slots = 0;

  int64_t blockOffset(int64_t block) const {
    return block * blockBytes(headDim);
  }
  int64_t fixedPartBytes() const {
    return deviceFixedTokens(sinkTokens) * headDim * 2;
  }
  int64_t fixedOffset(int64_t area, Part part) const {
    return blockOffset(blocks) + (area * kParts + part) * fixedPartBytes();
  }
  int64_t slotOffset(int64_t slot) const {
    return fixedOffset(fixedAreas, kKey) + slot * slotBytes;
  }
  int64_t bytes() const { return slotOffset(slots); }
};

/// The memory of a cache, zero at first.
class CachePool {
public:
  /// Errors: InvalidArgument for counts below 0 or beyond what 32-bit offsets
  /// reach; OutOfMemory with the bytes missing.
  static Result<CachePool> create(const DeviceRef &device,
                                  const PoolLayout &layout);

  const PoolLayout &layout() const { return layout_; }
  /// Ids of blocks and of slots; they have no host memory.
  BlockPool &blocks() { return blocks_; }
  BlockPool &slots() { return slots_; }
  DeviceMemory &memory() { return memory_; }
  const DeviceMemory &memory() const { return memory_; }

  /// Codes and parameters for a kernel.
  void fill(DecodeArgs &arguments) const;

private:
  PoolLayout layout_;
  BlockPool blocks_, slots_;
  DeviceMemory memory_;
};

/// A work list on the device, with what merging needs.
class DecodeWork {
public:
  /// Copies a list.
  ///
  /// Units:  queries of all rows that a segment may have.
  /// Errors: those of device memory.
  static Result<DecodeWork> create(const DeviceRef &device,
                                   const DeviceWorkList &list, int64_t queries,
                                   int64_t headDim);

  int32_t rows() const { return rows_; }

  /// Work and partials for a kernel.
  void fill(DecodeArgs &arguments) const;

private:
  DeviceMemory rowMemory_, partials_;
  int32_t rows_ = 0;
  uint32_t rowBytes_ = 0;
  uint32_t segmentsPerRow_ = 0;
};

} // namespace pmkvq::rt::cuda

#endif // PMKVQ_RT_CUDA_DECODE_H
