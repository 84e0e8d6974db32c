//===- Session.cpp - Opening a session, and what it knows -----------------===//
//
// Sizes, reservation, queries.  Neighbours: SessionFlush.cpp and
// SessionStep.cpp do a step, Generate.cpp loops over steps.
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/Session.h"

#include "Guard.h"

#include <algorithm>

using namespace pmkvq::rt;

/// Bytes as a number that saturates: sizes come from users, and every one of
/// them is compared with a limit before it is used.
static int64_t product(std::initializer_list<int64_t> factors) {
  int64_t result = 1;
  for (int64_t factor : factors)
    if (__builtin_mul_overflow(result, factor, &result))
      return kUnlimitedBytes;
  return result;
}

static int64_t sum(int64_t a, int64_t b) {
  int64_t result;
  return __builtin_add_overflow(a, b, &result) ? kUnlimitedBytes : result;
}

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
  sizes.heads = product({info.layers, info.kvHeads});
  sizes.fixedBytes = product({fixedAreaBytes(info.headDim, info.sinkTokens),
                              sizes.heads, options.maxSequences});
  sizes.tableBytes = product({int64_t(sizeof(PageEntry)), sizes.maxPages,
                              sizes.heads, options.maxSequences});
  if (sum(sizes.fixedBytes, sizes.tableBytes) == kUnlimitedBytes)
    return Status(StatusCode::InvalidArgument,
                  "maxSequences times maxTokens is too large to count");
  return sizes;
}

/// Bytes of one page of every layer and kv head, at the floor.
static int64_t floorPageBytes(const Program &program, const Sizes &sizes) {
  return product({sizes.heads,
                  program.slotBytes() + program.floorBlocks() *
                                            blockBytes(program.info.headDim)});
}

static int64_t plannedTokens(const SequencePlan &plan) {
  return sum(plan.promptTokens, plan.maxNewTokens - 1);
}

Result<int64_t>
pmkvq::rt::minimumBytes(const Program &program, const SessionOptions &options,
                        const std::vector<SequencePlan> &plans) {
  Result<Sizes> sizes = computeSizes(program, options);
  if (!sizes.ok())
    return sizes.status();
  int64_t bytes = sizes->fixedBytes + sizes->tableBytes;
  for (const SequencePlan &plan : plans) {
    int64_t tokens = plannedTokens(plan);
    if (plan.promptTokens < 0 || plan.maxNewTokens < 1 ||
        tokens > sizes->maxTokens)
      return Status(
          StatusCode::InvalidArgument,
          "sequence " + std::to_string(plan.sequence) + ": " +
              std::to_string(plan.promptTokens) + " prompt tokens and " +
              std::to_string(plan.maxNewTokens) + " new ones; " +
              std::to_string(sizes->maxTokens) + " tokens can be cached");
    bytes = sum(bytes, product({pagesForTokens(tokens, program.info.sinkTokens),
                                floorPageBytes(program, *sizes)}));
  }
  return bytes;
}

static Status missingBytes(int64_t needed, int64_t budget, const char *what) {
  return Status(StatusCode::OutOfMemory,
                std::to_string(needed - budget) + " bytes are missing: " +
                    what + " take " + std::to_string(needed) +
                    " bytes at least, the budget is " + std::to_string(budget));
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
  bool hasBudget = budget_ != kUnlimitedBytes;
  if (bytesInUse() > budget_)
    return missingBytes(bytesInUse(), budget_, "fixed areas and page tables");
  if (maxPages_ > 0)
    if (Status s = checkKernels(program_, hasBudget); !s.ok())
      return s;

  if (Status s = reserveMemory(sizes->heads); !s.ok())
    return s;
  if (Status s = keep(makeSchedulePolicy(info.schedule), policy_); !s.ok())
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
    caches_.push_back(view);
  }
  peak_ = bytesInUse();
  return Status();
}

/// Reserves pools, fixed areas and tables for `heads` page-heads a page.
Status Session::reserveMemory(int64_t heads) {
  // Pools for the most that the budget, or else the token limit, lets exist.
  int64_t pageHeads = product({maxPages_, heads, maxSequences_});
  int64_t blocks = product({pageHeads, kParts * kMaxBlocksPerPart});
  int64_t bytes = blockBytes(program_.info.headDim);
  int64_t pageBytes = budget_ - bytesInUse();
  if (budget_ != kUnlimitedBytes)
    blocks = std::min(blocks, pageBytes / bytes);
  if (Status s = keep(BlockPool::create(bytes, blocks), blocks_); !s.ok())
    return s;
  // Every page holds two blocks at least.
  if (Status s = keep(BlockPool::create(program_.slotBytes(),
                                        std::min(pageHeads, blocks / 2)),
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

Status Session::checkPlans(const std::vector<SequencePlan> &plans) const {
  std::vector<bool> seen(maxSequences_, false);
  for (const SequencePlan &plan : plans) {
    std::string name = "sequence " + std::to_string(plan.sequence);
    if (!isSequence(plan.sequence))
      return Status(StatusCode::InvalidArgument,
                    name + "; there are " + std::to_string(maxSequences_));
    if (seen[plan.sequence])
      return Status(StatusCode::InvalidArgument, name + " occurs twice");
    seen[plan.sequence] = true;
    int64_t cached = sequences_[plan.sequence].tokens;
    if (plan.promptTokens < 0 || plan.maxNewTokens < 1)
      return Status(StatusCode::InvalidArgument,
                    name + ": " + std::to_string(plan.promptTokens) +
                        " prompt tokens, " + std::to_string(plan.maxNewTokens) +
                        " new ones; at least 0 and 1 are needed");
    int64_t tokens = sum(cached, plannedTokens(plan));
    if (tokens > maxTokens_)
      return Status(StatusCode::InvalidArgument,
                    name + " would have " + std::to_string(tokens) +
                        " tokens cached; the session is for " +
                        std::to_string(maxTokens_));
  }
  return Status();
}

Status Session::admit(const std::vector<SequencePlan> &plans) const {
  return guarded([&]() -> Status {
    if (Status s = checkPlans(plans); !s.ok())
      return s;
    std::vector<int64_t> tokens(maxSequences_);
    for (int32_t i = 0; i < maxSequences_; ++i)
      tokens[i] = sequences_[i].tokens;
    for (const SequencePlan &plan : plans)
      tokens[plan.sequence] += plannedTokens(plan);
    int64_t pages = 0;
    for (int64_t count : tokens)
      pages += pagesForTokens(count, program_.info.sinkTokens);
    int64_t pageBytes =
        product({program_.info.layers, program_.info.kvHeads,
                 program_.slotBytes() +
                     program_.floorBlocks() * blockBytes(program_.info.headDim),
                 pages});
    int64_t needed = sum(fixedBytes_ + tableBytes_, pageBytes);
    if (needed > budget_)
      return missingBytes(needed, budget_, "the sequences to their end");
    return Status();
  });
}

Status Session::reset(int32_t sequence) {
  if (!isSequence(sequence))
    return Status(StatusCode::InvalidArgument,
                  "sequence " + std::to_string(sequence) + "; there are " +
                      std::to_string(maxSequences_));
  if (Status s = usable(); !s.ok())
    return s;
  const ProgramInfo &info = program_.info;
  for (int32_t layer = 0; layer < info.layers; ++layer)
    for (int32_t head = 0; head < info.kvHeads; ++head)
      for (int32_t page = 0; page < sequences_[sequence].pages; ++page) {
        const PageEntry &old = entry({layer, sequence, head, page});
        for (int32_t part = 0; part < kParts; ++part)
          if (Status s = blocks_.free(old.blocks[part],
                                      blocksAtLevel(old.level[part]));
              !s.ok())
            return breakSession(s);
        if (Status s = slots_.free(&old.slot, 1); !s.ok())
          return breakSession(s);
      }
  sequences_[sequence] = Sequence();
  return Status();
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
      page >= sequences_[sequence].pages)
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
    for (int32_t head = 0; head < program_.info.kvHeads; ++head)
      for (int32_t page = 0; page < sequences_[sequence].pages; ++page)
        ++counts[ladderIndex(entry({layer, sequence, head, page}).level[part])];
  return counts;
}

int64_t Session::tokens(int32_t sequence) const {
  return isSequence(sequence) ? sequences_[sequence].tokens : 0;
}

int32_t Session::pages(int32_t sequence) const {
  return isSequence(sequence) ? sequences_[sequence].pages : 0;
}

int32_t Session::nextToken(int32_t sequence) const {
  return isSequence(sequence) ? sequences_[sequence].next : -1;
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
