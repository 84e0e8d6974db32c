//===- SessionFlush.cpp - From full windows to pages ----------------------===//
//
// Plans levels for all windows of a step that are full, lowers the pages that
// must give way, then writes the new ones.  Neighbours: Schedule.h decides,
// SessionStep.cpp and SessionSnapshot.cpp call.
//
// The order keeps bytes within the budget at every moment: blocks are freed by
// lowering before the first block of a new page is taken.
//
//===----------------------------------------------------------------------===//

#include "Guard.h"
#include "pmkvq_rt/Session.h"

#include <algorithm>

using namespace pmkvq::rt;

static const char *const kPartNames[kParts] = {"key", "value"};

static PageTask placeOf(const PageState &state) {
  return {state.layer, state.sequence, state.head, state.page};
}

/// "lowering the key part at 4 bits", as the messages have it.
static std::string nameOf(const PageLaunch &launch) {
  return std::string(launch.from ? "lowering" : "writing") + " the " +
         kPartNames[launch.part] + " part at " + std::to_string(launch.to) +
         " bits";
}

/// What the blocks of all pages may take once there are `newPageHeads` more.
ScheduleLimits Session::limitsWith(int64_t newPageHeads) const {
  const ProgramInfo &info = program_.info;
  ScheduleLimits limits;
  limits.floor = {info.floor[kKey], info.floor[kValue]};
  if (layersDiffer(info))
    limits.layerFloor = info.layerFloor;
  limits.blockBytes = blockBytes(info.headDim);
  limits.bytesAvailable = budget_;
  if (budget_ == kUnlimitedBytes)
    return limits;
  // All layers are alike but for their levels, so this divides evenly.
  int64_t others = fixedBytes_ + tableBytes_ +
                   (slots_.inUse() + newPageHeads) * program_.slotBytes();
  limits.bytesAvailable -= others;
  limits.layerBytesAvailable = budget_ / info.layers - others / info.layers;
  return limits;
}

/// Makes pages of the full windows of `sequences`, before the step `step`.
///
/// Errors: as of a step; nothing has changed then, unless the session breaks.
Status Session::flush(const std::vector<int32_t> &sequences,
                      const StepArgs &step) {
  if (sequences.empty())
    return Status();
  const ProgramInfo &info = program_.info;
  collectPages(sequences);
  size_t made = sequences.size() * info.layers * info.kvHeads;
  size_t existing = plan_.size() - made;

  if (Status s = policy_->plan(plan_, existing,
                               limitsWith(static_cast<int64_t>(made)));
      !s.ok())
    return s;

  newHolders_.clear();
  for (int32_t sequence : sequences) {
    newHolders_.push_back(takeHolders(sequence));
    std::vector<std::shared_ptr<Holders>> &pages = sequences_[sequence].pages;
    pages.reserve(pages.size() + 1);
  }
  if (Status s = store_->preparePages(static_cast<int64_t>(plan_.size()));
      !s.ok())
    return s;
  if (Status s = prepareFlushed(existing, step); !s.ok())
    return s;

  // From here on a failure leaves pages half lowered.
  if (Status s = lowerPages(existing); !s.ok())
    return breakSession(s);
  for (size_t i = existing; i < plan_.size(); ++i)
    if (Status s = makePage(plan_[i]); !s.ok())
      return breakSession(s);
  peak_ = std::max(peak_, bytesInUse());
  if (Status s = writePages(existing); !s.ok())
    return breakSession(s);
  for (size_t i = 0; i < sequences.size(); ++i) {
    sequences_[sequences[i]].pages.push_back(std::move(newHolders_[i]));
    sequences_[sequences[i]].window = 0;
  }
  return Status();
}

/// A list of holders that has `sequence` alone.
std::shared_ptr<Session::Holders> Session::takeHolders(int32_t sequence) {
  if (spareHolders_.empty())
    return std::make_shared<Holders>(1, sequence);
  std::shared_ptr<Holders> holders = std::move(spareHolders_.back());
  spareHolders_.pop_back();
  holders->assign(1, sequence);
  return holders;
}

/// Fills plan_: every existing page once, under its owner, at its level, then
/// one new page of each layer and kv head for each of `sequences`.
void Session::collectPages(const std::vector<int32_t> &sequences) {
  const ProgramInfo &info = program_.info;
  plan_.clear();
  for (int32_t layer = 0; layer < info.layers; ++layer)
    for (int32_t sequence = 0; sequence < maxSequences_; ++sequence)
      for (int32_t head = 0; head < info.kvHeads; ++head)
        for (int32_t page = 0; page < pages(sequence); ++page) {
          if (sequences_[sequence].pages[page]->front() != sequence)
            continue;
          const PageEntry &old = entry({layer, sequence, head, page});
          plan_.push_back({layer,
                           sequence,
                           head,
                           page,
                           {old.level[kKey], old.level[kValue]}});
        }
  for (int32_t layer = 0; layer < info.layers; ++layer)
    for (int32_t sequence : sequences)
      for (int32_t head = 0; head < info.kvHeads; ++head) {
        plan_.push_back({layer, sequence, head, pages(sequence), {0, 0}});
        entry(placeOf(plan_.back())) = PageEntry();
      }
  // All that a flush needs: once pages change, no allocation may fail.
  pageTasks_.reserve(plan_.size());
}

/// Lets the store prepare the step with all pages at their planned levels,
/// while none has fallen yet.
Status Session::prepareFlushed(size_t existing, const StepArgs &step) {
  exchangeLevels(existing);
  Status s = guarded([&] { return store_->prepareStep(step, rowRuns_); });
  exchangeLevels(existing);
  return s;
}

/// Exchanges levels between page tables and plan_: twice is never.
void Session::exchangeLevels(size_t existing) {
  for (size_t i = 0; i < plan_.size(); ++i) {
    const PageTask place = placeOf(plan_[i]);
    const std::array<uint8_t, kParts> levels = plan_[i].level;
    std::copy_n(entry(place).level, kParts, plan_[i].level.begin());
    auto set = [&](int32_t holder) {
      std::copy_n(levels.begin(), kParts,
                  entry({place.layer, holder, place.head, place.page}).level);
    };
    if (i < existing)
      for (int32_t holder : *sequences_[place.sequence].pages[place.page])
        set(holder);
    else
      set(place.sequence);
  }
}

/// Lowers the pages that exist to their planned levels, one launch a part and
/// step of the ladder.
Status Session::lowerPages(size_t existing) {
  for (int32_t from : kLadder)
    for (int32_t part = 0; part < kParts; ++part) {
      pageTasks_.clear();
      for (size_t i = 0; i < existing; ++i) {
        PageTask place = placeOf(plan_[i]);
        if (entry(place).level[part] == from && plan_[i].level[part] < from)
          pageTasks_.push_back(place);
      }
      if (Status s = lowerPart(part, from); !s.ok())
        return s;
    }
  return Status();
}

/// Lowers one part of the pages in pageTasks_ from `from` to half of it, once
/// for all their holders.
Status Session::lowerPart(int32_t part, int32_t from) {
  if (pageTasks_.empty())
    return Status();
  if (Status s = runPageKernel(pageLaunch(part, from, from / 2)); !s.ok())
    return s;
  int32_t kept = blocksAtLevel(from / 2);
  for (const PageTask &place : pageTasks_) {
    // The first half stays, so the others' block ids are right as they are.
    for (int32_t holder : *sequences_[place.sequence].pages[place.page]) {
      PageEntry &page = entry({place.layer, holder, place.head, place.page});
      page.level[part] = static_cast<uint8_t>(from / 2);
      if (from == kLadder.back())
        page.blocks[part][1] = 0;
    }
    if (Status s = from == kLadder.back()
                       ? joinPartner(place)
                       : blocks_.free(entry(place).blocks[part] + kept, kept);
        !s.ok())
      return s;
  }
  return Status();
}

/// The entry of the first of two partners, `place` being the second.
PageEntry &Session::partnerOf(const PageTask &place) {
  const int32_t kvHeads = program_.info.kvHeads;
  int32_t first = headOfAll(place.layer, place.head, kvHeads) - 1;
  return entry({first / kvHeads, place.sequence, first % kvHeads, place.page});
}

/// Moves values at level 1 to the block of the partner, if they are the second
/// of a pair, and frees their own.
Status Session::joinPartner(const PageTask &place) {
  PageEntry old = entry(place);
  if (!ownsNoBlock(old.level[kValue], place))
    return Status();
  if (partnerOf(place).level[kValue] != old.level[kValue])
    return Status(StatusCode::Internal,
                  "the policy lowers values of one of two partners to 1 bit");
  for (int32_t holder : *sequences_[place.sequence].pages[place.page])
    shareBlock({place.layer, holder, place.head, place.page});
  if (Status s = store_->moveValues(old, entry(place)); !s.ok())
    return s;
  return blocks_.free(old.blocks[kValue], 1);
}

/// Gives values at level 1, the second of a pair, their half of its block.
void Session::shareBlock(const PageTask &place) {
  PageEntry &page = entry(place);
  page.blocks[kValue][0] = partnerOf(place).blocks[kValue][0];
  page.blocks[kValue][1] = 1;
}

/// Takes slot and blocks of a new page; key and value side by side if it can.
Status Session::makePage(const PageState &state) {
  PageEntry &page = entry(placeOf(state));
  page = PageEntry();
  if (Status s = slots_.allocate(1, &page.slot); !s.ok())
    return Status(StatusCode::Internal, "after planning: " + s.message());
  uint32_t ids[kParts * kMaxBlocksPerPart];
  int32_t keyBlocks = blocksAtLevel(state.level[kKey]);
  bool shares = ownsNoBlock(state.level[kValue], placeOf(state));
  int32_t valueBlocks = shares ? 0 : blocksAtLevel(state.level[kValue]);
  if (Status s = blocks_.allocate(keyBlocks + valueBlocks, ids); !s.ok())
    return Status(StatusCode::Internal, "after planning: " + s.message());
  std::copy(ids, ids + keyBlocks, page.blocks[kKey]);
  std::copy(ids + keyBlocks, ids + keyBlocks + valueBlocks,
            page.blocks[kValue]);
  if (shares)
    shareBlock(placeOf(state));
  return Status();
}

/// Whether values at `level` lie in the block of their partner.
bool Session::ownsNoBlock(int32_t level, const PageTask &place) const {
  return level < kLadder.back() &&
         isSecondOfPair(
             headOfAll(place.layer, place.head, program_.info.kvHeads));
}

/// Writes the new pages from their windows, one launch a part and level.
Status Session::writePages(size_t existing) {
  for (int32_t level : kLadder)
    for (int32_t part = 0; part < kParts; ++part) {
      pageTasks_.clear();
      for (size_t i = existing; i < plan_.size(); ++i)
        if (plan_[i].level[part] == level)
          pageTasks_.push_back(placeOf(plan_[i]));
      if (Status s = runPageKernel(pageLaunch(part, 0, level)); !s.ok())
        return s;
      for (const PageTask &place : pageTasks_)
        entry(place).level[part] = static_cast<uint8_t>(level);
    }
  return Status();
}

/// A launch over pageTasks_ in the session's caches.
PageLaunch Session::pageLaunch(int32_t part, int32_t from, int32_t to) {
  nameTasksAhead(pageTasks_.data(), static_cast<int64_t>(pageTasks_.size()),
                 context_.threads->threads());
  KernelFn kernel = from ? program_.entries.requantize[part][ladderIndex(from)]
                         : program_.entries.flush[part][ladderIndex(to)];
  return {kernel,
          static_cast<Part>(part),
          from,
          to,
          caches_.data(),
          pageTasks_.data(),
          static_cast<int64_t>(pageTasks_.size())};
}

/// Runs a launch where the caches are.
///
/// Errors: Internal if there is no such kernel; NotRepresentable, naming the
/// page, if it fails.
Status Session::runPageKernel(const PageLaunch &launch) {
  if (launch.count == 0)
    return Status();
  if (!launch.kernel)
    return Status(StatusCode::Internal, "no kernel for " + nameOf(launch));
  return judgePages(launch, store_->writePages(launch));
}

/// The Status of a launch that has run.
Status Session::judgePages(const PageLaunch &launch,
                           const Result<LaunchResult> &result) const {
  if (!result.ok())
    return {result.status().code(),
            nameOf(launch) + ": " + result.status().message()};
  if (result->status == kKernelOk)
    return Status();
  const PageTask &page = launch.tasks[result->task];
  return Status(StatusCode::NotRepresentable,
                nameOf(launch) + " of layer " + std::to_string(page.layer) +
                    ", sequence " + std::to_string(page.sequence) +
                    ", kv head " + std::to_string(page.head) + ", page " +
                    std::to_string(page.page) +
                    ": a value is not finite or outside the format's range "
                    "(kernel status " +
                    std::to_string(result->status) + ")");
}
