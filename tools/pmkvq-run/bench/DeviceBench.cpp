//===- DeviceBench.cpp - Attention measured on a GPU ----------------------===//
//
// Neighbours: DeviceBench.h has the method, DecodeRuns.h the launches.
//
//===----------------------------------------------------------------------===//

#include "DecodeRuns.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

using namespace pmkvq;
using namespace pmkvq::bench;
namespace rt = ::pmkvq::rt;
namespace cuda = ::pmkvq::rt::cuda;
using rt::Result;
using rt::Status;
using rt::StatusCode;

Status bench::checkErrors(const Problem &problem, const Errors &errors) {
  return checkErrors(boundsOf(problem, /*inHalves=*/false), errors);
}

Status bench::checkErrors(const Errors &bounds, const Errors &errors) {
  if (errors.rms <= bounds.rms && errors.largest <= bounds.largest)
    return {};
  auto text = [](const Errors &e) {
    char line[64];
    std::snprintf(line, sizeof(line), "rms %.2e, largest %.2e", e.rms,
                  e.largest);
    return std::string(line);
  };
  return {StatusCode::Internal, "attention is wrong: relative errors are " +
                                    text(errors) + ", expected at most " +
                                    text(bounds)};
}

static Status addPage(const rt::PageEntry &page, int64_t headDim,
                      std::vector<rt::UnitTask> &units) {
  return rt::addPageUnits(page, headDim, 0, units);
}
static Status addPage(const rt::PageEntry &page, int64_t headDim,
                      std::vector<rt::PrefillPage> &pages) {
  return rt::addPageEntry(page, headDim, 0, pages);
}

static Status addFixed(const Case &content, int64_t pair, int64_t tokens,
                       std::vector<rt::UnitTask> &units, int64_t more) {
  return rt::addFixedUnits(
      content.fixedOffset(pair, rt::kKey),
      content.fixedOffset(pair, rt::kValue), static_cast<int32_t>(tokens),
      content.problem().shape.headDim, units, static_cast<int32_t>(more));
}
static Status addFixed(const Case &content, int64_t pair, int64_t tokens,
                       std::vector<rt::PrefillPage> &pages, int64_t more) {
  return rt::addFixedEntries(
      content.fixedOffset(pair, rt::kKey),
      content.fixedOffset(pair, rt::kValue), static_cast<int32_t>(tokens),
      content.problem().shape.headDim, pages, static_cast<int32_t>(more));
}

/// As a session would list them, for segments of at most `most` rows.
template <typename Entry>
static Result<Pairs<Entry>> listContent(const Case &content, int64_t most) {
  return listPairs<Entry>(
      content, most,
      [&](int64_t pair, int64_t page, std::vector<Entry> &entries) {
        return addPage(content.page(pair, page),
                       content.problem().shape.headDim, entries);
      },
      [&](int64_t pair, int64_t tokens, int64_t more,
          std::vector<Entry> &entries) {
        return addFixed(content, pair, tokens, entries, more);
      });
}

namespace {
/// All that a problem needs on a device but the kernels.
struct Prepared {
  Case content;
  rt::DeviceWorkList list;
  cuda::Stream stream;
};
} // namespace

static Result<DecodeKernel> loadDecode(const cuda::DeviceRef &device,
                                       const DeviceCompiler &compiler,
                                       const Problem &problem, bool dependent) {
  return loadDecodeKernel(
      device, compiler.decode(problem, dependent, compiler.chipFor(*device)),
      dependent);
}

/// Programmatic dependent launch is of sm_90 and later.
static bool launchesDependents(const std::string &chip) {
  constexpr int64_t kFirst = 90;
  return std::strtol(chip.c_str() + std::strlen("sm_"), nullptr, 10) >= kFirst;
}

std::vector<bool> DeviceCompiler::launchesOn(const cuda::Device &device) const {
  return launchesDependents(chipFor(device)) ? std::vector<bool>{false, true}
                                             : std::vector<bool>{false};
}

/// The work list of a kernel for `blocks` thread blocks.
static Result<rt::DeviceWorkList> listWork(const cuda::DeviceRef &device,
                                           const DecodeKernel &kernel,
                                           const Case &content,
                                           int32_t blocks) {
  const Problem &problem = content.problem();
  if (kernel.takesPages) {
    auto pages = listContent<rt::PrefillPage>(content, kernel.rows);
    if (!pages.ok())
      return pages.status();
    return rt::buildPageWorkList(pages->entries, blocks,
                                 rt::pageCosts(problem.group() * kernel.rows),
                                 pages->queries);
  }
  auto units = listContent<rt::UnitTask>(content, kernel.rows);
  if (!units.ok())
    return units.status();
  return rt::buildDeviceWorkList(units->entries, blocks,
                                 decodeCosts(*device, problem, blocks),
                                 units->queries);
}

/// Content, and rows for `blocks` thread blocks.
static Result<Prepared> prepare(const cuda::DeviceRef &device,
                                const DecodeKernel &kernel,
                                const Problem &problem, int32_t blocks) {
  Result<Case> content = Case::create(problem, Order::Device, /*seed=*/1234);
  if (!content.ok())
    return content.status();
  Result<rt::DeviceWorkList> list = listWork(device, kernel, *content, blocks);
  if (!list.ok())
    return list.status();
  Result<cuda::Stream> stream = cuda::Stream::create(device);
  if (!stream.ok())
    return stream.status();
  return Prepared{std::move(*content), std::move(*list), std::move(*stream)};
}

Result<Errors> bench::checkOnDevice(const cuda::DeviceRef &device,
                                    const DeviceCompiler &compiler,
                                    const Problem &problem,
                                    const DeviceRun &run,
                                    std::vector<float> *results) {
  Result<DecodeKernel> kernel =
      loadDecode(device, compiler, problem, run.dependentLaunch);
  if (!kernel.ok())
    return kernel.status();
  Result<Prepared> made = prepare(device, *kernel, problem,
                                  run.blocks ? run.blocks : kernel->resident);
  if (!made.ok())
    return made.status();
  if (run.spoil)
    run.spoil(made->list);
  Result<std::vector<DecodeSet>> sets =
      makeDecodeSets(device, *kernel, made->content, made->list, /*count=*/1);
  if (!sets.ok())
    return sets.status();
  return checkDecode(*kernel, made->stream, sets->front(), made->content,
                     results);
}

Result<std::vector<Measurement>>
bench::measureOnDevice(const cuda::DeviceRef &device,
                       const DeviceCompiler &compiler, const Problem &problem) {
  std::vector<DecodeKernel> kernels;
  for (bool dependent : compiler.launchesOn(*device)) {
    Result<DecodeKernel> kernel =
        loadDecode(device, compiler, problem, dependent);
    if (!kernel.ok())
      return kernel.status();
    kernels.push_back(std::move(*kernel));
  }
  Result<DecodeKernel> read =
      loadDecodeKernel(device, compiler.read(compiler.chipFor(*device)),
                       /*dependent=*/false);
  if (!read.ok())
    return read.status();
  Result<Prepared> made =
      prepare(device, kernels.front(), problem,
              std::min(kernels.front().resident, kernels.back().resident));
  if (!made.ok())
    return made.status();
  int64_t bytes = made->content.bytes();
  Result<std::vector<DecodeSet>> sets = makeDecodeSets(
      device, kernels.front(), made->content, made->list, setsOf(bytes));
  if (!sets.ok())
    return sets.status();

  // Every kernel is right before one is measured.
  std::vector<Measurement> rows(kernels.size());
  std::vector<std::vector<float>> checked(kernels.size());
  for (size_t i = 0; i < kernels.size(); ++i) {
    Result<Errors> errors = checkDecode(kernels[i], made->stream, sets->front(),
                                        made->content, &checked[i]);
    if (!errors.ok())
      return errors.status();
    rows[i].device = i == 0 ? "cuda" : "cuda+dependent";
    rows[i].bytes = bytes;
    rows[i].errors = *errors;
  }
  for (size_t i = 0; i < kernels.size(); ++i) {
    Result<Timing> timing =
        timeDecode(kernels[i], made->stream, *sets, checked[i]);
    if (!timing.ok())
      return timing.status();
    rows[i].attention = *timing;
  }
  Result<double> readTime =
      timeReads(*read, made->stream, *sets,
                std::min(bytes, sets->front().pool.memory().bytes()));
  if (!readTime.ok())
    return readTime.status();
  for (Measurement &row : rows)
    row.readMicroseconds = *readTime;
  return rows;
}
