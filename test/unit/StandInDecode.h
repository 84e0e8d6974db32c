//===- StandInDecode.h - Decode attention as the ABI says it ----*- C++ -*-===//
//
// What a decode kernel must do with its DecodeArgs, one thread block after the
// other in double precision: the host's side of the interface is right if this
// gives the reference's results.  Neighbours: DeviceAbi.h, FragmentLayout.h,
// BenchDeviceTest.cpp.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TEST_UNIT_STANDINDECODE_H
#define PMKVQ_TEST_UNIT_STANDINDECODE_H

#include "bench/Shape.h"
#include "pmkvq/Reference/Bits.h"
#include "pmkvq/Reference/Quantize.h"
#include "pmkvq/Target/FragmentLayout.h"
#include "pmkvq/Target/SlotLayout.h"
#include "pmkvq_rt/Abi.h"
#include "pmkvq_rt/DeviceAbi.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace pmkvq::test {

/// What a kernel's work lists are of.
enum class Entries { Units, Pages, FallingUnits };

/// A decode kernel for one problem.
class StandInDecode {
public:
  /// `rows`: what a segment may have; `takesPages`: of pages, not of units.
  StandInDecode(const bench::Problem &problem, int64_t rows,
                bool takesPages = false)
      : StandInDecode(problem, rows,
                      takesPages ? Entries::Pages : Entries::Units) {}
  StandInDecode(const bench::Problem &problem, int64_t rows, Entries entries)
      : problem(problem), headDim(problem.shape.headDim),
        group(problem.group()), rows(rows),
        takesPages(entries == Entries::Pages),
        lowers(entries == Entries::FallingUnits),
        keysPerToken(problem.image().perToken[rt::kKey]) {}

  void run(const rt::DecodeArgs &arguments, unsigned blocks) const {
    for (unsigned block = 0; block < blocks; ++block) {
      const uint8_t *row = arguments.work + size_t(block) * arguments.rowBytes;
      auto header = read<rt::WorkHeader>(row);
      const uint8_t *unit = row + sizeof(rt::WorkHeader) +
                            arguments.segmentsPerRow * sizeof(rt::WorkSegment);
      for (uint32_t i = 0; i < header.segments; ++i) {
        auto segment = read<rt::WorkSegment>(row + sizeof(rt::WorkHeader) +
                                             i * sizeof(rt::WorkSegment));
        runSegment(arguments, segment, unit);
        unit += segment.units * entryBytes();
      }
    }
  }

private:
  size_t entryBytes() const {
    return takesPages ? sizeof(rt::PrefillPage)
           : lowers   ? sizeof(rt::LoweringTask)
                      : sizeof(rt::UnitTask);
  }

  /// Softmax state of one query.
  struct State {
    double max = -INFINITY, sum = 0;
    std::vector<double> output;
  };

  template <typename T> static T read(const uint8_t *at) {
    T value;
    std::memcpy(&value, at, sizeof(T));
    return value;
  }

  /// One side's value at (token, dim) of a unit.
  double decode(const rt::DecodeArgs &arguments, const rt::UnitTask &unit,
                rt::Part part, int64_t token, int64_t dim) const {
    auto kind = rt::UnitKind::fromIndex(static_cast<int32_t>(unit.info & 0xff));
    int32_t level = kind.level(part);
    const uint8_t *codes =
        arguments.codes + int64_t(part == rt::kKey ? unit.key : unit.value) *
                              rt::kDeviceGrainBytes;
    // A part of a grain lies where its tokens lie in all of it.
    if (kind.copiedTokens(part) > kind.tokens() &&
        (unit.info & rt::UnitTask::kSecondHalf))
      token += kind.tokens();
    FragmentLayout layout{part, level, kind.copiedTokens(part), headDim};
    FragmentLayout::Place place = layout.place(token, dim);
    if (level == 16)
      return reference::bf16ToFloat(read<uint16_t>(codes + place.byte));
    uint32_t code = codes[place.byte] >> place.bit & ((1u << level) - 1);
    return dequantize(arguments, unit.slot, part, level, code,
                      (unit.info >> 16 & 0xff) * rt::kUnitGrain + token, dim);
  }

  /// Stores the sides of a unit that fall.
  void lower(const rt::DecodeArgs &arguments,
             const rt::LoweringTask &task) const {
    auto kind =
        rt::UnitKind::fromIndex(static_cast<int32_t>(task.unit.info & 0xff));
    auto *codes = const_cast<uint8_t *>(arguments.codes);
    for (rt::Part part : {rt::kKey, rt::kValue}) {
      if (!(task.unit.info & rt::UnitTask::falls(part)))
        continue;
      int32_t level = kind.level(part);
      FragmentLayout from{part, level, kind.tokens(), headDim},
          to{part, level / 2, kind.tokens(), headDim};
      const uint8_t *source =
          codes + int64_t(part == rt::kKey ? task.unit.key : task.unit.value) *
                      rt::kDeviceGrainBytes;
      uint8_t *target =
          codes + int64_t(task.lowered[part]) * rt::kDeviceGrainBytes;
      for (int64_t token = 0; token < kind.tokens(); ++token)
        for (int64_t dim = 0; dim < headDim; ++dim) {
          FragmentLayout::Place old = from.place(token, dim),
                                now = to.place(token, dim);
          uint32_t code = source[old.byte] >> old.bit & ((1u << level) - 1);
          uint32_t mask = ((1u << to.level) - 1) << now.bit;
          uint32_t low =
              reference::lowerCode(problem.format[part], code, level);
          target[now.byte] =
              static_cast<uint8_t>((target[now.byte] & ~mask) | low << now.bit);
        }
    }
  }

  /// The same of a page.
  double decode(const rt::DecodeArgs &arguments, const rt::PrefillPage &page,
                rt::Part part, int64_t token, int64_t dim) const {
    auto kind = rt::UnitKind::fromIndex(static_cast<int32_t>(page.info & 0xff));
    int32_t level = kind.level(part);
    FragmentLayout layout{part, level, rt::kPageTokens, headDim};
    FragmentLayout::Place place = layout.place(token, dim);
    int64_t blockBytes = rt::blockBytes(headDim);
    const uint8_t *at = arguments.codes +
                        int64_t(page.blocks[part][place.byte / blockBytes]) *
                            rt::kDeviceGrainBytes +
                        place.byte % blockBytes;
    if (level == 16)
      return reference::bf16ToFloat(read<uint16_t>(at));
    uint32_t code = *at >> place.bit & ((1u << level) - 1);
    return dequantize(arguments, page.slot, part, level, code, token, dim);
  }

  /// What a code of a token of a page stands for.
  double dequantize(const rt::DecodeArgs &arguments, uint32_t number,
                    rt::Part part, int32_t level, uint32_t code, int64_t token,
                    int64_t dim) const {
    const uint8_t *slot =
        arguments.parameters +
        int64_t(number) * deviceSlotBytes(headDim, keysPerToken);
    bool perToken = part == rt::kValue || keysPerToken;
    if (part == rt::kValue)
      slot += deviceValueParameters(headDim, keysPerToken);
    double parameters[2];
    for (int32_t which : {0, 1}) {
      int64_t index = perToken
                          ? ParameterLayout::perToken(token, which)
                          : ParameterLayout::perChannel(dim, which, headDim);
      parameters[which] =
          reference::halfToFloat(read<uint16_t>(slot + index * 2));
    }
    return reference::decodeCode(problem.format[part], parameters[0],
                                 parameters[1], code, level);
  }

  /// Queries or results of a segment's row.
  int64_t rowOffset(const rt::WorkSegment &segment, int64_t row) const {
    return (segment.pair + row * problem.shape.kvHeads) * group * headDim;
  }

  void runUnit(const rt::DecodeArgs &arguments, const rt::WorkSegment &segment,
               const rt::UnitTask &unit, std::vector<State> &states) const {
    auto kind = rt::UnitKind::fromIndex(static_cast<int32_t>(unit.info & 0xff));
    bool isRaw = kind == rt::UnitKind{16, 16};
    auto counted = static_cast<int8_t>(unit.info >> 8 & 0xff);
    addTokens(
        arguments, segment, unit, kind.tokens(), states,
        [&](int64_t row) { return isRaw ? counted + row : kind.tokens(); });
  }

  void runPage(const rt::DecodeArgs &arguments, const rt::WorkSegment &segment,
               const rt::PrefillPage &page, std::vector<State> &states) const {
    auto counted = static_cast<int64_t>(page.info >> 8);
    addTokens(arguments, segment, page, counted, states, [&](int64_t row) {
      return std::min(counted, row - page.first + 1);
    });
  }

  /// Adds the first `tokens` tokens of a unit or a page, of which a row sees
  /// `visible`.
  template <typename Entry, typename Visible>
  void addTokens(const rt::DecodeArgs &arguments,
                 const rt::WorkSegment &segment, const Entry &entry,
                 int64_t tokens, std::vector<State> &states,
                 Visible visible) const {
    std::vector<double> key(headDim), value(headDim);
    for (int64_t token = 0; token < tokens; ++token) {
      for (int64_t dim = 0; dim < headDim; ++dim) {
        key[dim] = decode(arguments, entry, rt::kKey, token, dim);
        value[dim] = decode(arguments, entry, rt::kValue, token, dim);
      }
      for (size_t i = 0; i < states.size(); ++i) {
        auto row = static_cast<int64_t>(i) / group;
        if (token >= visible(row))
          continue;
        const float *query = arguments.queries + rowOffset(segment, row) +
                             static_cast<int64_t>(i) % group * headDim;
        double score = 0;
        for (int64_t dim = 0; dim < headDim; ++dim)
          score += query[dim] * key[dim];
        add(states[i], score * problem.scale(), 1, value.data());
      }
    }
  }

  /// Adds `sum` tokens of the given maximal score and weighted output.
  void add(State &state, double max, double sum, const double *output) const {
    if (sum == 0)
      return;
    double most = std::max(state.max, max);
    double old = std::exp(state.max - most), fresh = std::exp(max - most);
    state.sum = state.sum * old + sum * fresh;
    for (int64_t dim = 0; dim < headDim; ++dim)
      state.output[dim] = state.output[dim] * old + output[dim] * fresh;
    state.max = most;
  }

  std::vector<State> fresh(const rt::WorkSegment &segment) const {
    State state;
    state.output.assign(headDim, 0.0);
    return std::vector<State>((segment.moreRows + 1) * group, state);
  }

  void write(const rt::DecodeArgs &arguments, const rt::WorkSegment &segment,
             const std::vector<State> &states) const {
    for (size_t i = 0; i < states.size(); ++i) {
      auto query = static_cast<int64_t>(i);
      float *results = arguments.results + rowOffset(segment, query / group) +
                       query % group * headDim;
      for (int64_t dim = 0; dim < headDim; ++dim)
        results[dim] =
            static_cast<float>(states[i].output[dim] / states[i].sum);
    }
  }

  void runSegment(const rt::DecodeArgs &arguments,
                  const rt::WorkSegment &segment, const uint8_t *unit) const {
    std::vector<State> states = fresh(segment);
    for (uint32_t i = 0; i < segment.units; ++i, unit += entryBytes()) {
      if (takesPages)
        runPage(arguments, segment, read<rt::PrefillPage>(unit), states);
      else
        runUnit(arguments, segment, read<rt::UnitTask>(unit), states);
      if (lowers)
        lower(arguments, read<rt::LoweringTask>(unit));
    }
    if (segment.shares == 1)
      return write(arguments, segment, states);
    // Its own layout, within what a kernel may use.
    int64_t floats = rt::devicePartialBytes(rows * group, headDim) / 4;
    float *partials = reinterpret_cast<float *>(arguments.partials) +
                      segment.partial * floats;
    store(partials + segment.share * floats, states);
    // Rows run in their order: the last share's merges all.
    if (segment.share + 1 < segment.shares)
      return;
    states = fresh(segment);
    for (uint16_t share = 0; share < segment.shares; ++share)
      load(partials + share * floats, states);
    write(arguments, segment, states);
  }

  void store(float *partial, const std::vector<State> &states) const {
    for (const State &state : states) {
      *partial++ = static_cast<float>(state.max);
      *partial++ = static_cast<float>(state.sum);
      for (double value : state.output)
        *partial++ = static_cast<float>(value);
    }
  }

  void load(const float *partial, std::vector<State> &states) const {
    for (State &state : states) {
      std::vector<double> output(partial + 2, partial + 2 + headDim);
      add(state, partial[0], partial[1], output.data());
      partial += 2 + headDim;
    }
  }

  const bench::Problem &problem;
  int64_t headDim, group, rows;
  bool takesPages, lowers, keysPerToken;
};

} // namespace pmkvq::test

#endif // PMKVQ_TEST_UNIT_STANDINDECODE_H
