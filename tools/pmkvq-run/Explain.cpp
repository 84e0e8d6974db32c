//===- Explain.cpp - A plan in words and tables ---------------------------===//
//
// Neighbours: Explain.h.
//
//===----------------------------------------------------------------------===//

#include "Explain.h"
#include "Guardrail.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/raw_ostream.h"

using namespace pmkvq;
using namespace pmkvq::run;
using allocation::LevelTable;
using allocation::Plan;
using allocation::shadowPrice;
using allocation::sumLosses;
using allocation::Workload;
using llvm::Expected;
using llvm::formatv;
using llvm::raw_ostream;
using llvm::StringRef;

static constexpr StringRef kPartNames[rt::kParts] = {"keys", "values"};
static constexpr int64_t kMebibyte = 1 << 20;

static std::string number(int64_t value) { return formatv("{0:N}", value); }

static std::string count(int64_t value, StringRef noun) {
  return number(value) + " " + noun.str() + (value == 1 ? "" : "s");
}

//===----------------------------------------------------------------------===//
// The run
//===----------------------------------------------------------------------===//

/// "323" or "100 to 323", of what `get` says of every sequence.
template <typename Get>
static std::string range(const Workload &workload, Get get) {
  int64_t low = std::numeric_limits<int64_t>::max();
  int64_t high = 0;
  for (const rt::SequencePlan &plan : workload.session.plans) {
    low = std::min<int64_t>(low, get(plan));
    high = std::max<int64_t>(high, get(plan));
  }
  return low == high ? number(low) : number(low) + " to " + number(high);
}

static void printRun(raw_ostream &os, const CachePlan &plan) {
  const Workload &workload = plan.workload;
  const rt::ProgramInfo &info = workload.info;
  auto prompt = [](const rt::SequencePlan &s) { return s.promptTokens; };
  auto made = [](const rt::SequencePlan &s) { return s.maxNewTokens; };
  // The last new token is never cached.
  auto cached = [](const rt::SequencePlan &s) {
    return s.promptTokens + s.maxNewTokens - 1;
  };
  os << "run       "
     << count(static_cast<int64_t>(workload.session.plans.size()), "sequence")
     << "; tokens of each: " << range(workload, prompt) << " in, at most "
     << range(workload, made) << " out, " << range(workload, cached)
     << " cached at the end\n";
  os << "model     " << count(info.layers, "layer") << " of "
     << count(info.kvHeads, "kv head") << ", head dim " << info.headDim << "\n";
  const std::string *formats[] = {&plan.compiler.keyFormat,
                                  &plan.compiler.valueFormat};
  for (int32_t part = 0; part < rt::kParts; ++part)
    os << formatv("{0,-10}", kPartNames[part])
       << StringRef(*formats[part]).trim("<>")
       << (part == rt::kKey && plan.feedback ? ", feedback; " : "; ")
       << (rt::layersDiffer(info) ? "lowest floor " : "floor ")
       << info.floor[part] << " bits\n";
  os << "schedule  " << plan.compiler.schedule
     << (info.schedule == rt::kScheduleNone
             ? ": every page is written at the floor and stays there"
         : info.schedule == rt::kSchedulePage
             ? ": pages fall when the next one needs their room, the highest "
               "level first, then the oldest page"
         : info.schedule == rt::kScheduleKeysLast
             ? ": pages fall when the next one needs their room, the highest "
               "level first, then the oldest page; values fall to 2 bits "
               "before "
               "keys do"
         : info.schedule == rt::kScheduleLeastLoss
             ? ": keys or values of a page fall when the next one needs their "
               "room, where the calibration's losses add least for a byte, by "
               "how far back a kv head looks"
             : "")
     << "\n";
}

//===----------------------------------------------------------------------===//
// Tables
//===----------------------------------------------------------------------===//

static void printBytes(raw_ostream &os, const Plan &plan) {
  const rt::CacheBytes &end = plan.bytes;
  int64_t others = end.fixedAreas + end.pageTables + end.parameterSlots;
  struct Line {
    StringRef name;
    int64_t atFloor;
    int64_t atEnd;
  } lines[] = {
      {"fixed areas (sinks, windows)", end.fixedAreas, end.fixedAreas},
      {"page tables", end.pageTables, end.pageTables},
      {"parameters", end.parameterSlots, end.parameterSlots},
      {"blocks (codes)", plan.minimumBytes - others, end.blocks},
      {"total", plan.minimumBytes, end.inUse},
  };
  os << formatv("\n{0,-30}{1,18}{2,18}\n", "bytes", "at the floor",
                "at the end");
  for (const Line &line : lines)
    os << formatv("{0,-30}{1,18:N}{2,18:N}\n", line.name, line.atFloor,
                  line.atEnd);
  os << formatv("{0,-48}{1,18:N}\n", "peak", end.peak);
  if (end.budget)
    os << formatv("{0,-48}{1,18:N}\n", "budget", end.budget);
}

/// Levels that a part of the program may have at all, 1 only if its floor is.
static llvm::ArrayRef<int32_t> levelsOf(const rt::ProgramInfo &info,
                                        int32_t part) {
  llvm::ArrayRef<int32_t> levels = rt::kValueLadder;
  return info.floor[part] == levels.back() ? levels : levels.drop_back();
}

static void printLevelHeader(raw_ostream &os, StringRef title,
                             const rt::ProgramInfo &info) {
  os << "\n" << title << "\n" << formatv("{0,-7}", "layer");
  for (int32_t part = 0; part < rt::kParts; ++part) {
    os << formatv("{0,10}", kPartNames[part]);
    for (int32_t bits : levelsOf(info, part))
      os << formatv("{0,8}", bits);
  }
  os << "\n";
}

static void printLevels(raw_ostream &os, StringRef title,
                        const rt::ProgramInfo &info, const LevelTable &table) {
  printLevelHeader(os, title, info);
  for (size_t layer = 0; layer < table.size(); ++layer) {
    os << formatv("{0,-7}", layer);
    for (int32_t part = 0; part < rt::kParts; ++part) {
      os << std::string(10, ' ');
      for (int32_t bits : levelsOf(info, part)) {
        int64_t value = table[layer][part][rt::ladderIndex(bits)];
        os << formatv("{0,8}", value < 0 ? "-" : number(value));
      }
    }
    os << "\n";
  }
}

//===----------------------------------------------------------------------===//
// What bits are worth to layers
//===----------------------------------------------------------------------===//

static std::string loss(double value) { return formatv("{0:e3}", value); }

/// What another level of a part would change, "-" if it has none.
static std::string change(const allocation::PartChoice &choice, int32_t from,
                          int32_t to) {
  if (!rt::isLevel(to))
    return "-";
  double difference =
      choice.loss[rt::ladderIndex(to)] - choice.loss[rt::ladderIndex(from)];
  return (difference < 0 ? "" : "+") + loss(difference);
}

/// Bytes of one block in every page of one layer's part.
static int64_t bytesOfBlock(const Workload &workload) {
  const rt::ProgramInfo &info = workload.info;
  return allocation::countPageHeads(workload) / info.layers *
         rt::blockBytes(info.headDim);
}

/// Each layer's floors, what they lose by calibration, and what others would.
static llvm::Error printLayers(raw_ostream &os, const CachePlan &plan) {
  if (plan.choices.empty() || allocation::countPageHeads(plan.workload) == 0)
    return llvm::Error::success();
  os << "\nloss at each layer's floor by calibration, and how twice or half "
        "the bits would change it\n"
     << formatv("{0,-7}", "layer");
  for (StringRef part : kPartNames)
    os << formatv("{0,8}{1,12}{2,13}{3,13}", part, "loss", "twice", "half");
  os << "\n";
  for (size_t layer = 0; layer < plan.levels.size(); ++layer) {
    os << formatv("{0,-7}", layer);
    for (int32_t part = 0; part < rt::kParts; ++part) {
      const allocation::PartChoice &choice = plan.choices[layer][part];
      int32_t bits = plan.levels[layer][part];
      os << formatv("{0,8}{1,12}{2,13}{3,13}", bits,
                    loss(choice.loss[rt::ladderIndex(bits)]),
                    change(choice, bits, bits * 2),
                    change(choice, bits, bits / 2));
    }
    os << "\n";
  }
  int64_t unit = bytesOfBlock(plan.workload);
  os << "sum of the losses " << loss(sumLosses(plan.choices, plan.levels))
     << "; twice the bits take " << count(unit, "byte")
     << " from 2 to 4, twice that from 4 to 8, and so on\n";
  rt::Result<int64_t> blocks = allocation::blocksForPages(plan.workload);
  if (!blocks.ok())
    return toError(blocks.status());
  double price = shadowPrice(plan.choices, *blocks);
  os << "shadow price of the budget: " << loss(price * kMebibyte / unit)
     << " of loss a MiB\n";
  return llvm::Error::success();
}

/// What the run will lose by calibration, and whether it is refused for that.
static void printLoss(raw_ostream &os, const CachePlan &plan,
                      const Options &options) {
  if (plan.divergences.empty())
    return;
  auto loss = predictLoss(plan, options);
  if (!loss) {
    os << "\nloss of the run: not known; " << llvm::toString(loss.takeError())
       << "\n";
    return;
  }
  double limit = options.maxLoss.value_or(kMaxLoss);
  os << "\nloss of the run at its end by calibration: "
     << formatLoss((*loss)->sum) << " nats of KL a token, "
     << (options.acceptLoss     ? "accepted whatever it is"
         : (*loss)->sum > limit ? "refused: more than " + formatLoss(limit)
                                : "of " + formatLoss(limit) + " allowed")
     << "\n";
  if ((*loss)->sum > 0)
    os << "most of it: " << (*loss)->worst() << "\n";
}

//===----------------------------------------------------------------------===//
// What the budget buys
//===----------------------------------------------------------------------===//

static std::string levelsText(const rt::ProgramInfo &info,
                              const LevelTable &table, int32_t part) {
  rt::LevelCounts total = {};
  for (const auto &layer : table)
    for (size_t i = 0; i < total.size(); ++i)
      total[i] += layer[part][i];
  std::string text;
  for (int32_t bits : levelsOf(info, part))
    text += (text.empty() ? "" : ", ") + number(total[rt::ladderIndex(bits)]) +
            " at " + std::to_string(bits);
  return text;
}

/// Bits, levels and length of a plan, each on its line.
static void printPower(raw_ostream &os, const Workload &workload,
                       const Plan &plan) {
  os << formatv("  {0:F3} bits an element of pages at the end, parameters "
                "included\n",
                plan.bitsPerElement);
  for (int32_t part = 0; part < rt::kParts; ++part)
    os << "  pages of " << formatv("{0,-7}", kPartNames[part])
       << levelsText(workload.info, plan.pages, part) << " bits\n";
  int64_t most = allocation::mostNewTokens(workload);
  os << "  up to " << number(most) << " new tokens for each sequence"
     << (plan.bytes.budget ? " with all pages at the floor" : "") << "\n";
}

static llvm::Error printWorth(raw_ostream &os, const Workload &workload,
                              const Plan &plan) {
  if (!plan.bytes.budget) {
    os << "\nwithout a budget nothing falls; the run gets\n";
    printPower(os, workload, plan);
    return llvm::Error::success();
  }
  os << "\nthe budget of " << number(plan.bytes.budget) << " bytes buys\n";
  printPower(os, workload, plan);
  Workload more = workload;
  more.session.budgetBytes += kMebibyte;
  rt::Result<Plan> better = allocation::makePlan(more);
  if (!better.ok())
    return toError(better.status());
  os << "\none more MiB would buy\n";
  printPower(os, more, *better);
  return llvm::Error::success();
}

Expected<std::string> pmkvq::run::explainPlan(const CachePlan &cachePlan,
                                              const Options &options) {
  const Workload &workload = cachePlan.workload;
  rt::Result<Plan> plan = allocation::makePlan(workload);
  if (!plan.ok())
    return toError(plan.status());
  std::string text;
  llvm::raw_string_ostream os(text);
  printRun(os, cachePlan);
  if (plan->bytes.budget)
    os << "\nIt fits: the run reaches its end with every page at the floor or "
          "above, and "
       << count(plan->bytes.budget - plan->minimumBytes, "byte")
       << " more than that takes.\n";
  printBytes(os, *plan);
  if (allocation::countPageHeads(workload)) {
    printLevels(os,
                "tokens of the longest sequence when the first page is at a "
                "level (bits)",
                workload.info, plan->firstAt);
    printLevels(os, "pages at the end, by level (bits)", workload.info,
                plan->pages);
  } else {
    os << "\nThe windows hold all tokens: there are no pages.\n";
  }
  if (llvm::Error error = printLayers(os, cachePlan))
    return error;
  printLoss(os, cachePlan, options);
  if (llvm::Error error = printWorth(os, workload, *plan))
    return error;
  return text;
}
