//===- PMKVQDialect.cpp - The dialect, its formats and schedules ----------===//
//
// Registration of attributes, types, ops; the tables of formats and schedules.
// Neighbours: PMKVQAttrs.cpp, PMKVQTypes.cpp, PMKVQOps.cpp, PMKVQTileOps.cpp.
//
//===----------------------------------------------------------------------===//

#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq_rt/Abi.h"
#include "llvm/ADT/STLExtras.h"

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;

#include "pmkvq/IR/PMKVQDialect.cpp.inc"
#include "pmkvq/IR/PMKVQEnums.cpp.inc"

void PMKVQDialect::initialize() {
  registerAttributes();
  registerTypes();
  registerOps();
  addSchedule({"none", rt::kScheduleNone, /*lowers=*/false});
  addSchedule(
      {"page", rt::kSchedulePage, /*lowers=*/true, /*pairsValues=*/true});
  addSchedule({"layer", rt::kScheduleLayer});
  addSchedule({"keys_last", rt::kScheduleKeysLast, /*lowers=*/true,
               /*pairsValues=*/true});
  addSchedule({"least_loss", rt::kScheduleLeastLoss, /*lowers=*/true,
               /*pairsValues=*/true, /*needsLosses=*/true});
}

void PMKVQDialect::addFormat(std::unique_ptr<FormatModel> format) {
  llvm::StringRef name = format->getName();
  bool inserted = formats.try_emplace(name, std::move(format)).second;
  (void)inserted;
  assert(inserted && "a format's name may be taken once");
}

const FormatModel *PMKVQDialect::lookupFormat(llvm::StringRef name) const {
  auto it = formats.find(name);
  return it == formats.end() ? nullptr : it->second.get();
}

SmallVector<StringRef> PMKVQDialect::formatNames() const {
  SmallVector<StringRef> names(formats.keys());
  llvm::sort(names);
  return names;
}

void PMKVQDialect::addSchedule(const ScheduleModel &schedule) {
  bool inserted = schedules.try_emplace(schedule.name, schedule).second;
  (void)inserted;
  assert(inserted && "a schedule's name may be taken once");
}

const ScheduleModel *PMKVQDialect::lookupSchedule(llvm::StringRef name) const {
  auto it = schedules.find(name);
  return it == schedules.end() ? nullptr : &it->second;
}

SmallVector<StringRef> PMKVQDialect::scheduleNames() const {
  SmallVector<StringRef> names(schedules.keys());
  llvm::sort(names);
  return names;
}
