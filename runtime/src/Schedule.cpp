//===- Schedule.cpp - Which page is at which level ------------------------===//
//
// The policies `none`, `page`, `keys_last`, `least_loss` and `layer`.
// Neighbours: Schedule.h defines them.
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/Schedule.h"

#include <algorithm>
#include <new>
#include <tuple>
#include <utility>

using namespace pmkvq::rt;

using Levels = PageLevels;

/// The lowest level that both parts may have.
static constexpr uint8_t kLowestOfBoth = kLadder.back();

static Levels atMost(const Levels &a, const Levels &b) {
  return {std::min(a[kKey], b[kKey]), std::min(a[kValue], b[kValue])};
}

/// Where a page stands among all: those of partners follow each other.
static auto placeOf(const PageState *page) {
  return std::make_tuple(page->page, page->sequence, page->layer, page->head);
}

namespace {
/// Floors of single pages: values of a sequence's newest do not fall to level
/// 1, since pages are written above it.
class Floors {
public:
  /// The pages stay where they are.
  Status read(const std::vector<PageState> &pages,
              const ScheduleLimits &limits) {
    limits_ = &limits;
    newest_.clear();
    for (const PageState &page : pages) {
      auto sequence = static_cast<size_t>(page.sequence);
      try {
        if (newest_.size() <= sequence)
          newest_.resize(sequence + 1, -1);
      } catch (const std::bad_alloc &) {
        return Status(StatusCode::OutOfMemory, "no memory to plan levels");
      }
      newest_[sequence] = std::max(newest_[sequence], page.page);
    }
    return Status();
  }

  Levels of(const PageState &page) const {
    Levels floor = limits_->floorOf(page.layer);
    if (page.page == newestOf(page))
      floor[kValue] = std::max(floor[kValue], kLowestOfBoth);
    return floor;
  }

  /// The newest page of the same sequence.
  int32_t newestOf(const PageState &page) const {
    return newest_[static_cast<size_t>(page.sequence)];
  }

private:
  const ScheduleLimits *limits_ = nullptr;
  /// [sequence]
  std::vector<int32_t> newest_;
};
} // namespace

/// Reads the floors.
///
/// Errors: OutOfMemory unless existing pages, lowered to their floor where
/// `mayLower`, and new pages at their floor fit.
static Status checkFits(const std::vector<PageState> &pages, size_t existing,
                        const ScheduleLimits &limits, Floors &floors,
                        bool mayLower) {
  if (Status s = floors.read(pages, limits); !s.ok())
    return s;
  int64_t bytes = 0;
  for (size_t i = 0; i < pages.size(); ++i) {
    Levels level = floors.of(pages[i]);
    if (i < existing)
      level = mayLower ? atMost(pages[i].level, level) : pages[i].level;
    bytes += pageBlockBytes(level, limits.blockBytes);
  }
  if (bytes <= limits.bytesAvailable)
    return Status();
  return Status(StatusCode::OutOfMemory,
                std::to_string(bytes - limits.bytesAvailable) +
                    " bytes are missing: " + std::to_string(pages.size()) +
                    " pages at their lowest levels take " +
                    std::to_string(bytes) + " bytes, " +
                    std::to_string(limits.bytesAvailable) +
                    " are left for them; raise the budget, lower the floor, "
                    "or ask for fewer tokens");
}

namespace {
class NoneSchedule final : public SchedulePolicy {
public:
  Status plan(std::vector<PageState> &pages, size_t existing,
              const ScheduleLimits &limits) const override {
    static thread_local Floors floors;
    if (Status s =
            checkFits(pages, existing, limits, floors, /*mayLower=*/false);
        !s.ok())
      return s;
    for (size_t i = existing; i < pages.size(); ++i)
      pages[i].level = limits.floorOf(pages[i].layer);
    return Status();
  }
  std::vector<PageLevels> pairs(const PageLevels &floor) const override {
    return {floor};
  }
};

/// `page`, and `keys_last`, which differs in the last step of pages.
class PageSchedule final : public SchedulePolicy {
public:
  explicit PageSchedule(bool keysLast) : keysLast_(keysLast) {}
  Status plan(std::vector<PageState> &pages, size_t existing,
              const ScheduleLimits &limits) const override;
  std::vector<PageLevels> pairs(const PageLevels &floor) const override;

private:
  void lower(Levels &level, const Levels &floor) const;
  size_t turnOf(const Levels &level, const Levels &floor) const;

  /// Turns after those of levels 16, 8 and 4.
  static constexpr size_t kKeysTurn = 3, kPairTurn = 4, kTurns = 5;

  bool keysLast_;
};

class LeastLossSchedule final : public SchedulePolicy {
public:
  explicit LeastLossSchedule(std::vector<LayerLosses> losses)
      : losses_(std::move(losses)) {
    // What was measured of few samples may fall from a level to the next; a
    // price below 0 would send the pages that matter most first.
    for (LayerLosses &layer : losses_)
      for (auto &part : layer.level)
        for (size_t i = 1; i < part.size(); ++i)
          part[i] = std::max(part[i], part[i - 1]);
  }
  Status plan(std::vector<PageState> &pages, size_t existing,
              const ScheduleLimits &limits) const override;

private:
  /// The next halving of a page.
  struct Fall {
    /// Loss that it adds, for each bit an element.
    float price;
    Part part;
    PageState *page;
    /// Whose values fall to level 1 with those of `page`; null: none do.
    PageState *partner = nullptr;
    /// For a heap whose first is the next to fall.
    bool operator<(const Fall &other) const {
      auto key = [](const Fall &f) {
        auto place = placeOf(f.page);
        if (f.partner)
          place = std::min(place, placeOf(f.partner));
        return std::make_tuple(f.price, place, f.part);
      };
      return key(*this) > key(other);
    }
  };
  /// What a plan works on, kept as the buckets of PageSchedule are.
  struct State {
    Floors floors;
    /// A heap; a page is in it once.
    std::vector<Fall> falls;
    /// Of each page of the list; empty: no values may fall to level 1.
    std::vector<PageState *> partners;
    std::vector<PageState *> order;
  };
  float price(const PageState &page, Part part, int32_t age) const;
  void push(State &state, PageState &page, PageState *partner) const;
  static void findPartners(State &state, std::vector<PageState> &pages);

  std::vector<LayerLosses> losses_;
};

class LayerSchedule final : public SchedulePolicy {
public:
  Status plan(std::vector<PageState> &pages, size_t existing,
              const ScheduleLimits &limits) const override;
  std::vector<PageLevels> pairs(const PageLevels &floor) const override;
};
} // namespace

/// Halves the parts that are above their floor; a value's step to level 1
/// waits until it is the only one left.
static void lowerOnce(Levels &level, const Levels &floor) {
  const Levels before = level;
  for (int32_t part = 0; part < kParts; ++part)
    if (before[part] > std::max(floor[part], kLowestOfBoth))
      level[part] /= 2;
  if (level == before && level[kValue] > floor[kValue])
    level[kValue] /= 2;
}

static bool isAtFloor(const Levels &level, const Levels &floor) {
  return level[kKey] <= floor[kKey] && level[kValue] <= floor[kValue];
}

/// The levels of a page from 16 bits to its floor, by `lower(level)`.
template <typename Lower>
static std::vector<Levels> descend(const Levels &floor, Lower lower) {
  std::vector<Levels> pairs = {{16, 16}};
  while (!isAtFloor(pairs.back(), floor)) {
    Levels next = pairs.back();
    lower(next);
    pairs.push_back(next);
  }
  return pairs;
}

std::vector<PageLevels> SchedulePolicy::pairs(const PageLevels &floor) const {
  std::vector<PageLevels> pairs;
  for (int32_t key : kLadder)
    for (int32_t value : kValueLadder)
      if (key >= floor[kKey] && value >= floor[kValue])
        pairs.push_back(
            {static_cast<uint8_t>(key), static_cast<uint8_t>(value)});
  return pairs;
}

std::vector<PageLevels> PageSchedule::pairs(const PageLevels &floor) const {
  return descend(floor, [&](Levels &level) { lower(level, floor); });
}

std::vector<PageLevels> LayerSchedule::pairs(const PageLevels &floor) const {
  return descend(floor, [&](Levels &level) { lowerOnce(level, floor); });
}

/// The level by which a page waits its turn: that of its highest part above
/// its floor.  A part that cannot fall does not count, or a page with a high
/// floor for keys would lose all bits of its values before any other page.
static int32_t rank(const Levels &level, const Levels &floor) {
  int32_t highest = 0;
  for (int32_t part = 0; part < kParts; ++part)
    if (level[part] > floor[part])
      highest = std::max<int32_t>(highest, level[part]);
  return highest;
}

/// Whether the next halving of a part leads to the lowest level of both.
static bool isLastStep(const Levels &level, const Levels &floor, Part part) {
  return level[part] / 2 == kLowestOfBoth && level[part] > floor[part];
}

void PageSchedule::lower(Levels &level, const Levels &floor) const {
  if (keysLast_ && isLastStep(level, floor, kKey) &&
      isLastStep(level, floor, kValue))
    level[kValue] /= 2;
  else
    lowerOnce(level, floor);
}

/// When a page's turn comes: the first are those of the highest rank.  After
/// those at 4 it is the turn of keys' last steps, then of values' to level 1.
size_t PageSchedule::turnOf(const Levels &level, const Levels &floor) const {
  if (rank(level, floor) == kLowestOfBoth)
    return kPairTurn;
  if (keysLast_ && isLastStep(level, floor, kKey) &&
      level[kValue] <= std::max(floor[kValue], kLowestOfBoth))
    return kKeysTurn;
  return static_cast<size_t>(ladderIndex(rank(level, floor)));
}

Status PageSchedule::plan(std::vector<PageState> &pages, size_t existing,
                          const ScheduleLimits &limits) const {
  static thread_local Floors floors;
  if (Status s = checkFits(pages, existing, limits, floors, /*mayLower=*/true);
      !s.ok())
    return s;

  // One bucket a level, so that a halving does not look at all pages; a bucket
  // becomes a heap when its turn comes, and only as many pages are taken from
  // it as must fall.  Buckets are kept: a step that plans allocates nothing
  // once its caller's list has grown.
  static thread_local std::array<std::vector<PageState *>, kTurns> buckets;
  int64_t bytes = 0;
  try {
    for (auto &bucket : buckets) {
      bucket.clear();
      bucket.reserve(pages.capacity());
    }
  } catch (const std::bad_alloc &) {
    return Status(StatusCode::OutOfMemory, "no memory to plan levels");
  }
  for (size_t i = 0; i < pages.size(); ++i) {
    if (i >= existing)
      pages[i].level = {16, 16};
    bytes += pageBlockBytes(pages[i].level, limits.blockBytes);
    Levels floor = floors.of(pages[i]);
    if (!isAtFloor(pages[i].level, floor))
      buckets[turnOf(pages[i].level, floor)].push_back(&pages[i]);
  }

  auto later = [](const PageState *a, const PageState *b) {
    return placeOf(a) > placeOf(b);
  };
  for (size_t index = 0;
       index < buckets.size() && bytes > limits.bytesAvailable; ++index) {
    std::vector<PageState *> &bucket = buckets[index];
    std::make_heap(bucket.begin(), bucket.end(), later);
    // Partners follow each other, and one is never left alone.
    for (bool paired = true;
         !bucket.empty() && (bytes > limits.bytesAvailable || !paired);
         paired = index != kPairTurn || !paired) {
      std::pop_heap(bucket.begin(), bucket.end(), later);
      Levels &level = bucket.back()->level;
      Levels floor = floors.of(*bucket.back());
      bytes -= pageBlockBytes(level, limits.blockBytes);
      lower(level, floor);
      bytes += pageBlockBytes(level, limits.blockBytes);
      // Its turn comes later, so it never returns to this bucket.
      if (!isAtFloor(level, floor))
        buckets[turnOf(level, floor)].push_back(bucket.back());
      bucket.pop_back();
    }
  }
  return Status();
}

float LeastLossSchedule::price(const PageState &page, Part part,
                               int32_t age) const {
  const LayerLosses &losses = losses_[static_cast<size_t>(page.layer)];
  const auto &loss = losses.level[part];
  const int32_t level = page.level[part], below = level / 2;
  const int32_t index = ladderIndex(below);
  float added = loss[index - 1] - (level == 16 ? 0 : loss[index - 2]);
  return added * losses.shareOf(page.head, age) / static_cast<float>(below);
}

/// Whether values of both may fall to level 1.
static bool mayPair(const PageState &page, const PageState *partner) {
  return partner && page.level[kValue] == kLowestOfBoth &&
         partner->level[kValue] == kLowestOfBoth;
}

/// Requires: each page is there for all kv heads of all layers, of which there
/// is an even number, as programs with level 1 have it.
void LeastLossSchedule::findPartners(State &state,
                                     std::vector<PageState> &pages) {
  state.order.clear();
  for (PageState &page : pages)
    state.order.push_back(&page);
  std::sort(state.order.begin(), state.order.end(),
            [](const PageState *a, const PageState *b) {
              return placeOf(a) < placeOf(b);
            });
  state.partners.resize(pages.size());
  for (size_t i = 0; i < pages.size(); ++i)
    state.partners[static_cast<size_t>(state.order[i] - pages.data())] =
        state.order[i ^ 1];
}

/// Adds the page's cheapest halving, unless it is at its floor.
void LeastLossSchedule::push(State &state, PageState &page,
                             PageState *partner) const {
  const Levels floor = state.floors.of(page);
  const int32_t age = state.floors.newestOf(page) - page.page;
  const size_t count = state.falls.size();
  auto offer = [&](const Fall &fall) {
    if (state.falls.size() == count)
      state.falls.push_back(fall);
    else if (state.falls.back() < fall)
      state.falls.back() = fall;
  };
  for (Part part : {kKey, kValue})
    if (page.level[part] > std::max(floor[part], kLowestOfBoth))
      offer({price(page, part, age), part, &page});
  if (floor[kValue] < kLowestOfBoth && mayPair(page, partner))
    offer({(price(page, kValue, age) + price(*partner, kValue, age)) / 2,
           kValue, &page, partner});
}

Status LeastLossSchedule::plan(std::vector<PageState> &pages, size_t existing,
                               const ScheduleLimits &limits) const {
  static thread_local State state;
  if (Status s =
          checkFits(pages, existing, limits, state.floors, /*mayLower=*/true);
      !s.ok())
    return s;
  const bool pairs = limits.floor[kValue] < kLowestOfBoth;
  state.falls.clear();
  try {
    state.falls.reserve(pages.capacity());
    if (pairs) {
      state.order.reserve(pages.capacity());
      state.partners.reserve(pages.capacity());
    }
  } catch (const std::bad_alloc &) {
    return Status(StatusCode::OutOfMemory, "no memory to plan levels");
  }
  if (pairs)
    findPartners(state, pages);
  auto partnerOf = [&](const PageState &page) {
    return pairs ? state.partners[static_cast<size_t>(&page - pages.data())]
                 : nullptr;
  };
  int64_t bytes = 0;
  for (size_t i = 0; i < pages.size(); ++i) {
    if (i >= existing)
      pages[i].level = {16, 16};
    bytes += pageBlockBytes(pages[i].level, limits.blockBytes);
  }
  for (PageState &page : pages)
    push(state, page, partnerOf(page));
  std::make_heap(state.falls.begin(), state.falls.end());
  while (!state.falls.empty() && bytes > limits.bytesAvailable) {
    std::pop_heap(state.falls.begin(), state.falls.end());
    Fall fall = state.falls.back();
    state.falls.pop_back();
    // A pair may have fallen by its other half.
    if (!fall.partner || mayPair(*fall.page, fall.partner))
      for (PageState *page : {fall.page, fall.partner})
        if (page) {
          bytes -= pageBlockBytes(page->level, limits.blockBytes);
          page->level[fall.part] /= 2;
          bytes += pageBlockBytes(page->level, limits.blockBytes);
        }
    const size_t count = state.falls.size();
    push(state, *fall.page, partnerOf(*fall.page));
    if (state.falls.size() > count)
      std::push_heap(state.falls.begin(), state.falls.end());
  }
  return Status();
}

/// Bytes that the blocks of a layer's pages may take.
static int64_t layerShare(int32_t layer, int32_t layers,
                          const ScheduleLimits &limits) {
  if (!limits.layerFloor || limits.bytesAvailable == kUnlimitedBytes)
    return limits.layerBytesAvailable;
  int64_t total = 0;
  for (int32_t i = 0; i < layers; ++i)
    total += pageBlockBytes(limits.floorOf(i), 1);
  int64_t own = pageBlockBytes(limits.floorOf(layer), 1);
  // In two parts: the product may leave 64 bits.
  return limits.bytesAvailable / total * own +
         limits.bytesAvailable % total * own / total;
}

/// Levels of [begin, end), the pages of one layer, of which the first
/// `existing` are in the cache already.
///
/// Returns the bytes missing at the floor; 0: the pages fit.
static int64_t planLayer(PageState *const *begin, PageState *const *end,
                         size_t existing, const Levels &floor, int64_t share,
                         const ScheduleLimits &limits) {
  // Old pages differ only where a restored sequence came from a fuller cache.
  Levels level = existing ? Levels{0, 0} : Levels{16, 16};
  for (size_t i = 0; i < existing; ++i)
    for (int32_t part = 0; part < kParts; ++part)
      level[part] = std::max(level[part], begin[i]->level[part]);
  for (PageState *const *page = begin + existing; page != end; ++page)
    (*page)->level = level;
  for (;;) {
    int64_t bytes = 0;
    bool mayFall = false;
    for (PageState *const *page = begin; page != end; ++page) {
      bytes += pageBlockBytes((*page)->level, limits.blockBytes);
      mayFall |= !isAtFloor((*page)->level, floor);
    }
    if (bytes <= share)
      return 0;
    if (!mayFall)
      return bytes - share;
    for (PageState *const *page = begin; page != end; ++page)
      lowerOnce((*page)->level, floor);
  }
}

Status LayerSchedule::plan(std::vector<PageState> &pages, size_t existing,
                           const ScheduleLimits &limits) const {
  // On a copy: one layer may fit where the next does not.  Both lists are kept,
  // as the buckets above.
  static thread_local std::vector<PageState> planned;
  static thread_local std::vector<PageState *> order;
  order.clear();
  try {
    planned.reserve(pages.capacity());
    order.reserve(pages.capacity());
  } catch (const std::bad_alloc &) {
    return Status(StatusCode::OutOfMemory, "no memory to plan levels");
  }
  planned = pages;
  for (PageState &page : planned)
    order.push_back(&page);
  // Layer by layer, each one's old pages first.
  std::sort(order.begin(), order.end(),
            [](const PageState *a, const PageState *b) {
              return std::tie(a->layer, a) < std::tie(b->layer, b);
            });
  const int32_t layers = order.empty() ? 0 : order.back()->layer + 1;
  const PageState *firstNew = planned.data() + existing;
  PageState *const *last = order.data() + order.size();
  for (PageState *const *begin = order.data(); begin != last;) {
    int32_t layer = (*begin)->layer;
    PageState *const *end =
        std::find_if(begin, last, [&](const PageState *page) {
          return page->layer != layer;
        });
    auto old = static_cast<size_t>(std::count_if(
        begin, end, [&](const PageState *page) { return page < firstNew; }));
    const int64_t share = layerShare(layer, layers, limits);
    if (int64_t missing =
            planLayer(begin, end, old, limits.floorOf(layer), share, limits))
      return Status(
          StatusCode::OutOfMemory,
          std::to_string(missing) + " bytes are missing in layer " +
              std::to_string(layer) + ": its " + std::to_string(end - begin) +
              " pages at their lowest levels take " +
              std::to_string(missing + share) + " bytes, its " +
              (limits.layerFloor ? "" : "equal ") +
              "share of the budget leaves " + std::to_string(share) +
              " for them; raise the budget, lower the floor, or ask for fewer "
              "tokens");
    begin = end;
  }
  pages = planned;
  return Status();
}

Result<std::unique_ptr<SchedulePolicy>>
pmkvq::rt::makeSchedulePolicy(int32_t kind, std::vector<LayerLosses> losses) {
  if (kind == kScheduleLeastLoss && losses.empty())
    return Status(StatusCode::InvalidArgument,
                  "schedule 4 (least_loss) needs the losses of all layers");
  SchedulePolicy *policy = nullptr;
  if (kind == kScheduleNone)
    policy = new (std::nothrow) NoneSchedule();
  else if (kind == kSchedulePage)
    policy = new (std::nothrow) PageSchedule(/*keysLast=*/false);
  else if (kind == kScheduleKeysLast)
    policy = new (std::nothrow) PageSchedule(/*keysLast=*/true);
  else if (kind == kScheduleLeastLoss)
    policy = new (std::nothrow) LeastLossSchedule(std::move(losses));
  else if (kind == kScheduleLayer)
    policy = new (std::nothrow) LayerSchedule();
  else
    return Status(StatusCode::Unimplemented,
                  "schedule " + std::to_string(kind) +
                      " is not built; 0 (none), 1 (page), 2 (layer), 3 "
                      "(keys_last) and 4 (least_loss) are; "
                      "give any other to the session as a policy");
  if (!policy)
    return Status(StatusCode::OutOfMemory, "no memory for a schedule");
  return std::unique_ptr<SchedulePolicy>(policy);
}
