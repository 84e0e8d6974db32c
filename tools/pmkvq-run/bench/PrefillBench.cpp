//===- PrefillBench.cpp - Chunked prefill measured on a GPU ---------------===//
//
// Neighbours: PrefillBench.h has the method.
//
//===----------------------------------------------------------------------===//

#include "PrefillBench.h"
#include "DecodeRuns.h"
#include "DeviceTiming.h"
#include "pmkvq/Reference/Attention.h"
#include "pmkvq/Reference/Bits.h"
#include "pmkvq_rt/PrefillList.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <set>

using namespace pmkvq;
using namespace pmkvq::bench;
namespace rt = ::pmkvq::rt;
namespace cuda = ::pmkvq::rt::cuda;
using rt::Result;
using rt::Status;
using rt::StatusCode;

namespace {
/// A cache, and chunks of new tokens beside it.
class Chunks {
public:
  static Result<Chunks> create(const Problem &problem, int64_t chunkTokens);

  const Problem &problem() const { return content.problem(); }
  int64_t rows() const { return problem().shape.batch * chunkTokens; }
  int64_t operations() const;

  Case content;
  rt::PrefillList list;
  /// The pool, then the chunks' keys and values of each pair.
  std::vector<uint8_t> memory;
  /// [rows][queryHeads][headDim]
  std::vector<float> queries;
  int64_t chunkTokens;

  Result<Errors> compare(const std::vector<float> &results) const;

private:
  Chunks(Case content, int64_t chunkTokens)
      : content(std::move(content)),
        list(this->content.problem().shape.headDim), chunkTokens(chunkTokens) {}
  int64_t partBytes() const {
    return (chunkTokens + 15) / 16 * 16 * problem().shape.headDim * 2;
  }
  int64_t chunkOffset(int64_t pair, rt::Part part) const {
    int64_t grain = rt::kDeviceGrainBytes;
    int64_t start = (content.memoryBytes() + grain - 1) / grain * grain;
    return start + (pair * rt::kParts + part) * partBytes();
  }
  void fill();
  Status makeList();
  std::vector<double> elements(int64_t pair, rt::Part part) const;
};
} // namespace

//===----------------------------------------------------------------------===//
// Inputs
//===----------------------------------------------------------------------===//

Result<Chunks> Chunks::create(const Problem &problem, int64_t chunkTokens) {
  Result<Case> content = Case::create(problem, Order::Device, /*seed=*/1234);
  if (!content.ok())
    return content.status();
  Chunks made(std::move(*content), chunkTokens);
  made.fill();
  if (Status status = made.makeList(); !status.ok())
    return status;
  return made;
}

void Chunks::fill() {
  const Shape &shape = problem().shape;
  memory.resize(static_cast<size_t>(chunkOffset(problem().pairs(), rt::kKey)));
  std::memcpy(memory.data(), content.memory(),
              static_cast<size_t>(content.memoryBytes()));
  std::mt19937_64 random(99);
  std::normal_distribution<float> normal;
  const Inputs &inputs = problem().inputs;
  const float by[] = {static_cast<float>(inputs.keys),
                      static_cast<float>(inputs.values)};
  for (int64_t pair = 0; pair < problem().pairs(); ++pair)
    for (rt::Part part : {rt::kKey, rt::kValue})
      for (int64_t token = 0; token < chunkTokens; ++token)
        for (int64_t dim = 0; dim < shape.headDim; ++dim)
          DeviceImage::setFixedValue(
              memory.data() + chunkOffset(pair, part), part, shape.headDim,
              token, dim,
              reference::floatToBf16(by[part] *
                                     (0.3f + 1.2f * normal(random))));
  queries.resize(
      static_cast<size_t>(rows() * shape.queryHeads * shape.headDim));
  for (float &query : queries)
    query = normal(random) * static_cast<float>(inputs.queries);
}

Status Chunks::makeList() {
  for (int64_t pair = 0; pair < problem().pairs(); ++pair) {
    const int64_t heads = problem().shape.kvHeads;
    const Length &length = content.length(pair);
    list.startPair(static_cast<uint32_t>(pair % heads));
    for (int64_t page = 0; page < length.pages; ++page)
      if (Status status = list.addPage(content.page(pair, page), 0);
          !status.ok())
        return status;
    const Status steps[] = {
        list.addRaw(content.fixedOffset(pair, rt::kKey),
                    content.fixedOffset(pair, rt::kValue), length.fixedTokens),
        list.addChunk(chunkOffset(pair, rt::kKey),
                      chunkOffset(pair, rt::kValue), chunkTokens),
        list.addTasks(pair / heads * chunkTokens, chunkTokens,
                      problem().group())};
    for (const Status &status : steps)
      if (!status.ok())
        return status;
  }
  list.sortTasks();
  return {};
}

int64_t Chunks::operations() const {
  int64_t seen = 0;
  for (const Length &length : problem().lengths)
    seen += chunkTokens * length.tokens() + chunkTokens * (chunkTokens + 1) / 2;
  return 4 * problem().shape.headDim * problem().shape.queryHeads * seen;
}

//===----------------------------------------------------------------------===//
// Reference
//===----------------------------------------------------------------------===//

/// A pair's cache, then its chunk.
std::vector<double> Chunks::elements(int64_t pair, rt::Part part) const {
  const int64_t headDim = problem().shape.headDim;
  std::vector<double> all = content.elements(pair, part);
  for (int64_t token = 0; token < chunkTokens; ++token)
    for (int64_t dim = 0; dim < headDim; ++dim)
      all.push_back(reference::bf16ToFloat(DeviceImage::fixedValue(
          memory.data() + chunkOffset(pair, part), part, headDim, token, dim)));
  return all;
}

Result<Errors> Chunks::compare(const std::vector<float> &results) const {
  for (float result : results)
    if (!std::isfinite(result))
      return Status(StatusCode::Internal,
                    "prefill left a result unwritten or not a number");
  const Shape &shape = problem().shape;
  const int64_t headDim = shape.headDim, last = problem().pairs() - 1;
  double wrong = 0, right = 0, largest = 0;
  for (int64_t pair : std::set<int64_t>{0, last * 5 / 8, last}) {
    std::vector<double> keys = elements(pair, rt::kKey);
    std::vector<double> values = elements(pair, rt::kValue);
    for (int64_t row :
         std::set<int64_t>{0, std::min<int64_t>(1, chunkTokens - 1),
                           chunkTokens / 3, chunkTokens / 2, chunkTokens - 1})
      for (int64_t g = 0; g < problem().group(); ++g) {
        int64_t head = pair % shape.kvHeads * problem().group() + g;
        int64_t at = pair / shape.kvHeads * chunkTokens + row;
        auto place =
            static_cast<size_t>((at * shape.queryHeads + head) * headDim);
        std::vector<double> q(queries.begin() + place,
                              queries.begin() + place + headDim);
        std::vector<double> expected(static_cast<size_t>(headDim));
        reference::attend(q.data(), keys.data(), values.data(),
                          content.length(pair).tokens() + row + 1, headDim,
                          problem().scale(), {}, expected.data());
        double squares = 0, apart = 0;
        for (int64_t d = 0; d < headDim; ++d) {
          double difference = results[place + d] - expected[d];
          squares += expected[d] * expected[d];
          wrong += difference * difference;
          apart = std::max(apart, std::abs(difference));
        }
        right += squares;
        largest = std::max(
            largest, apart / std::sqrt(squares / static_cast<double>(headDim)));
      }
  }
  return Errors{std::sqrt(wrong / right), largest};
}

//===----------------------------------------------------------------------===//
// The device
//===----------------------------------------------------------------------===//

namespace {
/// What a launch needs.
struct Prefill {
  cuda::Function function;
  cuda::LaunchShape shape;
  cuda::Stream stream;
  cuda::DeviceMemory memory, queries, results, pages, tasks;
  int64_t slotOffset = 0;

  Status launch() const {
    rt::PrefillArgs arguments = {};
    arguments.codes = memory.pointer();
    arguments.parameters = memory.pointer(slotOffset);
    arguments.queries = queries.pointer<float>();
    arguments.results = results.pointer<float>();
    arguments.pages = pages.pointer<rt::PrefillPage>();
    arguments.tasks = tasks.pointer<rt::PrefillTask>();
    return function.launch(stream, shape, arguments);
  }
};
} // namespace

template <typename T>
static Result<cuda::DeviceMemory> upload(const cuda::DeviceRef &device,
                                         const std::vector<T> &values) {
  auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
  auto memory = cuda::DeviceMemory::allocate(device, bytes);
  if (!memory.ok())
    return memory;
  if (Status status = memory->upload(values.data(), bytes); !status.ok())
    return status;
  return memory;
}

static Result<Prefill> prepare(const cuda::DeviceRef &device,
                               const DeviceCompiler &compiler,
                               const Chunks &chunks) {
  Result<DeviceCode> code = compiler.prefill(chunks.problem(), device->chip());
  Result<cuda::Function> function = loadKernel(device, code);
  if (!function.ok())
    return function.status();
  Result<cuda::Stream> stream = cuda::Stream::create(device);
  if (!stream.ok())
    return stream.status();
  auto memory = upload(device, chunks.memory);
  auto queries = upload(device, chunks.queries);
  auto results = upload(device, chunks.queries);
  auto pages = upload(device, chunks.list.pages());
  auto tasks = upload(device, chunks.list.tasks());
  for (const auto *made : {&memory, &queries, &results, &pages, &tasks})
    if (!made->ok())
      return made->status();
  cuda::LaunchShape shape;
  shape.blocks = static_cast<uint32_t>(chunks.list.tasks().size());
  shape.threads = static_cast<uint32_t>(code->threads);
  shape.sharedBytes = static_cast<uint32_t>(code->sharedBytes);
  return Prefill{std::move(*function),       shape,
                 std::move(*stream),         std::move(*memory),
                 std::move(*queries),        std::move(*results),
                 std::move(*pages),          std::move(*tasks),
                 chunks.content.slotOffset()};
}

/// Results of one launch over poisoned memory.
static Result<std::vector<float>> runOnce(Prefill &prefill) {
  std::vector<float> results(
      static_cast<size_t>(prefill.results.bytes() / sizeof(float)));
  const std::function<Status()> steps[] = {
      [&] { return prefill.results.fill(kPoison); },
      [&] { return prefill.launch(); },
      [&] { return prefill.stream.synchronize(); },
      [&] {
        return prefill.results.download(results.data(),
                                        prefill.results.bytes());
      }};
  for (const auto &step : steps)
    if (Status status = step(); !status.ok())
      return status;
  return results;
}

static Result<Errors> check(Prefill &prefill, const Chunks &chunks) {
  Result<std::vector<float>> first = runOnce(prefill);
  if (!first.ok())
    return first.status();
  Result<std::vector<float>> second = runOnce(prefill);
  if (!second.ok())
    return second.status();
  Result<Errors> errors = chunks.compare(*first);
  if (!errors.ok())
    return errors;
  const Errors bounds = boundsOf(chunks.problem(), /*inHalves=*/true);
  if (Status status = checkErrors(bounds, *errors); !status.ok())
    return status;
  if (std::memcmp(first->data(), second->data(),
                  first->size() * sizeof(float)) != 0)
    return Status(StatusCode::Internal,
                  "two runs of prefill differ in their bits");
  return errors;
}

Result<Errors> bench::checkPrefill(const cuda::DeviceRef &device,
                                   const DeviceCompiler &compiler,
                                   const Problem &problem,
                                   int64_t chunkTokens) {
  Result<Chunks> chunks = Chunks::create(problem, chunkTokens);
  if (!chunks.ok())
    return chunks.status();
  Result<Prefill> prefill = prepare(device, compiler, *chunks);
  if (!prefill.ok())
    return prefill.status();
  return check(*prefill, *chunks);
}

Result<Measurement> bench::measurePrefill(const cuda::DeviceRef &device,
                                          const DeviceCompiler &compiler,
                                          const Problem &problem) {
  Result<Chunks> chunks = Chunks::create(problem, kChunkTokens);
  if (!chunks.ok())
    return chunks.status();
  Result<Prefill> prefill = prepare(device, compiler, *chunks);
  if (!prefill.ok())
    return prefill.status();
  Result<Errors> errors = check(*prefill, *chunks);
  if (!errors.ok())
    return errors.status();
  Result<Timing> timing = timeGraph(prefill->stream, /*launches=*/1, kRepeats,
                                    [&](int64_t) { return prefill->launch(); });
  if (!timing.ok())
    return timing.status();
  Measurement row;
  row.isAttention = false;
  row.device = "cuda";
  row.attention = *timing;
  row.bytes = chunks->content.bytes();
  row.errors = *errors;
  row.operations = chunks->operations();
  return row;
}
