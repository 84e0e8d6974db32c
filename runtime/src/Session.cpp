//===- Session.cpp - Opening a session, and what it knows -----------------===//
//
// Sizes, reservation, queries.  Neighbours: SessionSequences.cpp (who lives),
// SessionFlush.cpp and SessionStep.cpp (a step), Generate.cpp (many steps).
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/Session.h"

#include "Bytes.h"
#include "Guard.h"

#include <algorithm>

using namespace pmkvq::rt;

int64_t pmkvq::rt::pagesForTokens(int64_t tokens, int64_t sinkTokens) {
  int64_t beyond = std::max<int64_t>(0, tokens - sinkTokens - kPageTokens);
  return (beyond + kPageTokens - 1) / kPageTokens;
}

namespace {
/// Everything that follows from a program and options.
struct Sizes {
  int64_t maxTokens;
  int64_t maxPages;
  /// Page-heads of one page: one a layer and kv head.
  int64_t heads;
  int64_t fixedBytes;
  int64_t tableBytes;
  int64_t budget;
};
} // namespace

static Result<Sizes> computeSizes(const Program &program,
                                  const SessionOptions &options) {
  const ProgramInfo &info = program.info;
  auto outOfRange = [](const char *name, int64_t value, int64_t high) {
    return Status(StatusCode::InvalidArgument,
                  std::string(name) + " is " + std::to_string(value) +
                      "; from 1 to " + std::to_string(high) + " is possible");
  };
  Sizes sizes;
  constexpr int32_t kMostSequences = 65536;
  if (options.maxSequences < 1 || options.maxSequences > kMostSequences)
    return outOfRange("maxSequences", options.maxSequences, kMostSequences);
  sizes.maxTokens = options.maxTokens ? options.maxTokens : info.maxPositions;
  if (sizes.maxTokens < 1 || sizes.maxTokens > info.maxPositions)
    return outOfRange("maxTokens", sizes.maxTokens, info.maxPositions);
  if (options.budgetBytes < -1)
    return Status(StatusCode::InvalidArgument,
                  "budgetBytes is " + std::to_string(options.budgetBytes) +
                      "; -1 means no limit, 0 the program's own budget");
  int64_t budget = options.budgetBytes ? options.budgetBytes : info.budgetBytes;
  sizes.budget = budget > 0 ? budget : kUnlimitedBytes;
  sizes.maxPages = pagesForTokens(sizes.maxTokens, info.sinkTokens);
  sizes.heads = saturatingProduct({info.layers, info.kvHeads});
  sizes.fixedBytes =
      saturatingProduct({fixedAreaBytes(info.headDim, info.sinkTokens),
                         sizes.heads, options.maxSequences});
  sizes.tableBytes =
      saturatingProduct({int64_t(sizeof(PageEntry)), sizes.maxPages,
                         sizes.heads, options.maxSequences});
  if (saturatingSum({sizes.fixedBytes, sizes.tableBytes}) == kUnlimitedBytes)
    return Status(StatusCode::InvalidArgument,
                  "maxSequences times maxTokens is too large to count");
  return sizes;
}

Result<int64_t>
pmkvq::rt::minimumBytes(const Program &program, const SessionOptions &options,
                        const std::vector<SequencePlan> &plans) {
  Result<Sizes> sizes = computeSizes(program, options);
  if (!sizes.ok())
    return sizes.status();
  int64_t bytes = sizes->fixedBytes + sizes->tableBytes;
  for (const SequencePlan &plan : plans) {
    int64_t tokens = saturatingSum({plan.promptTokens, plan.maxNewTokens - 1});
    if (plan.promptTokens < 0 || plan.maxNewTokens < 1 ||
        tokens > sizes->maxTokens)
      return Status(
          StatusCode::InvalidArgument,
          "sequence " + std::to_string(plan.sequence) + ": " +
              std::to_string(plan.promptTokens) + " prompt tokens and " +
              std::to_string(plan.maxNewTokens) + " new ones; " +
              std::to_string(sizes->maxTokens) + " tokens can be cached");
    int64_t pages = pagesForTokens(tokens, program.info.sinkTokens);
    bytes = saturatingSum(
        {bytes, saturatingProduct({pages, floorPagesBytes(program.info)}),
         pages ? newestPageBytes(program.info) : 0});
  }
  return bytes;
}

Result<std::unique_ptr<Session>> Session::open(Program program,
                                               SessionOptions options) {
  return guarded([&]() -> Result<std::unique_ptr<Session>> {
    if (!program.entries.step || program.info.abiVersion != kAbiVersion)
      return Status(StatusCode::InvalidArgument,
                    "not a program that openProgram has checked");
    std::unique_ptr<Session> session(new Session());
    session->program_ = std::move(program);
    if (Status s = session->reserve(options); !s.ok())
      return s;
    if (Status s = session->admit(options.plans); !s.ok())
      return s;
    return session;
  });
}

/// Moves what was made to its place, or says why nothing was.
template <typename T> static Status keep(Result<T> made, T &place) {
  if (made.ok())
    place = std::move(*made);
  return made.status();
}

Status Session::reserve(const SessionOptions &options) {
  const ProgramInfo &info = program_.info;
  Result<Sizes> sizes = computeSizes(program_, options);
  if (!sizes.ok())
    return sizes.status();
  maxSequences_ = options.maxSequences;
  maxTokens_ = sizes->maxTokens;
  maxPages_ = sizes->maxPages;
  budget_ = sizes->budget;
  fixedBytes_ = sizes->fixedBytes;
  tableBytes_ = sizes->tableBytes;
  if (bytesInUse() > budget_)
    return missingBytes(bytesInUse(), budget_, "fixed areas and page tables");
  if (Status s = choosePolicy(options); !s.ok())
    return s;
  if (Status s = reserveMemory(sizes->heads); !s.ok())
    return s;
  if (Status s = keep(ThreadPool::create(options.threads), context_.threads);
      !s.ok())
    return s;

  sequences_.resize(maxSequences_);
  for (int64_t layer = 0; layer < info.layers; ++layer) {
    CacheView view;
    view.blocks = blocks_.data();
    view.parameters = slots_.data();
    view.pages = reinterpret_cast<PageEntry *>(
        tables_.data() + layer * (tableBytes_ / info.layers));
    view.fixed = reinterpret_cast<uint16_t *>(
        fixed_.data() + layer * (fixedBytes_ / info.layers));
    view.maxPages = maxPages_;
    if (program_.entries.keyFeedback)
      view.keyFeedback = program_.entries.keyFeedback(layer);
    caches_.push_back(view);
  }
  peak_ = bytesInUse();
  return attachStore(options.store);
}

/// The levels that pages may come to, each pair once.
std::vector<PageLevels> Session::levelPairs() const {
  std::vector<PageLevels> pairs;
  if (maxPages_ == 0)
    return pairs;
  if (levelUse_ == LevelUse::Highest)
    return {{16, 16}};
  const ScheduleLimits limits = limitsWith(0);
  for (int32_t layer = 0; layer < program_.info.layers; ++layer)
    for (const PageLevels &pair : policy_->pairs(limits.floorOf(layer)))
      if (std::find(pairs.begin(), pairs.end(), pair) == pairs.end())
        pairs.push_back(pair);
  return pairs;
}

/// Gives the caches to their store.
Status Session::attachStore(std::shared_ptr<CacheStore> store) {
  const ProgramInfo &info = program_.info;
  store_ = store ? std::move(store) : std::make_shared<CacheStore>();
  CacheGeometry geometry = {};
  geometry.layers = info.layers;
  geometry.kvHeads = info.kvHeads;
  geometry.queryHeads = info.queryHeads;
  geometry.headDim = info.headDim;
  geometry.sinkTokens = info.sinkTokens;
  for (int32_t part = 0; part < kParts; ++part)
    geometry.parameterBytes[part] = info.parameterBytes[part];
  geometry.maxSequences = maxSequences_;
  geometry.blocks = blocks_.capacity();
  geometry.slots = slots_.capacity();
  geometry.pairs = levelPairs();
  context_.store = store_.get();
  return store_->attach(geometry, caches_.data(), *context_.threads);
}

/// The caller's policy, or that of the program's schedule; and the kernels
/// which it needs.
Status Session::choosePolicy(const SessionOptions &options) {
  if (options.policy) {
    policy_ = options.policy;
  } else {
    std::unique_ptr<SchedulePolicy> policy;
    if (Status s =
            keep(makeSchedulePolicy(program_.info.schedule, program_.losses),
                 policy);
        !s.ok())
      return s;
    policy_ = std::move(policy);
    // Without a budget none of our own policies lowers anything.
    if (program_.info.schedule == kScheduleNone)
      levelUse_ = LevelUse::Floor;
    else if (budget_ == kUnlimitedBytes)
      levelUse_ = LevelUse::Highest;
  }
  return maxPages_ > 0 ? checkKernels(program_, levelUse_) : Status();
}

/// Reserves pools, fixed areas and tables for `heads` page-heads a page.
Status Session::reserveMemory(int64_t heads) {
  // Pools for the most that the budget, or else the token limit, lets exist.
  int64_t pageHeads = saturatingProduct({maxPages_, heads, maxSequences_});
  int64_t blocks = saturatingProduct({pageHeads, kParts, kMaxBlocksPerPart});
  int64_t bytes = blockBytes(program_.info.headDim);
  int64_t pageBytes = budget_ - bytesInUse();
  if (budget_ != kUnlimitedBytes)
    blocks = std::min(blocks, pageBytes / bytes);
  if (Status s = keep(BlockPool::create(bytes, blocks), blocks_); !s.ok())
    return s;
  // Every page holds two blocks at least, or one and half of another.
  if (Status s = keep(BlockPool::create(program_.slotBytes(),
                                        std::min(pageHeads, blocks * 2 / 3)),
                      slots_);
      !s.ok())
    return s;
  if (Status s = keep(Arena::reserve(fixedBytes_), fixed_); !s.ok())
    return s;
  return keep(Arena::reserve(tableBytes_), tables_);
}

int64_t Session::bytesInUse() const {
  return fixedBytes_ + tableBytes_ + slots_.bytesInUse() + blocks_.bytesInUse();
}

//===----------------------------------------------------------------------===//
// Queries
//===----------------------------------------------------------------------===//

PageEntry &Session::entry(const PageTask &place) {
  int64_t table = int64_t(place.sequence) * program_.info.kvHeads + place.head;
  return caches_[place.layer].pages[table * maxPages_ + place.page];
}

const PageEntry &Session::entry(const PageTask &place) const {
  return const_cast<Session *>(this)->entry(place);
}

const PageEntry *Session::pageEntry(int32_t layer, int32_t sequence,
                                    int32_t head, int32_t page) const {
  if (layer < 0 || layer >= program_.info.layers || !isSequence(sequence) ||
      head < 0 || head >= program_.info.kvHeads || page < 0 ||
      page >= sequences_[sequence].pageCount())
    return nullptr;
  return &entry({layer, sequence, head, page});
}

CacheBytes Session::bytes() const {
  const ProgramInfo &info = program_.info;
  CacheBytes bytes;
  bytes.fixedAreas = fixedBytes_;
  bytes.pageTables = tableBytes_;
  bytes.parameterSlots = slots_.bytesInUse();
  bytes.blocks = blocks_.bytesInUse();
  bytes.inUse = bytesInUse();
  bytes.peak = peak_;
  bytes.peakParameterSlots = slots_.peak() * slots_.blockBytes();
  bytes.peakBlocks = blocks_.peak() * blocks_.blockBytes();
  bytes.budget = budget_ == kUnlimitedBytes ? 0 : budget_;
  for (const Sequence &sequence : sequences_)
    bytes.bf16Equivalent += sequence.tokens * info.layers * info.kvHeads *
                            info.headDim * kParts * 2;
  return bytes;
}

LevelCounts Session::levels(int32_t layer, Part part) const {
  LevelCounts counts = {};
  if (layer < 0 || layer >= program_.info.layers || part < 0 || part >= kParts)
    return counts;
  for (int32_t sequence = 0; sequence < maxSequences_; ++sequence)
    for (int32_t page = 0; page < pages(sequence); ++page)
      if (sequences_[sequence].pages[page]->front() == sequence)
        for (int32_t head = 0; head < program_.info.kvHeads; ++head)
          ++counts[ladderIndex(
              entry({layer, sequence, head, page}).level[part])];
  return counts;
}

LevelCounts Session::levels(int32_t sequence, int32_t layer, Part part) const {
  LevelCounts counts = {};
  if (layer < 0 || layer >= program_.info.layers || part < 0 || part >= kParts)
    return counts;
  for (int32_t head = 0; head < program_.info.kvHeads; ++head)
    for (int32_t page = 0; page < pages(sequence); ++page)
      ++counts[ladderIndex(entry({layer, sequence, head, page}).level[part])];
  return counts;
}

int64_t Session::tokens(int32_t sequence) const {
  return isSequence(sequence) ? sequences_[sequence].tokens : 0;
}

int32_t Session::pages(int32_t sequence) const {
  return isSequence(sequence) ? sequences_[sequence].pageCount() : 0;
}

int32_t Session::sharedPages(int32_t sequence) const {
  int32_t count = 0;
  for (int32_t page = 0; page < pages(sequence); ++page)
    count += sequences_[sequence].pages[page]->size() > 1;
  return count;
}

int64_t Session::plannedTokens(int32_t sequence) const {
  return isSequence(sequence) ? sequences_[sequence].planned : 0;
}

int32_t Session::freeSequence() const {
  for (int32_t sequence = 0; sequence < maxSequences_; ++sequence)
    if (!sequences_[sequence].tokens && !sequences_[sequence].planned)
      return sequence;
  return -1;
}

int32_t Session::nextToken(int32_t sequence) const {
  return isSequence(sequence) ? sequences_[sequence].next : -1;
}

Status Session::checkSequence(int32_t sequence) const {
  if (isSequence(sequence))
    return Status();
  return Status(StatusCode::InvalidArgument,
                "sequence " + std::to_string(sequence) + "; there are " +
                    std::to_string(maxSequences_));
}

Status Session::usable() const {
  if (broken_.ok())
    return Status();
  return Status(StatusCode::FailedPrecondition,
                "the session is not usable any more, because: " +
                    broken_.message());
}

Status Session::breakSession(Status reason) {
  broken_ = reason;
  return reason;
}
