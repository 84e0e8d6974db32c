//===- Decode.cpp - Cache pools and decode attention on a GPU -------------===//
//
// Neighbours: Decode.h has the mental model.
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/cuda/Decode.h"

#include <limits>

using namespace pmkvq::rt;
using namespace pmkvq::rt::cuda;

static Status checkLayout(const PoolLayout &layout) {
  constexpr int64_t most = std::numeric_limits<uint32_t>::max();
  const std::pair<const char *, int64_t> counts[] = {
      {"blocks", layout.blocks},
      {"fixed areas", layout.fixedAreas},
      {"slots", layout.slots}};
  for (auto [name, count] : counts)
    if (count < 0 || count > most)
      return {StatusCode::InvalidArgument,
              std::string(name) + ": expected 0 to " + std::to_string(most) +
                  ", got " + std::to_string(count)};
  if (layout.slots > 0 && (layout.slotBytes <= 0 || layout.slotBytes % 16))
    return {StatusCode::InvalidArgument,
            "expected slots of a positive multiple of 16 bytes, got " +
                std::to_string(layout.slotBytes)};
  if (layout.headDim < 16 || layout.headDim > 1024 || layout.sinkTokens < 0)
    return {
        StatusCode::InvalidArgument,
        "expected a head_dim of 16 to 1,024 and a sink of at least 0, got " +
            std::to_string(layout.headDim) + " and " +
            std::to_string(layout.sinkTokens)};
  if (layout.slotOffset(0) <= most * kDeviceGrainBytes)
    return {};
  return {StatusCode::InvalidArgument,
          "codes of " + std::to_string(layout.slotOffset(0)) +
              " bytes, expected at most 512 GiB"};
}

Result<CachePool> CachePool::create(const DeviceRef &device,
                                    const PoolLayout &layout) {
  if (Status status = checkLayout(layout); !status.ok())
    return status;
  CachePool pool;
  pool.layout_ = layout;
  Result<BlockPool> blocks = BlockPool::create(0, layout.blocks);
  if (!blocks.ok())
    return blocks.status();
  Result<BlockPool> slots = BlockPool::create(0, layout.slots);
  if (!slots.ok())
    return slots.status();
  Result<DeviceMemory> memory = DeviceMemory::allocate(device, layout.bytes());
  if (!memory.ok())
    return memory.status();
  if (Status status = memory->fill(0); !status.ok())
    return status;
  pool.blocks_ = std::move(*blocks);
  pool.slots_ = std::move(*slots);
  pool.memory_ = std::move(*memory);
  return pool;
}

void CachePool::fill(DecodeArgs &arguments) const {
  arguments.codes = memory_.pointer();
  arguments.parameters = memory_.pointer(layout_.slotOffset(0));
}

Result<DecodeWork> DecodeWork::create(const DeviceRef &device,
                                      const DeviceWorkList &list,
                                      int64_t queries, int64_t headDim) {
  DecodeWork work;
  work.rows_ = list.rows;
  work.rowBytes_ = list.rowBytes;
  work.segmentsPerRow_ = list.segmentsPerRow;
  const std::pair<DeviceMemory *, int64_t> wanted[] = {
      {&work.rowMemory_, static_cast<int64_t>(list.bytes.size())},
      {&work.partials_, list.partials * devicePartialBytes(queries, headDim)}};
  for (auto [memory, bytes] : wanted) {
    Result<DeviceMemory> made = DeviceMemory::allocate(device, bytes);
    if (!made.ok())
      return made.status();
    *memory = std::move(*made);
  }
  if (Status status =
          work.rowMemory_.upload(list.bytes.data(), work.rowMemory_.bytes());
      !status.ok())
    return status;
  if (Status status = work.partials_.fill(0); !status.ok())
    return status;
  return work;
}

void DecodeWork::fill(DecodeArgs &arguments) const {
  arguments.work = rowMemory_.pointer();
  arguments.partials = partials_.pointer<uint8_t>();
  arguments.rowBytes = rowBytes_;
  arguments.segmentsPerRow = segmentsPerRow_;
}
