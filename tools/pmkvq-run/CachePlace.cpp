//===- CachePlace.cpp - Where the cache of a run lies ---------------------===//
//
// Neighbours: CachePlace.h.
//
//===----------------------------------------------------------------------===//

#include "CachePlace.h"
#include "Check.h"

using namespace pmkvq;
using namespace pmkvq::run;
using llvm::Error;
using llvm::Expected;
namespace cuda = ::pmkvq::rt::cuda;

rt::Result<cuda::DeviceRef> pmkvq::run::openDevice() {
  auto driver = cuda::Driver::load();
  if (!driver.ok())
    return driver.status();
  return cuda::Device::open(std::move(*driver));
}

static Error cacheError(std::string reason) {
  // The runtime names the benchmark's option.
  constexpr llvm::StringLiteral other = "--device=cpu";
  if (size_t at = reason.find(other); at != std::string::npos)
    reason.replace(at, other.size(), "--cache-device=cpu");
  return llvm::createStringError("--cache-device=cuda: " + reason);
}

Expected<CachePlace> pmkvq::run::chooseCachePlace(const Options &options) {
  CachePlace place;
  if (options.cacheDevice == "cpu")
    return place;
  auto device = openDevice();
  if (!device.ok())
    return cacheError(device.status().message());
  place.device = std::move(*device);
  return place;
}

Error pmkvq::run::makeStore(const Options &options,
                            const mlir::pmkvq::DeviceSession &session,
                            const mlir::pmkvq::HostProgram &program,
                            mlir::MLIRContext &context, CachePlace &place) {
  if (!place.device)
    return Error::success();
  mlir::pmkvq::Assembler assembler = options.assembler;
  assembler.chip = place.device->chip();
  auto code =
      session.compile(context, program, place.device->chip(), assembler);
  if (!code)
    return cacheError(llvm::toString(code.takeError()));
  std::vector<rt::KernelFn> append = code->append, attend = code->attend;
  attend.insert(attend.end(), code->merge.begin(), code->merge.end());
  auto cache = cuda::DeviceCache::create(place.device, std::move(*code));
  if (!cache.ok())
    return cacheError(cache.status().message());
  place.store = *cache;
  if (!options.checkTolerance)
    return Error::success();
  place.mirror = std::make_shared<check::MirroredCache>(
      std::move(*cache), std::move(append), std::move(attend));
  place.store = place.mirror;
  return Error::success();
}

Error pmkvq::run::judgeCache(const CachePlace &place, Error run) {
  if (run || !place.mirror)
    return run;
  rt::Status status = place.mirror->compareAll();
  if (status.ok())
    return Error::success();
  return llvm::make_error<CheckFailed>("--check: " + status.message());
}
