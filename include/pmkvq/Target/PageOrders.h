//===- PageOrders.h - Pages of a session on a GPU ---------------*- C++ -*-===//
//
// The conversions that a cache on a GPU asks for.  Neighbours: CacheImage.h
// (the orders), pmkvq_rt/cuda/DeviceCache.h (who asks).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TARGET_PAGEORDERS_H
#define PMKVQ_TARGET_PAGEORDERS_H

#include "pmkvq/Target/CacheImage.h"
#include "pmkvq_rt/cuda/DeviceCache.h"

namespace pmkvq {

/// Conversions between the CPU's order of a cache of this shape and a GPU's.
rt::cuda::PageOrders pageOrders(const ImageShape &shape);

} // namespace pmkvq

#endif // PMKVQ_TARGET_PAGEORDERS_H
