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

/// Tokens in the fixed area.
int64_t Session::fixedTokens(const Sequence &sequence) const {
  return sequence.tokens - int64_t(sequence.pageCount()) * kPageTokens;
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
    writeFixed(sequence, writer.at);
    writer.at = bytes.data() + sections.logits;
    writer.write(state.logits.data(),
                 static_cast<int64_t>(state.logits.size() * sizeof(float)));
    for (const PageEntry *page : entries)
      writer.write(page->level, kParts);
    for (const PageEntry *page : entries)
      writer.write(slots_.data() + page->slot * slots_.blockBytes(),
                   slots_.blockBytes());
    for (const PageEntry *page : entries)
      for (int32_t part = 0; part < kParts; ++part)
        for (int32_t b = 0; b < blocksAtLevel(page->level[part]); ++b)
          writer.write(blocks_.data() +
                           page->blocks[part][b] * blocks_.blockBytes(),
                       blocks_.blockBytes());
    header.hash = snapshotHash(bytes.data(), bytes.size());
    std::memcpy(bytes.data(), &header, sizeof(header));
    return bytes;
  });
}

/// Where the fixed tokens of one part of the sequence lie, and their bytes.
/// Index: [kvHead][part].
uint8_t *Session::fixedPart(int32_t layer, int32_t sequence,
                            int32_t headAndPart) const {
  const ProgramInfo &info = program_.info;
  int64_t partBytes = fixedAreaBytes(info.headDim, info.sinkTokens) / kParts;
  int64_t index = int64_t(sequence) * info.kvHeads * kParts + headAndPart;
  return reinterpret_cast<uint8_t *>(caches_[layer].fixed) + index * partBytes;
}

void Session::writeFixed(int32_t sequence, uint8_t *to) const {
  const ProgramInfo &info = program_.info;
  int64_t bytes = fixedTokens(sequences_[sequence]) * info.headDim * 2;
  for (int32_t layer = 0; layer < info.layers; ++layer)
    for (int32_t i = 0; i < info.kvHeads * kParts; ++i, to += bytes)
      std::memcpy(to, fixedPart(layer, sequence, i), bytes);
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
  // Such a program has code for its floor alone.
  if (program_.info.schedule == kScheduleNone)
    for (int64_t i = 0; i < view.sections.pageHeads; ++i)
      for (int32_t part = 0; part < kParts; ++part)
        if (view.level(i, part) != program_.info.floor[part])
          return Status(StatusCode::InvalidArgument,
                        "the snapshot has a page at " +
                            std::to_string(view.level(i, part)) +
                            " bits; this program knows " +
                            std::to_string(program_.info.floor[part]) +
                            " alone");
  std::vector<int64_t> tokens = promisedTokens();
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
  KernelFn kernel = program_.entries.requantize[part][ladderIndex(from)];
  Status s =
      runPageKernel(stage.caches().data(), kernel, "lowering", part, from / 2);
  for (PageEntry *page : entries)
    page->level[part] = static_cast<uint8_t>(from / 2);
  return s;
}

Status Session::lowerStaged(size_t first, SnapshotStage &stage) {
  for (int32_t from : kLadder)
    for (int32_t part = 0; part < kParts && from > kLadder.back(); ++part)
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
    std::memcpy(slots_.data() + to.slot * slots_.blockBytes(),
                stage.parameters(from.slot), slots_.blockBytes());
    for (int32_t part = 0; part < kParts; ++part) {
      to.level[part] = from.level[part];
      for (int32_t b = 0; b < blocksAtLevel(to.level[part]); ++b)
        std::memcpy(blocks_.data() + to.blocks[part][b] * blocks_.blockBytes(),
                    stage.block(from.blocks[part][b]), blocks_.blockBytes());
    }
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
    // From here on a failure leaves pages half lowered.
    if (Status s = lowerPages(first); !s.ok())
      return breakSession(s);
    if (Status s = bringIn(first, *stage); !s.ok())
      return breakSession(s);
    readFixed(sequence, *view);
    sequences_[sequence] = std::move(state);
    return Status();
  });
}

void Session::readFixed(int32_t sequence, const SnapshotView &view) {
  const ProgramInfo &info = program_.info;
  int64_t bytes = view.sections.fixedTokens * info.headDim * 2;
  const uint8_t *from = view.data + view.sections.fixed;
  for (int32_t layer = 0; layer < info.layers; ++layer)
    for (int32_t i = 0; i < info.kvHeads * kParts; ++i, from += bytes)
      std::memcpy(fixedPart(layer, sequence, i), from, bytes);
}
