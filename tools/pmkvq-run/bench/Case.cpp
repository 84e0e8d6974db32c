//===- Case.cpp - A cache of random content, and its reference ------------===//
//
// Neighbours: Case.h says what the content is.
//
//===----------------------------------------------------------------------===//

#include "Case.h"
#include "Memory.h"
#include "pmkvq/Reference/Attention.h"
#include "pmkvq/Reference/Bits.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>

using namespace pmkvq;
using namespace pmkvq::bench;
namespace rt = ::pmkvq::rt;
using rt::Result;
using rt::Status;
using rt::StatusCode;

/// Raw values and queries are picked from this many drawn beforehand: drawing
/// each of a billion would take longer than all measurements.
static constexpr size_t kDrawn = 4096;

/// splitmix64: fast, and good enough for content.
static uint64_t next(uint64_t &state) {
  state += 0x9e3779b97f4a7c15u;
  uint64_t x = state;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

static double uniform(uint64_t &state, double low, double high) {
  return low + (high - low) * static_cast<double>(next(state) >> 11) * 0x1p-53;
}

/// The pair between the first and `last` that is compared, too.
static int64_t between(int64_t last) { return last * 5 / 8; }

static const std::vector<uint16_t> &drawnValues() {
  static const std::vector<uint16_t> drawn = [] {
    std::mt19937 random(17);
    std::normal_distribution<float> normal(0.3f, 1.2f);
    std::vector<uint16_t> values(kDrawn);
    for (uint16_t &value : values)
      value = reference::floatToBf16(normal(random));
    return values;
  }();
  return drawn;
}

//===----------------------------------------------------------------------===//
// Memory
//===----------------------------------------------------------------------===//

Case::Case(const Problem &problem, Order order)
    : problem_(problem), order_(order), blocks_(problem.counts().blocks),
      slots_(problem.counts().slots) {
  const int64_t headDim = problem.shape.headDim;
  bool anyFixed = false;
  for (const Length &length : problem.lengths) {
    maxPages_ = std::max(maxPages_, length.pages);
    anyFixed |= length.fixedTokens > 0;
    int64_t units = (length.fixedTokens + 15) / 16 * 16;
    bytes_ += problem.shape.kvHeads * rt::kParts * headDim * 2 *
              (order == Order::Device ? units : length.fixedTokens);
  }
  fixedAreas_ = anyFixed ? problem.pairs() : 0;
  int64_t fixedTokens = order == Order::Device
                            ? rt::deviceFixedTokens(kSinkTokens)
                            : kSinkTokens + rt::kPageTokens;
  fixedPartBytes_ = fixedTokens * headDim * 2;
  ImageShape shape = problem.image();
  slotBytes_ = order == Order::Device
                   ? DeviceImage(shape, nullptr, nullptr).slotBytes()
                   : HostImage(shape, nullptr, nullptr).slotBytes();
  bytes_ += blocks_ * rt::blockBytes(headDim) + slots_ * slotBytes_;
}

/// Before anything of it is allocated.
Status Case::checkSize() const {
  int64_t longest = 0;
  for (const Length &length : problem_.lengths)
    longest = std::max(longest, length.tokens());
  // Queries, and twice their results; keys and values that the reference has
  // decoded, and its scores.
  int64_t outputs = problem_.outputs();
  int64_t reference = longest * (rt::kParts * problem_.shape.headDim + 1);
  return checkMemory("the cache, its page table and the reference",
                     slotOffset() + slots_ * slotBytes_ +
                         problem_.pairs() * maxPages_ *
                             static_cast<int64_t>(sizeof(rt::PageEntry)) +
                         (blocks_ + slots_) *
                             static_cast<int64_t>(sizeof(uint32_t)) +
                         3 * outputs * static_cast<int64_t>(sizeof(float)) +
                         reference * static_cast<int64_t>(sizeof(double)));
}

void Case::placePages(uint64_t seed) {
  pages_.resize(static_cast<size_t>(problem_.pairs() * maxPages_));
  for (int64_t pair = 0; pair < problem_.pairs(); ++pair)
    for (int64_t i = 0; i < length(pair).pages; ++i) {
      rt::UnitKind kind = problem_.kindOf(i, length(pair).pages);
      rt::PageEntry &page = pages_[static_cast<size_t>(pair * maxPages_ + i)];
      for (rt::Part part : {rt::kKey, rt::kValue})
        page.level[part] = static_cast<uint8_t>(kind.level(part));
    }
  std::vector<uint32_t> ids(static_cast<size_t>(blocks_)),
      slots(static_cast<size_t>(slots_));
  std::vector<rt::PageEntry *> order;
  for (rt::PageEntry &page : pages_)
    if (page.level[rt::kKey])
      order.push_back(&page);
  std::iota(ids.begin(), ids.end(), 0);
  std::iota(slots.begin(), slots.end(), 0);
  std::mt19937_64 random(seed);
  // Pages lie anywhere.  The host's pool gives a page one run of blocks where
  // it can, the device's makes no such promise.
  std::shuffle(order.begin(), order.end(), random);
  if (order_ == Order::Device)
    std::shuffle(ids.begin(), ids.end(), random);
  else
    std::reverse(ids.begin(), ids.end());
  std::shuffle(slots.begin(), slots.end(), random);
  for (rt::PageEntry *entry : order) {
    rt::PageEntry &page = *entry;
    for (rt::Part part : {rt::kKey, rt::kValue})
      for (int32_t i = 0; i < rt::blocksAtLevel(page.level[part]); ++i) {
        page.blocks[part][i] = ids.back();
        ids.pop_back();
      }
    if (page.level[rt::kKey] == 16 && page.level[rt::kValue] == 16)
      continue;
    page.slot = slots.back();
    slots.pop_back();
  }
}

void Case::fillRaw(uint8_t *at, int64_t bytes, uint64_t &state) const {
  const std::vector<uint16_t> &drawn = drawnValues();
  for (int64_t i = 0; i < bytes; i += 8) {
    uint64_t bits = next(state);
    uint16_t four[4];
    for (uint16_t &value : four) {
      value = drawn[bits % kDrawn];
      bits >>= 12;
    }
    std::memcpy(at + i, four, 8);
  }
}

/// Bits that are set in all codes of a part.  Values around 0 are drawn from
/// the upper half of their range: else outputs cancel, and errors relative to
/// them say little of kernels.
static uint64_t setBits(const Problem &problem, rt::Part part, int32_t level) {
  if (!problem.image().isSymmetric(part))
    return 0;
  return level == 8   ? 0x8080808080808080
         : level == 4 ? 0x8888888888888888
                      : 0xaaaaaaaaaaaaaaaa;
}

void Case::fillBlocks(uint64_t seed) {
  const int64_t bytes = rt::blockBytes(problem_.shape.headDim);
  uint64_t state = seed;
  for (const rt::PageEntry &page : pages_)
    for (rt::Part part : {rt::kKey, rt::kValue})
      for (int32_t i = 0; i < page.level[part] / 2; ++i) {
        uint8_t *block = memory() + page.blocks[part][i] * bytes;
        if (page.level[part] == 16) {
          fillRaw(block, bytes, state);
          continue;
        }
        for (int64_t byte = 0; byte < bytes; byte += 8) {
          uint64_t bits =
              next(state) | setBits(problem_, part, page.level[part]);
          std::memcpy(block + byte, &bits, 8);
        }
      }
  fillRaw(memory() + fixedOffset(0, rt::kKey),
          slotOffset() - fixedOffset(0, rt::kKey), state);
}

template <typename What> void Case::withImage(What what) const {
  ImageShape shape = problem_.image();
  if (order_ == Order::Device)
    what(DeviceImage(shape, memory(), memory() + slotOffset()));
  else
    what(HostImage(shape, memory(), memory() + slotOffset()));
}

void Case::fillParameters(uint64_t seed) {
  ImageShape shape = problem_.image();
  uint64_t state = ~seed;
  const Inputs &inputs = problem_.inputs;
  auto set = [&](auto &image, const rt::PageEntry &page, rt::Part part,
                 int64_t group, Parameter which, double value) {
    int64_t token = shape.perToken[part] ? group : 0;
    int64_t dim = shape.perToken[part] ? 0 : group;
    value *= part == rt::kKey ? inputs.keys : inputs.values;
    if (part == rt::kKey && which == kMinimum)
      value += inputs.keyOffset(group);
    if (inputs.constantGroups && which == kRange && group % 2)
      value = 0;
    image.setParameter(page, part, token, dim, which,
                       reference::floatToHalfDown(static_cast<float>(value)));
  };
  withImage([&](auto image) {
    for (const rt::PageEntry &page : pages_)
      for (rt::Part part : {rt::kKey, rt::kValue}) {
        if (page.level[part] == 0 || page.level[part] == 16)
          continue;
        for (int64_t group = 0; group < shape.groups(part); ++group) {
          set(image, page, part, group, kMinimum,
              part == rt::kKey ? uniform(state, -2.5, -1)
                               : uniform(state, -2.2, -1.2));
          set(image, page, part, group, kRange, uniform(state, 3, 5));
        }
      }
  });
}

//===----------------------------------------------------------------------===//
// Content that is not normal
//===----------------------------------------------------------------------===//

uint16_t Case::fixedValue(int64_t pair, rt::Part part, int64_t token,
                          int64_t dim) const {
  const int64_t headDim = problem_.shape.headDim;
  const uint8_t *area = memory() + fixedOffset(pair, part);
  return order_ == Order::Device
             ? DeviceImage::fixedValue(area, part, headDim, token, dim)
             : HostImage::fixedValue(area, part, headDim, token, dim);
}

void Case::setFixedValue(int64_t pair, rt::Part part, int64_t token,
                         int64_t dim, uint16_t value) {
  const int64_t headDim = problem_.shape.headDim;
  uint8_t *area = memory() + fixedOffset(pair, part);
  if (order_ == Order::Device)
    DeviceImage::setFixedValue(area, part, headDim, token, dim, value);
  else
    HostImage::setFixedValue(area, part, headDim, token, dim, value);
}

/// Replaces every value of a part at 16 bits, in pages and fixed areas.
void Case::changeRaw(
    rt::Part part,
    const std::function<double(int64_t dim, double value)> &change) {
  const int64_t headDim = problem_.shape.headDim;
  auto changed = [&](int64_t dim, uint32_t bits) {
    double value = reference::bf16ToFloat(static_cast<uint16_t>(bits));
    return reference::floatToBf16(static_cast<float>(change(dim, value)));
  };
  withImage([&](auto image) {
    for (const rt::PageEntry &page : pages_)
      for (int64_t token = 0; page.level[part] == 16 && token < rt::kPageTokens;
           ++token)
        for (int64_t dim = 0; dim < headDim; ++dim)
          image.setCode(page, part, token, dim,
                        changed(dim, image.code(page, part, token, dim)));
  });
  for (int64_t pair = 0; pair < fixedAreas_; ++pair)
    for (int64_t token = 0; token < length(pair).fixedTokens; ++token)
      for (int64_t dim = 0; dim < headDim; ++dim)
        setFixedValue(pair, part, token, dim,
                      changed(dim, fixedValue(pair, part, token, dim)));
}

/// One number of the first pair's first query, and of a raw key and a raw value
/// of the other pairs that are compared.
void Case::plantNotNumbers() {
  queries_[3] = std::numeric_limits<float>::quiet_NaN();
  constexpr uint16_t nan = 0x7fc0;
  int64_t last = problem_.pairs() - 1;
  if (fixedAreas_) {
    setFixedValue(between(last), rt::kKey, 0, 7, nan);
    setFixedValue(last, rt::kValue, 0, 5, nan);
  }
}

Result<Case> Case::create(const Problem &problem, Order order, uint64_t seed) {
  if (order == Order::Device &&
      problem.format[rt::kValue].axis != reference::Axis::PerToken)
    return Status(StatusCode::Unimplemented,
                  "values with parameters per channel: on a GPU they are per "
                  "token; use --value-format=per_token");
  Case made(problem, order);
  if (Status status = made.checkSize(); !status.ok())
    return status;
  made.placePages(seed);
  Result<rt::Arena> memory =
      rt::Arena::reserve(made.slotOffset() + made.slots_ * made.slotBytes_);
  if (!memory.ok())
    return memory.status();
  made.memory_ = std::move(*memory);
  made.fillBlocks(seed);
  made.fillParameters(seed);
  made.queries_.resize(static_cast<size_t>(problem.outputs()));
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  const Inputs &inputs = problem.inputs;
  for (float &query : made.queries_)
    query = normal(random) * static_cast<float>(inputs.queries);
  if (inputs.keys != 1 || inputs.outlier != 0)
    made.changeRaw(rt::kKey, [&](int64_t dim, double value) {
      return value * inputs.keys + inputs.keyOffset(dim);
    });
  if (double by = problem.isRaw() ? inputs.rawValues : inputs.values; by != 1)
    made.changeRaw(rt::kValue,
                   [by](int64_t, double value) { return value * by; });
  if (inputs.notNumbers)
    made.plantNotNumbers();
  return made;
}

//===----------------------------------------------------------------------===//
// Reference
//===----------------------------------------------------------------------===//

/// Values of one part of a page, in the basis that it is stored in.
template <Order order>
static void decodePage(const CacheImage<order> &image,
                       const reference::UniformFormat &format,
                       const rt::PageEntry &page, rt::Part part,
                       std::vector<double> &all) {
  int32_t level = page.level[part];
  for (int64_t token = 0; token < rt::kPageTokens; ++token)
    for (int64_t dim = 0; dim < image.shape().headDim; ++dim) {
      uint32_t code = image.code(page, part, token, dim);
      if (level == 16) {
        all.push_back(reference::bf16ToFloat(static_cast<uint16_t>(code)));
        continue;
      }
      double minimum = reference::halfToFloat(
          image.parameter(page, part, token, dim, kMinimum));
      double range = reference::halfToFloat(
          image.parameter(page, part, token, dim, kRange));
      all.push_back(reference::decodeCode(format, minimum, range, code, level));
    }
}

std::vector<double> Case::elements(int64_t pair, rt::Part part) const {
  const int64_t headDim = problem_.shape.headDim;
  std::vector<double> all;
  all.reserve(static_cast<size_t>(length(pair).tokens() * headDim));
  withImage([&](const auto &image) {
    for (int64_t i = 0; i < length(pair).pages; ++i)
      decodePage(image, problem_.format[part], page(pair, i), part, all);
  });
  for (int64_t token = 0; token < length(pair).fixedTokens; ++token)
    for (int64_t dim = 0; dim < headDim; ++dim)
      all.push_back(reference::bf16ToFloat(fixedValue(pair, part, token, dim)));
  return all;
}

void Case::addReference(int64_t pair) {
  const int64_t headDim = problem_.shape.headDim;
  std::vector<double> keys = elements(pair, rt::kKey);
  std::vector<double> values = elements(pair, rt::kValue);
  reference::Rotations rotations;
  if (order_ == Order::Host)
    rotations = {problem_.format[rt::kKey].hadamard,
                 problem_.format[rt::kValue].hadamard};
  std::vector<double> output(static_cast<size_t>(headDim));
  for (int64_t row = 0; row < problem_.rows; ++row) {
    const int64_t queries = problem_.queryPair(pair, row);
    const int64_t visible = length(pair).tokens() - (problem_.rows - 1 - row);
    for (int64_t query = 0; query < problem_.group(); ++query) {
      auto first =
          queries_.begin() + (queries * problem_.group() + query) * headDim;
      std::vector<double> q(first, first + headDim);
      reference::attend(q.data(), keys.data(), values.data(), visible, headDim,
                        problem_.scale(), rotations, output.data());
      reference_.insert(reference_.end(), output.begin(), output.end());
    }
    referencePairs_.push_back(queries);
  }
}

/// The queries' results of a row and kv head, null if they are not compared.
const double *Case::referenceOf(int64_t queryPair) const {
  auto found =
      std::find(referencePairs_.begin(), referencePairs_.end(), queryPair);
  if (found == referencePairs_.end())
    return nullptr;
  return reference_.data() + (found - referencePairs_.begin()) *
                                 problem_.group() * problem_.shape.headDim;
}

Status Case::checkNumbers(const std::vector<float> &results) const {
  auto perPair = static_cast<size_t>(problem_.group() * problem_.shape.headDim);
  for (size_t i = 0; i < results.size(); ++i) {
    const double *expected = referenceOf(static_cast<int64_t>(i / perPair));
    bool isNumber = std::isfinite(results[i]);
    if (isNumber == (!expected || std::isfinite(expected[i % perPair])))
      continue;
    std::string which =
        std::to_string(i) + " of " + std::to_string(results.size());
    return {StatusCode::Internal,
            isNumber
                ? "attention made a number of what is none in result " + which
                : "attention left result " + which +
                      " unwritten or not a number"};
  }
  return {};
}

Result<Errors> Case::compare(const std::vector<float> &results) {
  int64_t last = problem_.pairs() - 1;
  if (referencePairs_.empty())
    for (int64_t pair : {int64_t(0), last, between(last)})
      if (!referenceOf(problem_.queryPair(pair, 0)))
        addReference(pair);
  if (Status status = checkNumbers(results); !status.ok())
    return status;
  const auto headDim = static_cast<size_t>(problem_.shape.headDim);
  const size_t rows = referencePairs_.size() * problem_.group();
  double wrong = 0, right = 0, largest = 0;
  for (size_t row = 0; row < rows; ++row) {
    size_t group = static_cast<size_t>(problem_.group());
    const double *expected = reference_.data() + row * headDim;
    const float *actual =
        results.data() +
        (static_cast<size_t>(referencePairs_[row / group]) * group +
         row % group) *
            headDim;
    double squares = 0, apart = 0;
    for (size_t d = 0; d < headDim; ++d) {
      if (!std::isfinite(expected[d]))
        continue;
      double difference = actual[d] - expected[d];
      squares += expected[d] * expected[d];
      wrong += difference * difference;
      apart = std::max(apart, std::abs(difference));
    }
    right += squares;
    if (squares > 0)
      largest = std::max(
          largest, apart / std::sqrt(squares / static_cast<double>(headDim)));
  }
  return Errors{std::sqrt(wrong / right), largest};
}
