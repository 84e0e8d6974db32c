//===- Program.cpp - Compiled code, checked -------------------------------===//
//
// Checks on what a program says of itself.  Neighbours: Program.h.
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/Program.h"

#include <algorithm>
#include <cmath>

using namespace pmkvq::rt;

static const char *const kPartNames[kParts] = {"key", "value"};

static std::string flushName(int32_t part, int32_t to) {
  return std::string("pmkvq_flush_") + kPartNames[part] + "_" +
         std::to_string(to);
}

static std::string requantizeName(int32_t part, int32_t from) {
  return std::string("pmkvq_requantize_") + kPartNames[part] + "_" +
         std::to_string(from) + "_" + std::to_string(from / 2);
}

template <typename Fn>
static Fn find(const std::function<void *(const char *)> &lookUp,
               const std::string &name) {
  return reinterpret_cast<Fn>(lookUp(name.c_str()));
}

Result<ProgramEntries>
pmkvq::rt::findEntries(const std::function<void *(const char *)> &lookUp) {
  ProgramEntries entries = {};
  entries.describe = find<decltype(entries.describe)>(lookUp, "pmkvq_describe");
  entries.step = find<decltype(entries.step)>(lookUp, "pmkvq_step");
  entries.scratchBytes =
      find<decltype(entries.scratchBytes)>(lookUp, "pmkvq_scratch");
  entries.keyFeedback =
      find<decltype(entries.keyFeedback)>(lookUp, "pmkvq_key_feedback");
  entries.pageLosses =
      find<decltype(entries.pageLosses)>(lookUp, "pmkvq_page_losses");
  if (!entries.describe || !entries.step)
    return Status(StatusCode::DataLoss,
                  std::string("the program does not export ") +
                      (entries.describe ? "pmkvq_step" : "pmkvq_describe"));
  for (int32_t part = 0; part < kParts; ++part)
    for (int32_t level : kLadder) {
      int32_t index = ladderIndex(level);
      entries.flush[part][index] =
          find<KernelFn>(lookUp, flushName(part, level));
      if (isLevelOf(static_cast<Part>(part), level / 2))
        entries.requantize[part][index] =
            find<KernelFn>(lookUp, requantizeName(part, level));
    }
  return entries;
}

namespace {
/// A number of ProgramInfo and the range it must lie in.  The upper bounds are
/// far above any model; they keep products of sizes within 64 bits.
struct Bound {
  const char *name;
  int64_t value;
  int64_t low;
  int64_t high;
};
} // namespace

static Status damaged(const std::string &what) {
  return Status(StatusCode::DataLoss,
                "the program describes " + what + "; compile it again");
}

/// Whether values of partners fall to level 1 together.
static bool hasPairs(const ProgramInfo &info) {
  for (int32_t layer = 0; layer < info.layers; ++layer)
    if (floorOf(info, layer, kValue) != info.floor[kValue])
      return false;
  return info.layers * info.kvHeads % 2 == 0 &&
         (info.schedule == kSchedulePage ||
          info.schedule == kScheduleKeysLast ||
          info.schedule == kScheduleLeastLoss);
}

static Status checkInfo(const ProgramInfo &info) {
  if (info.abiVersion != kAbiVersion)
    return Status(StatusCode::DataLoss,
                  "the program has ABI version " +
                      std::to_string(info.abiVersion) + ", this runtime has " +
                      std::to_string(kAbiVersion) + "; compile it again");
  const Bound bounds[] = {
      {"layers", info.layers, 1, kMaxLayers},
      {"kv heads", info.kvHeads, 1, 1024},
      {"query heads", info.queryHeads, 1, 16384},
      {"head dim", info.headDim, 1, 1024},
      {"sink tokens", info.sinkTokens, 0, 4096},
      {"key parameter bytes", info.parameterBytes[kKey], 0, 1 << 20},
      {"value parameter bytes", info.parameterBytes[kValue], 0, 1 << 20},
      {"vocabulary", info.vocabSize, 1, 1 << 24},
      {"positions", info.maxPositions, 1, 1 << 28},
      {"budget bytes", info.budgetBytes, 0, int64_t(1) << 60},
  };
  for (const Bound &bound : bounds)
    if (bound.value < bound.low || bound.value > bound.high)
      return damaged(std::to_string(bound.value) + " " + bound.name +
                     " (possible: " + std::to_string(bound.low) + " to " +
                     std::to_string(bound.high) + ")");
  if (info.queryHeads % info.kvHeads)
    return damaged(std::to_string(info.queryHeads) + " query heads over " +
                   std::to_string(info.kvHeads) + " kv heads");
  for (int32_t part = 0; part < kParts; ++part)
    if (!isLevelOf(static_cast<Part>(part), info.floor[part]))
      return damaged(std::string("a floor of ") +
                     std::to_string(info.floor[part]) + " bits for the " +
                     kPartNames[part]);
  for (int32_t layer = 0; layer < info.layers; ++layer)
    for (Part part : {kKey, kValue})
      if (int32_t floor = floorOf(info, layer, part);
          !isLevelOf(part, floor) || floor < info.floor[part])
        return damaged("a floor of " + std::to_string(floor) +
                       " bits for the " + kPartNames[part] + " of layer " +
                       std::to_string(layer) + ", and of " +
                       std::to_string(info.floor[part]) + " for all");
  if (info.floor[kValue] < kLadder.back() && !hasPairs(info))
    return damaged("values at 1 bit, which all layers of an even number of "
                   "layers times kv heads need, and a schedule `page`, "
                   "`keys_last` or `least_loss`");
  if (info.schedule < kScheduleNone ||
      (info.schedule > kScheduleLeastLoss && info.schedule < kScheduleExternal))
    return damaged("schedule " + std::to_string(info.schedule));
  return Status();
}

/// Reads what pages cost, if the program knows.
static Status readLosses(Program &program) {
  const ProgramInfo &info = program.info;
  if (!program.entries.pageLosses)
    return info.schedule == kScheduleLeastLoss
               ? damaged("the schedule least_loss and no losses")
               : Status();
  program.losses.resize(static_cast<size_t>(info.layers));
  for (int32_t layer = 0; layer < info.layers; ++layer) {
    LayerLosses &losses = program.losses[static_cast<size_t>(layer)];
    losses.shares.resize(static_cast<size_t>(info.kvHeads) * kLossAges);
    const float *next = program.entries.pageLosses(layer);
    bool valid = true;
    losses.forEach([&](float &number) {
      number = *next++;
      valid &= std::isfinite(number) && number >= 0;
    });
    if (!valid)
      return damaged("losses of layer " + std::to_string(layer) +
                     " that are not finite numbers of at least 0");
  }
  return Status();
}

Result<Program> pmkvq::rt::openProgram(const ProgramEntries &entries,
                                       std::vector<const void *> weights,
                                       std::shared_ptr<void> owner) {
  if (!entries.describe || !entries.step)
    return Status(StatusCode::InvalidArgument,
                  "a program needs the entries describe and step");
  for (size_t i = 0; i < weights.size(); ++i)
    if (!weights[i])
      return Status(StatusCode::InvalidArgument,
                    "weight " + std::to_string(i) + " is null");
  Program program;
  program.entries = entries;
  program.weights = std::move(weights);
  program.owner = std::move(owner);
  entries.describe(&program.info);
  if (Status s = checkInfo(program.info); !s.ok())
    return s;
  if (Status s = readLosses(program); !s.ok())
    return s;
  return program;
}

/// Whether pages of some layer are written at `level` if none ever falls.
static bool isFloor(const ProgramInfo &info, Part part, int32_t level) {
  for (int32_t layer = 0; layer < info.layers; ++layer)
    if (floorOf(info, layer, part) == level)
      return true;
  return false;
}

Status pmkvq::rt::checkKernels(const Program &program, LevelUse use) {
  const ProgramInfo &info = program.info;
  auto missing = [](const std::string &name) {
    return Status(StatusCode::DataLoss,
                  "the program does not export " + name +
                      ", which its schedule needs; compile it for this budget");
  };
  for (Part part : {kKey, kValue}) {
    int32_t lowest = use == LevelUse::Highest ? 16 : info.floor[part];
    for (int32_t level : kLadder) {
      if (level < lowest ||
          (use == LevelUse::Floor && !isFloor(info, part, level)))
        continue;
      if (!program.entries.flush[part][ladderIndex(level)])
        return missing(flushName(part, level));
      if (use != LevelUse::Floor && level > lowest &&
          !program.entries.requantize[part][ladderIndex(level)])
        return missing(requantizeName(part, level));
    }
  }
  return Status();
}
