//===- PageOrders.cpp - Pages of a session on a GPU -----------------------===//
//
// Neighbours: PageOrders.h.
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Target/PageOrders.h"

using namespace pmkvq;
namespace rt = ::pmkvq::rt;
using rt::cuda::PageBytes;

rt::cuda::PageOrders pmkvq::pageOrders(const ImageShape &shape) {
  rt::cuda::PageOrders orders;
  orders.toHost = [shape](const rt::PageEntry &page, const PageBytes &device,
                          const PageBytes &host) {
    DeviceImage from(shape, device.blocks, device.parameters);
    HostImage to(shape, host.blocks, host.parameters);
    return convertPage(from, page, to, page);
  };
  orders.toDevice = [shape](const rt::PageEntry &page, const PageBytes &device,
                            const PageBytes &host) {
    HostImage from(shape, host.blocks, host.parameters);
    DeviceImage to(shape, device.blocks, device.parameters);
    return convertPage(from, page, to, page);
  };
  orders.fixedToHost = [headDim = shape.headDim](rt::Part part, int64_t tokens,
                                                 const uint8_t *device,
                                                 uint8_t *host) {
    convertFixed<Order::Device, Order::Host>(part, headDim, tokens, device,
                                             host);
  };
  orders.fixedToDevice =
      [headDim = shape.headDim](rt::Part part, int64_t tokens,
                                const uint8_t *host, uint8_t *device) {
        convertFixed<Order::Host, Order::Device>(part, headDim, tokens, host,
                                                 device);
      };
  orders.hasWideRange = [shape](const rt::PageEntry &page,
                                const PageBytes &host) {
    HostImage image(shape, host.blocks, host.parameters);
    for (rt::Part part : {rt::kKey, rt::kValue}) {
      // Raw parts have no parameters yet.
      if (page.level[part] == 16)
        continue;
      const bool ofToken = shape.perToken[part];
      for (int64_t group = 0; group < shape.groups(part); ++group)
        if (image.parameter(page, part, ofToken ? group : 0,
                            ofToken ? 0 : group, kRange) > rt::kNarrowRangeBits)
          return true;
    }
    return false;
  };
  return orders;
}
