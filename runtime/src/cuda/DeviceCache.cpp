//===- DeviceCache.cpp - A session's caches on a GPU ----------------------===//
//
// Memory, kernels and launches.  Neighbours: DeviceCache.h has the mental
// model, DeviceCacheBytes.cpp moves pages in and out.
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/cuda/DeviceCache.h"

#include <algorithm>

using namespace pmkvq::rt;
using namespace pmkvq::rt::cuda;

//===----------------------------------------------------------------------===//
// Memory
//===----------------------------------------------------------------------===//

Status DeviceCache::Buffer::reserve(const DeviceRef &device, int64_t bytes,
                                    bool zeroed) {
  if (bytes <= memory.bytes())
    return {};
  // Twice as much, so that a growing cache does not allocate at every step.
  Result<DeviceMemory> made =
      DeviceMemory::allocate(device, std::max(bytes, 2 * memory.bytes()));
  if (!made.ok())
    made = DeviceMemory::allocate(device, bytes);
  if (!made.ok())
    return made.status();
  if (zeroed)
    if (Status status = made->fill(0); !status.ok())
      return status;
  memory = std::move(*made);
  return {};
}

Result<std::shared_ptr<DeviceCache>>
DeviceCache::create(const DeviceRef &device, DeviceCacheCode code) {
  std::shared_ptr<DeviceCache> cache(new DeviceCache(device, std::move(code)));
  Result<Stream> stream = Stream::create(device);
  if (!stream.ok())
    return stream.status();
  cache->stream_ = std::move(*stream);
  Result<CacheWriters> writers =
      CacheWriters::load(device, cache->code_.writers);
  if (!writers.ok())
    return writers.status();
  cache->writers_.emplace(std::move(*writers));
  return cache;
}

Status DeviceCache::attach(const CacheGeometry &geometry, CacheView *caches,
                           ThreadPool &threads) {
  if (Status status = CacheStore::attach(geometry, caches, threads);
      !status.ok())
    return status;
  if (code_.variants.size() != static_cast<size_t>(geometry.layers))
    return {StatusCode::InvalidArgument,
            "kernels for " + std::to_string(code_.variants.size()) +
                " layers, expected " + std::to_string(geometry.layers)};
  PoolLayout layout;
  layout.headDim = geometry.headDim;
  layout.sinkTokens = geometry.sinkTokens;
  layout.slotBytes = code_.slotBytes;
  layout.blocks = geometry.blocks;
  layout.fixedAreas =
      int64_t{geometry.layers} * geometry.maxSequences * geometry.kvHeads;
  layout.slots = geometry.slots;
  Result<CachePool> pool = CachePool::create(device_, layout);
  if (!pool.ok())
    return pool.status();
  pool_.emplace(std::move(*pool));
  if (Status status = uploadFeedback(); !status.ok())
    return status;
  kinds_ = 1u << UnitKind{16, 16}.index();
  for (const PageLevels &pair : geometry.pairs)
    kinds_ |= 1u << UnitKind{pair[kKey], pair[kValue]}.index();
  for (int32_t variant : code_.variants)
    if (Status status = provideKernel(variant, kinds_); !status.ok())
      return status;
  layers_.resize(code_.variants.size());
  // Restoring a sequence is no time to run out of memory.
  stage_.reserve(static_cast<size_t>(
      std::max(2 * maxCodes() + layout.slotBytes + geometry.slotBytes(),
               layout.fixedPartBytes())));
  return {};
}

/// Copies what keys of all layers fall with, if they fall with something.
Status DeviceCache::uploadFeedback() {
  if (!caches()[0].keyFeedback)
    return {};
  const int64_t layerBytes = geometry().kvHeads *
                             keyFeedbackFloats(geometry().headDim) *
                             static_cast<int64_t>(sizeof(float));
  Result<DeviceMemory> made =
      DeviceMemory::allocate(device_, geometry().layers * layerBytes);
  if (!made.ok())
    return made.status();
  keyFeedback_ = std::move(*made);
  for (int32_t layer = 0; layer < geometry().layers; ++layer)
    if (Status status = keyFeedback_.upload(caches()[layer].keyFeedback,
                                            layerBytes, layer * layerBytes);
        !status.ok())
      return status;
  return {};
}

int64_t DeviceCache::fixedArea(int32_t layer, int32_t sequence,
                               int32_t head) const {
  int64_t place = int64_t{layer} * geometry().maxSequences + sequence;
  return place * geometry().kvHeads + head;
}

/// The page table of a kv head.
const PageEntry *DeviceCache::pages(int32_t layer, int32_t sequence,
                                    int32_t head) const {
  const CacheView &view = caches()[layer];
  int64_t table = int64_t{sequence} * geometry().kvHeads + head;
  return view.pages + table * view.maxPages;
}

static uint32_t toGrains(int64_t bytes) {
  return static_cast<uint32_t>(bytes / kDeviceGrainBytes);
}

//===----------------------------------------------------------------------===//
// Pages
//===----------------------------------------------------------------------===//

Status DeviceCache::preparePages(int64_t tasks) {
  tasks_.reserve(static_cast<size_t>(tasks));
  read_.reserve(static_cast<size_t>(tasks));
  Status status = pageTasks_.reserve(
      device_, tasks * static_cast<int64_t>(sizeof(PagePartTask)));
  if (!status.ok())
    return status;
  return outcomes_.reserve(device_,
                           tasks * static_cast<int64_t>(sizeof(uint32_t)),
                           /*zeroed=*/true);
}

Result<LaunchResult> DeviceCache::writePages(const PageLaunch &launch) {
  if (Status status = preparePages(launch.count); !status.ok())
    return status;
  tasks_.clear();
  for (int64_t i = 0; i < launch.count; ++i) {
    const PageTask &page = launch.tasks[i];
    const PageEntry &entry =
        pages(page.layer, page.sequence, page.head)[page.page];
    PagePartTask task = {};
    std::copy_n(entry.blocks[launch.part], kMaxBlocksPerPart, task.blocks);
    task.slot = entry.slot;
    task.window = toGrains(pool_->layout().fixedOffset(
        fixedArea(page.layer, page.sequence, page.head), launch.part));
    task.feedback =
        static_cast<uint32_t>(page.layer * geometry().kvHeads + page.head);
    tasks_.push_back(task);
  }
  Status status = pageTasks_.memory.uploadAsync(
      stream_, tasks_.data(),
      launch.count * static_cast<int64_t>(sizeof(PagePartTask)));
  if (!status.ok())
    return status;
  PagesArgs arguments = {};
  arguments.codes = pool_->memory().pointer();
  arguments.parameters = pool_->memory().pointer(pool_->layout().slotOffset(0));
  arguments.tasks = pageTasks_.memory.pointer<PagePartTask>();
  arguments.outcomes = outcomes_.memory.pointer<uint32_t>();
  if (keyFeedback_.bytes())
    arguments.keyFeedback = keyFeedback_.pointer<const float>();
  status = launch.from ? writers_->requantize(stream_, arguments, launch.count,
                                              launch.part, launch.from)
                       : writers_->flush(stream_, arguments, launch.count,
                                         launch.part, launch.to);
  if (!status.ok())
    return status;
  // Copies and shifts take whatever there is.
  bool quantizes = launch.from == 16 || (!launch.from && launch.to < 16);
  return quantizes ? readOutcomes(launch.count) : LaunchResult();
}

/// The first of `count` tasks that could not be represented, and whether there
/// are wide ranges.  Either stays so, so that nobody needs the words to be zero
/// again: a session is not usable after a failure.
Result<LaunchResult> DeviceCache::readOutcomes(int64_t count) {
  if (Status status = stream_.synchronize(); !status.ok())
    return status;
  read_.assign(static_cast<size_t>(count), 0);
  Status status = outcomes_.memory.download(
      read_.data(), count * static_cast<int64_t>(sizeof(uint32_t)));
  if (!status.ok())
    return status;
  auto find = [&](PageOutcome outcome) {
    return std::find(read_.begin(), read_.end(), outcome);
  };
  hasWideRanges_ |= find(kPageHasWideRange) != read_.end();
  auto first = find(kPageNotRepresentable);
  if (first == read_.end())
    return LaunchResult();
  return LaunchResult{kKernelNotRepresentable, first - read_.begin()};
}

//===----------------------------------------------------------------------===//
// Before a step
//===----------------------------------------------------------------------===//

/// The kinds of units that a layer has for `runs` or may have, a bit each.
uint32_t DeviceCache::kindsOf(int32_t layer,
                              const std::vector<RowRun> &runs) const {
  uint32_t kinds = kinds_;
  for (const RowRun &run : runs)
    for (int32_t head = 0; head < geometry().kvHeads; ++head) {
      const PageEntry *table = pages(layer, run.sequence, head);
      for (int32_t page = 0; page < run.pages; ++page)
        kinds |=
            1u << UnitKind{table[page].level[kKey], table[page].level[kValue]}
                      .index();
    }
  return kinds;
}

/// Compiles a variant for these kinds, the ranges that have occurred and the
/// step's segments, unless it is.
Status DeviceCache::provideKernel(int32_t variant, uint32_t kinds) {
  Kernel &known = kernels_[{variant, stepRows_}];
  if ((known.kinds & kinds) == kinds && known.takesWide >= hasWideRanges_)
    return {};
  kinds |= known.kinds;
  DecodeNeeds needs;
  needs.rows = stepRows_;
  needs.wideRanges = hasWideRanges_;
  constexpr int32_t kKinds = 16;
  for (int32_t index = 0; index < kKinds; ++index)
    if (kinds >> index & 1)
      needs.kinds.push_back(UnitKind::fromIndex(index));
  Result<DecodeCode> code = code_.decode(variant, needs);
  if (!code.ok())
    return code.status();
  auto module = Module::load(device_, code->code);
  if (!module.ok())
    return module.status();
  Result<Function> function = (*module)->function(code->name);
  if (!function.ok())
    return function.status();
  if (Status status = function->reserve(code->sharedBytes); !status.ok())
    return status;
  Kernel made;
  made.shape.threads = static_cast<uint32_t>(code->threads);
  made.shape.sharedBytes = static_cast<uint32_t>(code->sharedBytes);
  Result<int32_t> blocks = function->blocksPerMultiprocessor(made.shape);
  if (!blocks.ok())
    return blocks.status();
  made.function.emplace(std::move(*function));
  made.resident = std::max(1, *blocks) * device_->multiprocessors();
  made.kinds = kinds;
  made.takesWide = hasWideRanges_ || !code->takesPages;
  made.rows = code->rows;
  made.takesPages = code->takesPages;
  known = std::move(made);
  return {};
}

/// Appends to what is copied before the step; gives the offset.
int64_t DeviceCache::addToStep(const void *data, size_t bytes) {
  constexpr size_t kAlignment = 512;
  size_t offset =
      (stepBytes_.size() + kAlignment - 1) / kAlignment * kAlignment;
  stepBytes_.resize(offset);
  const auto *from = static_cast<const uint8_t *>(data);
  stepBytes_.insert(stepBytes_.end(), from, from + bytes);
  return static_cast<int64_t>(offset);
}

/// Fills appends_: rows are parted after each that begins a unit in which
/// others follow (AppendArgs).
void DeviceCache::partRows(const StepArgs &args) {
  constexpr int32_t kUnit = tokensPerBlock(16);
  appends_.assign(1, 0);
  for (int64_t row = 1; row < args.rowCount; ++row) {
    const Row &place = args.rows[row];
    // The rows of a sequence follow each other.
    int64_t first = row - place.fixedIndex % kUnit;
    if (first != row && first >= appends_.back() &&
        args.rows[first].sequence == place.sequence)
      appends_.push_back(row);
  }
  appends_.push_back(args.rowCount);
}

void DeviceCache::addAppendTasks(int32_t layer, const StepArgs &args) {
  std::vector<AppendTask> tasks;
  for (int64_t row = 0; row < args.rowCount; ++row) {
    const Row &place = args.rows[row];
    int64_t area = fixedArea(layer, place.sequence, 0);
    tasks.push_back({toGrains(pool_->layout().fixedOffset(area, kKey)),
                     static_cast<uint32_t>(place.fixedIndex)});
  }
  layers_[static_cast<size_t>(layer)].tasks =
      addToStep(tasks.data(), tasks.size() * sizeof(AppendTask));
}

static Status addPage(const PageEntry &page, int64_t headDim,
                      std::vector<UnitTask> &units) {
  return addPageUnits(page, headDim, 0, units);
}
static Status addPage(const PageEntry &page, int64_t headDim,
                      std::vector<PrefillPage> &pages) {
  return addPageEntry(page, headDim, 0, pages);
}

static Status addFixed(int64_t keys, int64_t values, int32_t tokens,
                       int64_t headDim, std::vector<UnitTask> &units,
                       int32_t moreRows) {
  return addFixedUnits(keys, values, tokens, headDim, units, moreRows);
}
static Status addFixed(int64_t keys, int64_t values, int32_t tokens,
                       int64_t headDim, std::vector<PrefillPage> &pages,
                       int32_t moreRows) {
  return addFixedEntries(keys, values, tokens, headDim, pages, moreRows);
}

/// Units or pages for the rows of each kv head, and whose queries they are for.
template <typename Entry>
Status DeviceCache::listPairs(int32_t layer, const std::vector<RowRun> &runs,
                              std::vector<std::vector<Entry>> &pairs) {
  const PoolLayout &layout = pool_->layout();
  const int32_t heads = geometry().kvHeads;
  const auto most = static_cast<int32_t>(kernelOf(layer).rows);
  pairs.clear();
  owners_.clear();
  for (const RowRun &run : runs)
    for (int32_t head = 0; head < heads; ++head) {
      std::vector<Entry> entries;
      const PageEntry *table = pages(layer, run.sequence, head);
      for (int32_t page = 0; page < run.pages; ++page)
        if (Status status = addPage(table[page], layout.headDim, entries);
            !status.ok())
          return status;
      spreadKinds(entries);
      int64_t area = fixedArea(layer, run.sequence, head);
      for (int32_t i = 0; i < run.rows; i += most) {
        const int32_t more = std::min(most, run.rows - i) - 1;
        owners_.push_back(
            {static_cast<uint32_t>((run.row + i) * heads + head), more});
        pairs.push_back(entries);
        // A row sees fixed tokens up to its own.
        Status status = addFixed(
            layout.fixedOffset(area, kKey), layout.fixedOffset(area, kValue),
            run.fixedIndex + i + 1, layout.headDim, pairs.back(), more);
        if (!status.ok())
          return status;
      }
    }
  return {};
}

/// The work list of a layer; `partials` becomes what it needs at least, bytes.
Status DeviceCache::listLayer(int32_t layer, const std::vector<RowRun> &runs,
                              int64_t &partials) {
  const Kernel &kernel = kernelOf(layer);
  const int64_t queries = kernel.rows * group();
  Status listed = kernel.takesPages ? listPairs(layer, runs, pagePairs_)
                                    : listPairs(layer, runs, unitPairs_);
  if (!listed.ok())
    return listed;
  Result<DeviceWorkList> list =
      kernel.takesPages
          ? buildPageWorkList(pagePairs_, kernel.resident, pageCosts(queries),
                              owners_)
          : buildDeviceWorkList(unitPairs_, kernel.resident, {}, owners_);
  if (!list.ok())
    return list.status();
  LayerWork &work = layers_[static_cast<size_t>(layer)];
  work.list = addToStep(list->bytes.data(), list->bytes.size());
  work.rows = list->rows;
  work.rowBytes = list->rowBytes;
  work.segmentsPerRow = list->segmentsPerRow;
  partials =
      std::max(partials, list->partials *
                             devicePartialBytes(queries, geometry().headDim));
  return {};
}

/// Kernels are compiled for powers of two.
static int64_t powerOfTwo(int64_t rows) {
  int64_t power = 1;
  while (power < rows && power < kMaxSegmentRows)
    power *= 2;
  return power;
}

Status DeviceCache::prepareStep(const StepArgs &args,
                                const std::vector<RowRun> &runs) {
  rows_ = args.rowCount;
  int32_t most = 1;
  for (const RowRun &run : runs)
    most = std::max(most, run.rows);
  stepRows_ = powerOfTwo(most);
  stepBytes_.clear();
  partRows(args);
  int64_t partials = 0;
  for (int32_t layer = 0; layer < geometry().layers; ++layer)
    if (Status status = provideKernel(
            code_.variants[static_cast<size_t>(layer)], kindsOf(layer, runs));
        !status.ok())
      return status;
  for (int32_t layer = 0; layer < geometry().layers; ++layer) {
    addAppendTasks(layer, args);
    if (Status status = listLayer(layer, runs, partials); !status.ok())
      return status;
  }
  const int64_t row = geometry().headDim * static_cast<int64_t>(sizeof(float));
  const int64_t kvBytes = rows_ * geometry().kvHeads * row;
  const int64_t queryBytes = rows_ * geometry().queryHeads * row;
  const std::pair<Buffer *, int64_t> wanted[] = {
      {&step_, static_cast<int64_t>(stepBytes_.size())},
      {&keys_, kvBytes},
      {&values_, kvBytes},
      {&queries_, queryBytes},
      {&results_, queryBytes},
      {&partials_, partials}};
  for (auto [buffer, bytes] : wanted)
    if (Status status = buffer->reserve(device_, bytes, buffer == &partials_);
        !status.ok())
      return status;
  return step_.memory.uploadAsync(stream_, stepBytes_.data(),
                                  static_cast<int64_t>(stepBytes_.size()));
}

//===----------------------------------------------------------------------===//
// A step
//===----------------------------------------------------------------------===//

static bool contains(const std::vector<KernelFn> &kernels, KernelFn kernel) {
  return std::find(kernels.begin(), kernels.end(), kernel) != kernels.end();
}

int32_t DeviceCache::launch(const LaunchRecord &record) {
  const bool appends = contains(code_.append, record.kernel);
  const bool attends = contains(code_.attend, record.kernel);
  const bool merges = contains(code_.merge, record.kernel);
  if (!appends && !attends && !merges)
    return CacheStore::launch(record);
  if (failure_.ok()) {
    // Of a merge, the first operand is no cache.
    auto layer =
        merges ? 0
               : static_cast<int32_t>(
                     static_cast<CacheView *>(record.operands[0]) - caches());
    failure_ = appends   ? append(layer, record)
               : attends ? attend(layer, record)
                         : merge(record);
  }
  return failure_.ok() ? kKernelOk : kKernelNoDevice;
}

/// Operands {CacheView *, StepArgs *, keys, values}.
Status DeviceCache::append(int32_t layer, const LaunchRecord &record) {
  int64_t bytes = rows_ * geometry().kvHeads * geometry().headDim *
                  static_cast<int64_t>(sizeof(float));
  Status status = keys_.memory.uploadAsync(stream_, record.operands[2], bytes);
  if (status.ok())
    status = values_.memory.uploadAsync(stream_, record.operands[3], bytes);
  if (!status.ok())
    return status;
  const int64_t rowBytes = bytes / rows_;
  for (size_t i = 0; i + 1 < appends_.size() && status.ok(); ++i) {
    const int64_t first = appends_[i];
    AppendArgs arguments = {};
    arguments.codes = pool_->memory().pointer();
    arguments.tasks = step_.memory.pointer<AppendTask>(
        layers_[static_cast<size_t>(layer)].tasks +
        first * static_cast<int64_t>(sizeof(AppendTask)));
    arguments.keys = keys_.memory.pointer<float>(first * rowBytes);
    arguments.values = values_.memory.pointer<float>(first * rowBytes);
    status = writers_->append(stream_, arguments, appends_[i + 1] - first,
                              geometry().kvHeads);
  }
  return status;
}

/// Operands {CacheView *, StepArgs *, queries}.
Status DeviceCache::attend(int32_t layer, const LaunchRecord &record) {
  int64_t bytes = rows_ * geometry().queryHeads * geometry().headDim *
                  static_cast<int64_t>(sizeof(float));
  Status status =
      queries_.memory.uploadAsync(stream_, record.operands[2], bytes);
  if (!status.ok())
    return status;
  const LayerWork &work = layers_[static_cast<size_t>(layer)];
  DecodeArgs arguments = {};
  pool_->fill(arguments);
  arguments.queries = queries_.memory.pointer<float>();
  arguments.results = results_.memory.pointer<float>();
  arguments.partials = partials_.memory.pointer<uint8_t>();
  arguments.work = step_.memory.pointer<uint8_t>(work.list);
  arguments.rowBytes = work.rowBytes;
  arguments.segmentsPerRow = work.segmentsPerRow;
  const Kernel &kernel = kernelOf(layer);
  LaunchShape shape = kernel.shape;
  shape.blocks = static_cast<uint32_t>(work.rows);
  return kernel.function->launch(stream_, shape, arguments);
}

/// Operands {StepArgs *, outputs}.
Status DeviceCache::merge(const LaunchRecord &record) {
  if (Status status = stream_.synchronize(); !status.ok())
    return status;
  int64_t bytes = rows_ * geometry().queryHeads * geometry().headDim *
                  static_cast<int64_t>(sizeof(float));
  return results_.memory.download(record.operands[1], bytes);
}
