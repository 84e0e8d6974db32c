//===- CompilerKernelHarness.cpp - Compiled kernels on hand-made caches ---===//
//
// See KernelHarness.h.
//
//===----------------------------------------------------------------------===//

#include "KernelHarness.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/Parser/Parser.h"
#include "mlir/Pass/PassManager.h"
#include "pmkvq/Pipelines/Pipelines.h"
#include "pmkvq/Reference/Bits.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"

#include <algorithm>
#include <gtest/gtest.h>
#include <random>

using namespace ::pmkvq;
using namespace ::pmkvq::test;

/// The calibration of the module's create, or nothing.
static std::string calibrationText(const KernelShape &shape) {
  std::vector<std::string> fields;
  if (shape.keyClip != 0)
    fields.push_back(llvm::formatv("key_clip = {0:f4}", shape.keyClip));
  if (shape.valueClip != 0)
    fields.push_back(llvm::formatv("value_clip = {0:f4}", shape.valueClip));
  if (!shape.querySquares.empty()) {
    std::string squares;
    for (float square : shape.querySquares)
      squares +=
          llvm::formatv("{0}{1:e8}", squares.empty() ? "" : ", ", square);
    fields.push_back("query_squares = [" + squares + "]");
  }
  return fields.empty() ? "" : "calibration <" + llvm::join(fields, ", ") + ">";
}

/// A module whose kernels are append_0, attend_0, merge_0 and the page kernels.
static std::string moduleText(const KernelShape &shape) {
  return llvm::formatv(R"mlir(
!kv = !pmkvq.cache<kv_heads = {0}, head_dim = {2}, sink = {3}>
func.func @create() -> !kv {{
  %c = pmkvq.create layer 0 max_tokens 4096 {4} : !kv
  return %c : !kv
}
func.func @step(%q: tensor<?x{1}x{2}xf32>, %k: tensor<?x{0}x{2}xf32>,
                 %v: tensor<?x{0}x{2}xf32>, %b: !pmkvq.batch, %c: !kv)
    -> tensor<?x{1}x{2}xf32> {{
  %c1 = pmkvq.append %c, %k, %v, %b : !kv, tensor<?x{0}x{2}xf32>
  %o = pmkvq.attend %q, %c1, %b scale 1.250000e-01
    : tensor<?x{1}x{2}xf32>, !kv
  return %o : tensor<?x{1}x{2}xf32>
}
)mlir",
                       shape.kvHeads, shape.queryHeads, shape.headDim,
                       shape.sink, calibrationText(shape))
      .str();
}

std::unique_ptr<Kernels>
Kernels::compile(const KernelShape &shape,
                 const std::function<void(mlir::DialectRegistry &)> &extend) {
  using namespace mlir;
  DialectRegistry registry;
  mlir::pmkvq::registerAllForStages(registry);
  if (extend)
    extend(registry);
  MLIRContext context(registry);
  auto module = parseSourceString<ModuleOp>(moduleText(shape), &context);
  if (!module) {
    ADD_FAILURE() << "the module does not parse";
    return nullptr;
  }
  mlir::pmkvq::PlanOptions options;
  options.keyFormat = shape.key;
  options.valueFormat = shape.value;
  options.valueFloor = shape.valueFloor;
  options.registerBytes = mlir::pmkvq::HostProgram::registerBytes("native");
  for (const mlir::pmkvq::Stage &stage : mlir::pmkvq::getStages()) {
    PassManager pm(&context);
    stage.build(pm, options);
    if (failed(pm.run(*module))) {
      ADD_FAILURE() << "stage " << stage.name.str() << " fails";
      return nullptr;
    }
    // Only the kernels are wanted from here on.
    if (stage.name == "tile")
      module->lookupSymbol("step")->erase();
  }
  auto program = mlir::pmkvq::HostProgram::compile(*module);
  if (!program) {
    ADD_FAILURE() << llvm::toString(program.takeError());
    return nullptr;
  }
  std::unique_ptr<Kernels> kernels(new Kernels(shape));
  kernels->program = std::move(*program);
  return kernels;
}

rt::KernelFn Kernels::find(const std::string &name) const {
  void *address = program->lookUp(name);
  EXPECT_NE(address, nullptr) << name;
  return reinterpret_cast<rt::KernelFn>(address);
}

static std::string partName(int32_t part) {
  return part == rt::kKey ? "key" : "value";
}

rt::KernelFn Kernels::flush(int32_t part, int32_t level) const {
  return find("pmkvq_flush_" + partName(part) + "_" + std::to_string(level));
}

rt::KernelFn Kernels::requantize(int32_t part, int32_t from) const {
  return find("pmkvq_requantize_" + partName(part) + "_" +
              std::to_string(from) + "_" + std::to_string(from / 2));
}

const float *Kernels::keyFeedback() const {
  if (shape.querySquares.empty())
    return nullptr;
  auto *entry = reinterpret_cast<const float *(*)(int64_t)>(
      program->lookUp("pmkvq_key_feedback"));
  EXPECT_NE(entry, nullptr);
  return entry ? entry(0) : nullptr;
}

TestCache::TestCache(const KernelShape &shape, int64_t parameterBytesKey,
                     int64_t parameterBytesValue, int32_t sequences,
                     int32_t maxPages)
    : shape(shape), slotBytes(parameterBytesKey + parameterBytesValue),
      keyBytes(parameterBytesKey), maxPages(maxPages) {
  int64_t heads = sequences * shape.kvHeads;
  int64_t count = heads * maxPages;
  pages.resize(count);
  slots.resize(count * slotBytes);
  fixedArea.resize(heads * rt::kParts * (shape.sink + rt::kPageTokens) *
                   shape.headDim);
  int64_t blockCount = count * rt::kParts * rt::kMaxBlocksPerPart;
  blocks.resize(blockCount * rt::blockBytes(shape.headDim));
  for (int64_t i = 0; i < blockCount; ++i)
    freeBlocks.push_back(static_cast<uint32_t>(i));
  std::shuffle(freeBlocks.begin(), freeBlocks.end(), std::mt19937(7));
  cacheView = {blocks.data(), slots.data(), pages.data(), fixedArea.data(),
               maxPages};
}

rt::PageEntry &TestCache::entry(int32_t sequence, int32_t head, int32_t page) {
  return pages[(sequence * shape.kvHeads + head) * maxPages + page];
}

void TestCache::makePage(int32_t sequence, int32_t head, int32_t page,
                         int32_t keyLevel, int32_t valueLevel) {
  rt::PageEntry &made = entry(sequence, head, page);
  made.slot = nextSlot++;
  for (int32_t part = 0; part < rt::kParts; ++part) {
    int32_t level = part == rt::kKey ? keyLevel : valueLevel;
    made.level[part] = static_cast<uint8_t>(level);
    for (int32_t i = 0; i < rt::blocksAtLevel(level); ++i) {
      made.blocks[part][i] = freeBlocks.back();
      freeBlocks.pop_back();
    }
  }
}

uint16_t *TestCache::fixed(int32_t sequence, int32_t head, int32_t part,
                           int64_t token) {
  int64_t tokens = shape.sink + rt::kPageTokens;
  int64_t area = (sequence * shape.kvHeads + head) * rt::kParts + part;
  return fixedArea.data() + (area * tokens + token) * shape.headDim;
}

/// Byte and bit of a code within its part, stated without the compiler's help:
/// a 32-byte vector holds 8 outputs of 4 bytes; the bytes of an output are 4
/// neighbours on the summed axis in the order 0, 2, 1, 3.
static std::pair<int64_t, int64_t> locate(int32_t part, int32_t level,
                                          int64_t headDim, int64_t token,
                                          int64_t dim) {
  static constexpr int64_t order[] = {0, 2, 1, 3};
  int64_t vector; // of level 8
  int64_t lane, byte;
  if (part == rt::kKey) {
    vector = (token / 32 * (headDim / 4) + dim / 4) * 4 + token % 32 / 8;
    lane = token % 8;
    byte = order[dim % 4];
  } else {
    vector = token / 4 * (headDim / 8) + dim / 8;
    // Of an odd number of 16 outputs, four vectors are two quads of 16.
    if (headDim % 32)
      vector = (token / 8 * (headDim / 16) + dim / 16) * 4 + token / 4 % 2 * 2 +
               dim % 16 / 8;
    lane = dim % 8;
    byte = order[token % 4];
  }
  int64_t fields = 8 / level;
  int64_t bit = level == 8   ? 0
                : level == 4 ? vector % 2 * 4
                             : 2 * order[vector % 4];
  // Two neighbours of level 2 share the bits of its fields.
  if (level == 1)
    bit += vector / 4 % 2;
  return {vector / fields * 32 + lane * 4 + byte, bit};
}

uint32_t TestCache::code(const rt::PageEntry &entry, int32_t part,
                         int64_t token, int64_t dim) const {
  int32_t level = entry.level[part];
  auto [byte, bit] = locate(part, level, shape.headDim, token, dim);
  int64_t blockBytes = rt::blockBytes(shape.headDim);
  int64_t id = entry.blocks[part][byte / blockBytes];
  int64_t half = level == 1 ? entry.blocks[part][1] * blockBytes / 2 : 0;
  uint8_t packed = blocks[id * blockBytes + half + byte % blockBytes];
  return (packed >> bit) & ((1u << level) - 1);
}

uint16_t TestCache::raw(const rt::PageEntry &entry, int32_t part, int64_t token,
                        int64_t dim) const {
  int64_t id = entry.blocks[part][token / 16];
  const uint8_t *address = blocks.data() + id * rt::blockBytes(shape.headDim) +
                           (token % 16 * shape.headDim + dim) * 2;
  return static_cast<uint16_t>(address[0] | address[1] << 8);
}

const uint8_t *TestCache::slot(const rt::PageEntry &entry, int32_t part) const {
  return slots.data() + entry.slot * slotBytes +
         (part == rt::kKey ? 0 : keyBytes);
}

uint16_t TestCache::parameter(const rt::PageEntry &entry, int32_t part,
                              int64_t index, int64_t group,
                              int64_t groups) const {
  const uint8_t *address = slot(entry, part) + (index * groups + group) * 2;
  return static_cast<uint16_t>(address[0] | address[1] << 8);
}

std::array<uint16_t, 2>
TestCache::parameters(const rt::PageEntry &entry, int32_t part,
                      const reference::UniformFormat &format,
                      int64_t group) const {
  if (!format.symmetric) {
    int64_t groups = reference::groupCount(format, shape.headDim);
    return {parameter(entry, part, 0, group, groups),
            parameter(entry, part, 1, group, groups)};
  }
  uint16_t range = reference::rangeFromByte(slot(entry, part)[group]);
  float half = reference::halfToFloat(range) / 2;
  return {reference::floatToHalfDown(0.0f - half), range};
}

reference::UniformFormat test::referenceFormat(const std::string &text,
                                               double calibratedClip) {
  reference::UniformFormat format;
  format.axis = text.find("per_channel") != std::string::npos
                    ? reference::Axis::PerChannel
                    : reference::Axis::PerToken;
  format.symmetric = text.find("symmetric") != std::string::npos;
  format.hadamard = text.find("hadamard") != std::string::npos;
  if (size_t at = text.find("clip = "); at != std::string::npos)
    format.clip = std::stod(text.substr(at + 7));
  if (calibratedClip != 0)
    format.clip = calibratedClip;
  return format;
}
