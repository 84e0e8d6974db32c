//===- Cache.cpp - The executable model of the cache ----------------------===//
//
// A step in the order check, plan, prepare, commit, store: nothing is written
// before everything that can fail has succeeded.  Neighbours: Cache.h.
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Reference/Cache.h"
#include "pmkvq/Reference/Bits.h"
#include "pmkvq/Reference/Hadamard.h"

#include <algorithm>

namespace pmkvq::reference {

using rt::kPageTokens;
using rt::kParts;
using rt::Status;
using rt::StatusCode;

//===----------------------------------------------------------------------===//
// Creation
//===----------------------------------------------------------------------===//

namespace {

Status invalid(std::string message) {
  return Status(StatusCode::InvalidArgument, std::move(message));
}

Status checkOptions(const CacheOptions &options) {
  const CacheShape &shape = options.shape;
  if (shape.layers < 1 || shape.sequences < 1 || shape.kvHeads < 1 ||
      shape.headDim < 1 || shape.sinkTokens < 0 || shape.maxTokens < 0)
    return invalid("a dimension of the cache is not positive");
  for (int32_t part = 0; part < kParts; ++part) {
    if (!rt::isLevelOf(static_cast<rt::Part>(part),
                       options.schedule.floor[part]))
      return invalid("a floor is not 16, 8, 4 or 2, or 1 for values");
    Status status = validateFormat(options.formats[part]);
    if (!status.ok())
      return status;
    status = validateGroup(options.formats[part], shape.headDim);
    if (!status.ok())
      return status;
  }
  if (options.schedule.floor[rt::kValue] == 1 &&
      (shape.layers * shape.kvHeads % 2 ||
       (options.schedule.kind != ScheduleKind::Page &&
        options.schedule.kind != ScheduleKind::KeysLast)))
    return invalid("values fall to 1 bit in pairs, under the schedules page "
                   "and keys-last");
  if (options.schedule.budgetBytes < 0)
    return invalid("the budget is negative");
  return {};
}

StepResult outOfMemory(int64_t missingBytes) {
  return {Status(StatusCode::OutOfMemory, "the budget is short of " +
                                              std::to_string(missingBytes) +
                                              " bytes"),
          missingBytes};
}

} // namespace

Cache::Cache(const CacheOptions &options)
    : options_(options),
      streams_(int64_t(options.shape.layers) * options.shape.sequences *
               options.shape.kvHeads),
      tokens_(options.shape.sequences, 0), levels_(options.shape) {}

StepResult Cache::create(const CacheOptions &options,
                         std::unique_ptr<Cache> &cache) {
  Status status = checkOptions(options);
  if (!status.ok())
    return {status, 0};
  CacheOptions complete = options;
  for (int32_t part = 0; part < kParts; ++part)
    complete.shape.parameterBytes[part] = static_cast<int32_t>(
        parameterBytes(options.formats[part], options.shape.headDim));
  PageLevels empty(complete.shape);
  PlanResult plan = planLevels(complete.shape, complete.schedule, empty);
  if (!plan.fits())
    return outOfMemory(plan.missingBytes);
  cache.reset(new Cache(complete));
  return {};
}

//===----------------------------------------------------------------------===//
// Queries
//===----------------------------------------------------------------------===//

int64_t Cache::streamIndex(int32_t layer, int32_t sequence,
                           int32_t head) const {
  return (int64_t(layer) * shape().sequences + sequence) * shape().kvHeads +
         head;
}

bool Cache::windowIsFull(int32_t sequence) const {
  return tokens_[sequence] ==
         shape().sinkTokens + (pages(sequence) + 1) * kPageTokens;
}

int64_t Cache::room(int32_t sequence) const {
  if (windowIsFull(sequence))
    return kPageTokens;
  return shape().sinkTokens + (pages(sequence) + 1) * kPageTokens -
         tokens_[sequence];
}

int64_t Cache::bytes() const {
  return totalBytes(shape(), schedule(), levels_);
}

std::vector<double> Cache::decode(int32_t layer, int32_t sequence, int32_t head,
                                  int32_t part) const {
  const Stream &from = stream(layer, sequence, head);
  const std::vector<uint16_t> &fixed = from.fixed[part];
  int64_t sinkValues =
      std::min<int64_t>(shape().sinkTokens, tokens_[sequence]) *
      shape().headDim;
  std::vector<double> result;
  result.reserve(tokens_[sequence] * shape().headDim);
  for (int64_t i = 0; i < sinkValues; ++i)
    result.push_back(bf16ToFloat(fixed[i]));
  for (const PageHead &page : from.pages) {
    std::vector<double> decoded =
        decodePart(format(part), shape().headDim, page[part]);
    result.insert(result.end(), decoded.begin(), decoded.end());
  }
  for (size_t i = sinkValues; i < fixed.size(); ++i)
    result.push_back(bf16ToFloat(fixed[i]));
  return result;
}

//===----------------------------------------------------------------------===//
// A step
//===----------------------------------------------------------------------===//

StepResult Cache::append(const std::vector<SequenceTokens> &step) {
  Status status = checkStep(step);
  if (!status.ok())
    return {status, 0};

  PageLevels planned = levels_;
  for (const SequenceTokens &part : step)
    if (windowIsFull(part.sequence))
      planned.addPage(part.sequence, initialLevel(schedule()));
  PlanResult plan = planLevels(shape(), schedule(), planned);
  if (!plan.fits())
    return outOfMemory(plan.missingBytes);

  std::vector<Change> changes;
  status = makeChanges(planned, changes);
  if (!status.ok())
    return {status, 0};
  commit(planned, changes);
  for (const SequenceTokens &part : step)
    store(part);
  return {};
}

Status Cache::checkStep(const std::vector<SequenceTokens> &step) const {
  std::vector<bool> seen(shape().sequences, false);
  for (const SequenceTokens &part : step) {
    if (part.sequence < 0 || part.sequence >= shape().sequences)
      return invalid("no sequence " + std::to_string(part.sequence));
    if (seen[part.sequence])
      return invalid("sequence " + std::to_string(part.sequence) +
                     " occurs twice in a step");
    seen[part.sequence] = true;
    if (part.tokens < 1 || part.tokens > room(part.sequence))
      return invalid("a step appends " + std::to_string(part.tokens) +
                     " tokens, expected 1 to " +
                     std::to_string(room(part.sequence)));
    if (tokens_[part.sequence] + part.tokens > shape().maxTokens)
      return invalid("a sequence would exceed its maximum of " +
                     std::to_string(shape().maxTokens) + " tokens");
  }
  return {};
}

PageHead Cache::windowAsPage(const Stream &from) const {
  PageHead page;
  for (int32_t part = 0; part < kParts; ++part)
    page[part].values.assign(from.fixed[part].begin() +
                                 int64_t{shape().sinkTokens} * shape().headDim,
                             from.fixed[part].end());
  return page;
}

Status Cache::makeChanges(const PageLevels &planned,
                          std::vector<Change> &changes) const {
  for (int32_t layer = 0; layer < shape().layers; ++layer)
    for (int32_t sequence = 0; sequence < shape().sequences; ++sequence)
      for (int32_t head = 0; head < shape().kvHeads; ++head)
        for (int64_t page = 0; page < planned.pages(sequence); ++page) {
          bool isNew = page >= pages(sequence);
          int32_t level = planned.at(sequence, page, layer, head);
          if (!isNew && level == levels_.at(sequence, page, layer, head))
            continue;
          const Stream &from = stream(layer, sequence, head);
          Change change{layer, sequence, head, page,
                        isNew ? windowAsPage(from) : from.pages[page]};
          for (int32_t part = 0; part < kParts; ++part) {
            Status status = lowerPart(format(part), shape().headDim,
                                      partLevel(schedule(), level, part),
                                      change.content[part]);
            if (!status.ok())
              return status;
          }
          changes.push_back(std::move(change));
        }
  return {};
}

void Cache::commit(const PageLevels &planned, std::vector<Change> &changes) {
  for (Change &change : changes) {
    Stream &to = stream(change.layer, change.sequence, change.head);
    if (change.page < static_cast<int64_t>(to.pages.size())) {
      to.pages[change.page] = std::move(change.content);
      continue;
    }
    to.pages.push_back(std::move(change.content));
    for (std::vector<uint16_t> &fixed : to.fixed)
      fixed.resize(size_t(shape().sinkTokens) * shape().headDim);
  }
  levels_ = planned;
}

void Cache::store(const SequenceTokens &tokens) {
  int64_t headDim = shape().headDim;
  std::vector<double> vector(headDim);
  for (int32_t layer = 0; layer < shape().layers; ++layer)
    for (int32_t head = 0; head < shape().kvHeads; ++head)
      for (int32_t part = 0; part < kParts; ++part) {
        const float *source = part == rt::kKey ? tokens.keys : tokens.values;
        source +=
            (int64_t(layer) * shape().kvHeads + head) * tokens.tokens * headDim;
        std::vector<uint16_t> &fixed =
            stream(layer, tokens.sequence, head).fixed[part];
        for (int64_t token = 0; token < tokens.tokens; ++token) {
          vector.assign(source + token * headDim,
                        source + (token + 1) * headDim);
          if (format(part).hadamard)
            rotate(vector.data(), headDim);
          for (double x : vector)
            fixed.push_back(floatToBf16(static_cast<float>(x)));
        }
      }
  tokens_[tokens.sequence] += tokens.tokens;
}

} // namespace pmkvq::reference
