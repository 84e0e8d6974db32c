//===- SessionSnapshot.cpp - Sequences to and from bytes ------------------===//
//
// Copies a sequence out, and brings one in within the budget.  Neighbours:
// Snapshot.h has the layout and the checks, SessionFlush.cpp lowers pages.
//
// Restoring keeps bytes within the budget at every moment: levels are planned
// with the pages that come in; these are lowered outside the cache, those of
// the session in it, and only then are blocks taken.
//
//===----------------------------------------------------------------------===//

#include "Guard.h"
#include "pmkvq_rt/Session.h"

#include <algorithm>
#include <cstring>

using namespace pmkvq::rt;

SnapshotGeometry Session::snapshotGeometry() const {
  const ProgramInfo &info = program_.info;
  SnapshotGeometry geometry = {};
  geometry.layers = info.layers;
  geometry.kvHeads = info.kvHeads;
  geometry.headDim = info.headDim;
  geometry.sinkTokens = info.sinkTokens;
  geometry.vocabSize = info.vocabSize;
  geometry.layout = info.layout;
  geometry.formatHash = info.formatHash;
  for (int32_t part = 0; part < kParts; ++part) {
    geometry.parameterBytes[part] = info.parameterBytes[part];
    geometry.floor[part] = info.floor[part];
  }
  return geometry;
}

//===----------------------------------------------------------------------===//
// Taking
//===----------------------------------------------------------------------===//

namespace {
/// Appends to bytes that were sized before.
struct Writer {
  uint8_t *at;

  void write(const void *data, int64_t bytes) {
    if (bytes)
      std::memcpy(at, data, static_cast<size_t>(bytes));
    at += bytes;
  }
};
} // namespace

Result<std::vector<uint8_t>> Session::snapshot(int32_t sequence) const {
  return guarded([&]() -> Result<std::vector<uint8_t>> {
    if (Status s = usable(); !s.ok())
      return s;
    if (Status s = checkSequence(sequence); !s.ok())
      return s;
    const ProgramInfo &info = program_.info;
    const Sequence &state = sequences_[sequence];
    SnapshotHeader header = {};
    std::memcpy(header.magic, kSnapshotMagic, sizeof(kSnapshotMagic));
    header.version = kSnapshotVersion;
    header.headerBytes = sizeof(SnapshotHeader);
    header.geometry = snapshotGeometry();
    header.tokens = state.tokens;
    header.next = state.next;
    if (state.nextEmitted)
      header.flags |= kSnapshotEmitted;
    if (!state.logits.empty())
      header.flags |= kSnapshotLogits;
    SnapshotSections sections = snapshotSections(header);

    std::vector<const PageEntry *> entries;
    int64_t blocks = 0;
    for (int32_t layer = 0; layer < info.layers; ++layer)
      for (int32_t head = 0; head < info.kvHeads; ++head)
        for (int32_t page = 0; page < state.pageCount(); ++page) {
          entries.push_back(&entry({layer, sequence, head, page}));
          for (int32_t part = 0; part < kParts; ++part)
            blocks += blocksAtLevel(entries.back()->level[part]);
        }
    header.bytes = sections.end(blocks, info.headDim);
    std::vector<uint8_t> bytes(header.bytes);
    Writer writer{bytes.data()};
    writer.write(&header, sizeof(header));
    Status copied = eachFixedPart(sequence, [&](const FixedPart &place) {
      uint8_t *to = writer.at;
      writer.at += sections.fixedTokens * info.headDim * 2;
      return store_->readFixed(place, sections.fixedTokens, to);
    });
    if (!copied.ok())
      return copied;
    writer.write(state.logits.data(),
                 static_cast<int64_t>(state.logits.size() * sizeof(float)));
    for (const PageEntry *page : entries)
      writer.write(page->level, kParts);
    if (Status s = copyOut(entries, writer.at, bytes.data() + sections.blocks);
        !s.ok())
      return s;
    header.hash = snapshotHash(bytes.data(), bytes.size());
    std::memcpy(bytes.data(), &header, sizeof(header));
    return bytes;
  });
}

/// Visits the parts of the sequence's fixed areas in the order of a snapshot,
/// until one fails.
Status Session::eachFixedPart(
    int32_t sequence,
    const std::function<Status(const FixedPart &place)> &visit) const {
  for (int32_t layer = 0; layer < program_.info.layers; ++layer)
    for (int32_t head = 0; head < program_.info.kvHeads; ++head)
      for (int32_t part = 0; part < kParts; ++part)
        if (Status s = visit({layer, sequence, head, part}); !s.ok())
          return s;
  return Status();
}

/// Copies pages out, one after the other, to the sections of a snapshot.
Status Session::copyOut(const std::vector<const PageEntry *> &pages,
                        uint8_t *parameters, uint8_t *codes) const {
  int64_t bytes = blockBytes(program_.info.headDim);
  for (const PageEntry *page : pages) {
    uint8_t *values = codes + blocksAtLevel(page->level[kKey]) * bytes;
    if (Status s = store_->readPage(*page, parameters, {codes, values});
        !s.ok())
      return s;
    parameters += program_.slotBytes();
    codes = values + blocksAtLevel(page->level[kValue]) * bytes;
  }
  return Status();
}

//===----------------------------------------------------------------------===//
// Restoring
//===----------------------------------------------------------------------===//

Status Session::checkRestore(int32_t sequence, const SnapshotView &view) const {
  const SnapshotHeader &header = view.header;
  std::string name = "sequence " + std::to_string(sequence);
  if (sequences_[sequence].tokens)
    return Status(StatusCode::FailedPrecondition,
                  name + " has " + std::to_string(sequences_[sequence].tokens) +
                      " tokens; release it first");
  if (header.tokens > maxTokens_)
    return Status(StatusCode::InvalidArgument,
                  name + " would have " + std::to_string(header.tokens) +
                      " tokens cached; the session is for " +
                      std::to_string(maxTokens_));
  // Such a program has code for its floors alone.
  const ProgramInfo &info = program_.info;
  if (info.schedule == kScheduleNone)
    for (int64_t i = 0; i < view.sections.pageHeads; ++i) {
      auto layer =
          static_cast<int32_t>(i / (view.sections.pages * info.kvHeads));
      for (Part part : {kKey, kValue})
        if (int32_t floor = floorOf(info, layer, part);
            view.level(i, part) != floor)
          return Status(StatusCode::InvalidArgument,
                        "the snapshot has a page at " +
                            std::to_string(view.level(i, part)) +
                            " bits; this program knows " +
                            std::to_string(floor) + " alone");
    }
  std::vector<int64_t> tokens;
  promisedTokens(tokens);
  tokens[sequence] = std::max(tokens[sequence], header.tokens);
  return checkReach(tokens);
}

/// Fills plan_: the pages of the session, then those of the snapshot in its
/// order, all at the levels that fit.
Status Session::planRestore(int32_t sequence, const SnapshotView &view) {
  collectPages({});
  int64_t pageHead = 0;
  for (int32_t layer = 0; layer < program_.info.layers; ++layer)
    for (int32_t head = 0; head < program_.info.kvHeads; ++head)
      for (int32_t page = 0; page < view.sections.pages; ++page, ++pageHead)
        plan_.push_back({layer,
                         sequence,
                         head,
                         page,
                         {static_cast<uint8_t>(view.level(pageHead, kKey)),
                          static_cast<uint8_t>(view.level(pageHead, kValue))}});
  pageTasks_.reserve(plan_.size());
  return policy_->plan(plan_, plan_.size(),
                       limitsWith(view.sections.pageHeads));
}

/// Lowers one part of the staged pages that are at `from` and must fall.
Status Session::lowerStagedPart(size_t first, int32_t part, int32_t from,
                                SnapshotStage &stage) {
  pageTasks_.clear();
  std::vector<PageEntry *> entries;
  for (size_t i = first; i < plan_.size(); ++i) {
    PageEntry &page = stage.entry(static_cast<int64_t>(i - first));
    if (page.level[part] != from || plan_[i].level[part] >= from)
      continue;
    entries.push_back(&page);
    // In the stage there is one sequence.
    pageTasks_.push_back({plan_[i].layer, 0, plan_[i].head, plan_[i].page});
  }
  if (pageTasks_.empty())
    return Status();
  // The stage is in the CPU's memory and order, whatever the store.
  PageLaunch launch = pageLaunch(part, from, from / 2);
  launch.caches = stage.caches().data();
  Status s = launch.kernel
                 ? judgePages(launch, launchPages(*context_.threads, launch))
                 : runPageKernel(launch);
  for (PageEntry *page : entries)
    page->level[part] = static_cast<uint8_t>(from / 2);
  return s;
}

Status Session::lowerStaged(size_t first, SnapshotStage &stage) {
  for (int32_t from : kLadder)
    for (int32_t part = 0; part < kParts; ++part)
      if (Status s = lowerStagedPart(first, part, from, stage); !s.ok())
        return s;
  return Status();
}

/// Takes slots and blocks for the pages of the stage and copies these in.
Status Session::bringIn(size_t first, const SnapshotStage &stage) {
  for (size_t i = first; i < plan_.size(); ++i) {
    if (Status s = makePage(plan_[i]); !s.ok())
      return s;
    const PageEntry &from = stage.entry(static_cast<int64_t>(i - first));
    PageEntry &to = entry(
        {plan_[i].layer, plan_[i].sequence, plan_[i].head, plan_[i].page});
    std::copy_n(from.level, kParts, to.level);
    // A part's blocks lie one after the other in the stage.
    const uint8_t *codes[kParts] = {stage.block(from.blocks[kKey][0]),
                                    stage.block(from.blocks[kValue][0])};
    if (Status s = store_->writePage(to, stage.parameters(from.slot), codes);
        !s.ok())
      return s;
  }
  peak_ = std::max(peak_, bytesInUse());
  return Status();
}

/// The sequence as it will be, but for what lies in caches.
Session::Sequence Session::restoredSequence(int32_t sequence,
                                            const SnapshotView &view) const {
  const SnapshotHeader &header = view.header;
  Sequence state;
  state.planned = sequences_[sequence].planned;
  state.tokens = header.tokens;
  state.window = static_cast<int32_t>(std::max<int64_t>(
      0, view.sections.fixedTokens - program_.info.sinkTokens));
  for (int64_t page = 0; page < view.sections.pages; ++page)
    state.pages.push_back(std::make_shared<Holders>(1, sequence));
  state.next = header.next;
  state.nextEmitted = header.flags & kSnapshotEmitted;
  if (header.flags & kSnapshotLogits) {
    state.logits.resize(program_.info.vocabSize);
    std::memcpy(state.logits.data(), view.data + view.sections.logits,
                state.logits.size() * sizeof(float));
  }
  return state;
}

Status Session::restore(int32_t sequence, const uint8_t *data, size_t size) {
  return guarded([&]() -> Status {
    if (Status s = usable(); !s.ok())
      return s;
    if (Status s = checkSequence(sequence); !s.ok())
      return s;
    Result<SnapshotView> view = parseSnapshot(data, size, snapshotGeometry());
    if (!view.ok())
      return view.status();
    if (Status s = checkRestore(sequence, *view); !s.ok())
      return s;
    if (Status s = planRestore(sequence, *view); !s.ok())
      return s;
    size_t first = plan_.size() - static_cast<size_t>(view->sections.pageHeads);
    Sequence state = restoredSequence(sequence, *view);
    Result<SnapshotStage> stage = SnapshotStage::create(*view);
    if (!stage.ok())
      return stage.status();
    if (Status s = lowerStaged(first, *stage); !s.ok())
      return s;
    if (Status s = store_->preparePages(static_cast<int64_t>(first)); !s.ok())
      return s;
    // From here on a failure leaves pages half lowered.
    if (Status s = lowerPages(first); !s.ok())
      return breakSession(s);
    if (Status s = bringIn(first, *stage); !s.ok())
      return breakSession(s);
    const uint8_t *fixed = view->data + view->sections.fixed;
    int64_t tokens = view->sections.fixedTokens;
    Status copied = eachFixedPart(sequence, [&](const FixedPart &place) {
      const uint8_t *from = fixed;
      fixed += tokens * program_.info.headDim * 2;
      return store_->writeFixed(place, tokens, from);
    });
    if (!copied.ok())
      return breakSession(copied);
    sequences_[sequence] = std::move(state);
    return Status();
  });
}
