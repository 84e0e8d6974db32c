//===- ReferencePaperCacheTest.cpp - The paper's progressive cache --------===//
//
// Every golden stream to its last row and last bit, and single behaviours by
// hand.  Neighbours: lib/Reference/PaperCache.cpp, test/data/golden/README.md.
//
//===----------------------------------------------------------------------===//

#include "GoldenFile.h"

#include "pmkvq/Reference/PaperCache.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <random>

using namespace pmkvq::reference;
using pmkvq::rt::kKey;
using pmkvq::rt::kValue;
using pmkvq::rt::Status;
using pmkvq::rt::StatusCode;
using pmkvq::test::GoldenFile;

namespace {

constexpr int64_t kHeadDim = 128;

//===----------------------------------------------------------------------===//
// Golden streams
//===----------------------------------------------------------------------===//

const GoldenFile &golden() {
  static GoldenFile file("golden/reference.safetensors");
  return file;
}

/// The settings of a case, from reference.json.
nlohmann::json settingsOf(int index) {
  std::ifstream file(std::string(PMKVQ_TEST_DATA_DIR) +
                     "/golden/reference.json");
  return nlohmann::json::parse(file).at(index);
}

PaperCacheOptions optionsOf(const nlohmann::json &settings) {
  PaperCacheOptions options;
  options.kvHeads = settings.at("kv_heads");
  options.headDim = settings.at("head_dim");
  options.sinkTokens = settings.at("sink");
  options.windowTokens = settings.at("window");
  options.initialBits = settings.at("init_bits");
  // Bytes are integers: more than x is more than floor(x).
  options.budgetBytes = static_cast<int64_t>(
      std::floor(settings.at("budget_mib").get<double>() * 1024 * 1024));
  return options;
}

/// The first words of a golden message say which error it is.
PaperMemoryError errorOf(const std::string &message) {
  if (message.rfind("Memory Error: The kv cache is full", 0) == 0)
    return PaperMemoryError::CacheFull;
  if (message.rfind("The kv bits is too small", 0) == 0)
    return PaperMemoryError::BitsTooSmall;
  ADD_FAILURE() << "unknown message: " << message;
  return PaperMemoryError::None;
}

/// Tokens [begin, begin + count) of every head of a [heads][fed][dim] stream.
std::vector<float> slice(const std::vector<float> &stream, int64_t heads,
                         int64_t begin, int64_t count) {
  int64_t perHead = static_cast<int64_t>(stream.size()) / heads;
  std::vector<float> result;
  for (int64_t head = 0; head < heads; ++head) {
    auto from = stream.begin() + head * perHead + begin * kHeadDim;
    result.insert(result.end(), from, from + count * kHeadDim);
  }
  return result;
}

/// What a stream does until it ends or fails.
struct Trace {
  std::unique_ptr<PaperCache> cache;
  std::vector<int32_t> log;
  /// Index of the token whose update failed; -1: none did.
  int64_t failingToken = -1;
};

Trace feed(const std::string &name, const nlohmann::json &settings) {
  Trace trace;
  PaperCacheOptions options = optionsOf(settings);
  EXPECT_TRUE(PaperCache::create(options, trace.cache).ok());
  std::vector<float> keys = golden().floats(name + "k_in");
  std::vector<float> values = golden().floats(name + "v_in");
  int64_t fed = golden().shape(name + "k_in")[2];
  EXPECT_EQ(fed, settings.at("tokens").get<int64_t>());
  int64_t count = settings.at("prefill");
  for (int64_t begin = 0; begin < fed; begin += count, count = 1) {
    Status status = trace.cache->update(
        count, slice(keys, options.kvHeads, begin, count).data(),
        slice(values, options.kvHeads, begin, count).data());
    if (!status.ok()) {
      EXPECT_EQ(status.code(), StatusCode::OutOfMemory) << status.message();
      trace.failingToken = begin;
      break;
    }
    PaperCacheState state = trace.cache->state();
    for (int64_t entry : {state.tokens, state.sinkTokens, state.bodyTokens,
                          state.windowTokens, int64_t(state.bits)})
      trace.log.push_back(static_cast<int32_t>(entry));
  }
  return trace;
}

/// Equal to the bit, the sign of zeros included.
void expectSameBits(const std::vector<float> &actual,
                    const std::vector<float> &expected,
                    const std::string &what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  for (size_t i = 0; i < actual.size(); ++i)
    ASSERT_EQ(std::memcmp(&actual[i], &expected[i], sizeof(float)), 0)
        << what << ", element " << i << ": " << actual[i] << " and "
        << expected[i];
}

/// Compares outputs, codes and parameters of all heads with tensors `name`.
void expectPartLikeGolden(const PaperCache &cache, int32_t heads, int32_t part,
                          const std::string &name) {
  std::vector<float> decoded, scale, zero;
  std::vector<uint16_t> codes;
  for (int32_t head = 0; head < heads; ++head) {
    std::vector<float> ofHead = cache.decode(head, part);
    decoded.insert(decoded.end(), ofHead.begin(), ofHead.end());
    for (const PaperGroup &group : cache.body(head, part)) {
      EXPECT_EQ(group.bits, cache.state().bits);
      codes.insert(codes.end(), group.codes.begin(), group.codes.end());
      scale.push_back(group.scale);
      zero.push_back(group.zero);
    }
  }
  expectSameBits(decoded, golden().floats(name + "_out"), name + "_out");
  expectSameBits(scale, golden().floats(name + "_scale"), name + "_scale");
  expectSameBits(zero, golden().floats(name + "_zero"), name + "_zero");
  EXPECT_EQ(codes, golden().read<uint16_t>(name + "_codes", "U16")) << name;
}

class ReferencePaperCacheGolden : public testing::TestWithParam<int> {};

TEST_P(ReferencePaperCacheGolden, EqualsGoldenToTheLastRow) {
  ASSERT_TRUE(golden().ok());
  nlohmann::json settings = settingsOf(GetParam());
  std::string name = "cache" + std::to_string(GetParam()) + ".";
  Trace trace = feed(name, settings);

  EXPECT_EQ(trace.log, golden().read<int32_t>(name + "log", "I32"));
  EXPECT_EQ(trace.cache->state().bits, settings.at("final_bits"));
  const nlohmann::json &error = settings.at("memory_error");
  EXPECT_EQ(trace.failingToken, error.is_null() ? -1 : error.at(0).get<int>());
  EXPECT_EQ(trace.cache->memoryError(),
            error.is_null() ? PaperMemoryError::None : errorOf(error.at(1)));
  int32_t heads = settings.at("kv_heads");
  expectPartLikeGolden(*trace.cache, heads, kKey, name + "k");
  expectPartLikeGolden(*trace.cache, heads, kValue, name + "v");
}

INSTANTIATE_TEST_SUITE_P(Cases, ReferencePaperCacheGolden, testing::Range(0, 4),
                         testing::PrintToStringParamName());

//===----------------------------------------------------------------------===//
// Single behaviours
//===----------------------------------------------------------------------===//

/// Bytes of a 16-bit token of one head of 128, key and value.
constexpr int64_t kToken = 2 * 2 * kHeadDim;

std::unique_ptr<PaperCache> make(int32_t sink, int32_t window,
                                 int64_t budgetBytes) {
  PaperCacheOptions options;
  options.sinkTokens = sink;
  options.windowTokens = window;
  options.budgetBytes = budgetBytes;
  std::unique_ptr<PaperCache> cache;
  EXPECT_TRUE(PaperCache::create(options, cache).ok());
  return cache;
}

/// Appends tokens that hold 0, 1, .. 127.
Status append(PaperCache &cache, int64_t tokens) {
  std::vector<float> values(tokens * kHeadDim);
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(i % kHeadDim);
  return cache.update(tokens, values.data(), values.data());
}

TEST(ReferencePaperCache, WindowIsEmptiedTheMomentItIsFull) {
  std::unique_ptr<PaperCache> cache = make(2, 4, 1000 * kToken);
  // Tokens so far: body and window.
  std::map<int64_t, std::pair<int64_t, int64_t>> expected = {
      {1, {0, 0}}, {2, {0, 0}}, {3, {0, 1}}, {4, {0, 2}}, {5, {0, 3}},
      {6, {4, 0}}, {7, {4, 1}}, {8, {4, 2}}, {9, {4, 3}}, {10, {8, 0}}};
  for (const auto &[tokens, areas] : expected) {
    ASSERT_TRUE(append(*cache, 1).ok());
    PaperCacheState state = cache->state();
    EXPECT_EQ(state.tokens, tokens);
    EXPECT_EQ(state.sinkTokens, std::min<int64_t>(tokens, 2));
    EXPECT_EQ(state.bodyTokens, areas.first) << tokens;
    EXPECT_EQ(state.windowTokens, areas.second) << tokens;
  }
}

TEST(ReferencePaperCache, PrefillIsTokenByTokenUntilTheBudgetIsExceeded) {
  std::unique_ptr<PaperCache> once = make(1, 4, 1000 * kToken);
  std::unique_ptr<PaperCache> steps = make(1, 4, 1000 * kToken);
  ASSERT_TRUE(append(*once, 15).ok());
  for (int i = 0; i < 15; ++i)
    ASSERT_TRUE(append(*steps, 1).ok());
  EXPECT_EQ(once->state().bodyTokens, 12);
  EXPECT_EQ(once->state().windowTokens, 2);
  EXPECT_EQ(steps->state().bodyTokens, 12);
  EXPECT_EQ(once->decode(0, kKey), steps->decode(0, kKey));
}

// The example of PaperCache.h.
TEST(ReferencePaperCache, HalvesTheBodyOnceTheCodesExceedTheBudget) {
  std::unique_ptr<PaperCache> cache = make(1, 32, 31457);
  ASSERT_TRUE(append(*cache, 61).ok());
  EXPECT_EQ(cache->bytes(), 61 * kToken);
  EXPECT_EQ(cache->state().bits, 16);
  ASSERT_TRUE(append(*cache, 1).ok());
  EXPECT_EQ(cache->state().bits, 8);
  EXPECT_EQ(cache->bytes(), 23552);
  EXPECT_EQ(cache->body(0, kKey).front().bits, 8);
  // The next window joins the body at its level.
  ASSERT_TRUE(append(*cache, 3).ok());
  EXPECT_EQ(cache->state().bodyTokens, 64);
  EXPECT_EQ(cache->body(0, kValue).back().bits, 8);
}

TEST(ReferencePaperCache, ABudgetThatIsMetExactlyIsNotExceeded) {
  std::unique_ptr<PaperCache> cache = make(0, 4, 8 * kToken);
  ASSERT_TRUE(append(*cache, 8).ok());
  EXPECT_EQ(cache->bytes(), 8 * kToken);
  EXPECT_EQ(cache->state().bits, 16);
  ASSERT_TRUE(append(*cache, 1).ok());
  EXPECT_EQ(cache->state().bits, 8);
}

TEST(ReferencePaperCache, OneHalvingAnUpdateEvenIfItDoesNotSuffice) {
  std::unique_ptr<PaperCache> cache = make(0, 4, 6 * kToken);
  ASSERT_TRUE(append(*cache, 40).ok());
  EXPECT_EQ(cache->state().bits, 8);
  EXPECT_GT(cache->bytes(), 6 * kToken);
  ASSERT_TRUE(append(*cache, 1).ok());
  EXPECT_EQ(cache->state().bits, 4);
  EXPECT_GT(cache->bytes(), 6 * kToken);
  ASSERT_TRUE(append(*cache, 1).ok());
  EXPECT_EQ(cache->state().bits, 2);
  EXPECT_GT(cache->bytes(), 6 * kToken);
  EXPECT_EQ(append(*cache, 1).code(), StatusCode::OutOfMemory);
  EXPECT_EQ(cache->memoryError(), PaperMemoryError::BitsTooSmall);
}

TEST(ReferencePaperCache, IsFullIfThereIsNoBodyToHalve) {
  std::unique_ptr<PaperCache> cache = make(1, 8, 5 * kToken);
  ASSERT_TRUE(append(*cache, 5).ok());
  EXPECT_EQ(append(*cache, 1).code(), StatusCode::OutOfMemory);
  EXPECT_EQ(cache->memoryError(), PaperMemoryError::CacheFull);
  EXPECT_EQ(cache->state().bits, 16);
}

TEST(ReferencePaperCache, AFailedUpdateIsStoredAndIsTheLast) {
  std::unique_ptr<PaperCache> cache = make(0, 8, 2 * kToken);
  EXPECT_EQ(append(*cache, 3).code(), StatusCode::OutOfMemory);
  EXPECT_EQ(cache->state().tokens, 3);
  EXPECT_EQ(cache->decode(0, kKey).size(), size_t(3 * kHeadDim));
  EXPECT_EQ(append(*cache, 1).code(), StatusCode::FailedPrecondition);
  EXPECT_EQ(cache->state().tokens, 3);
}

// A body of 3 x 2 groups a token; the budget counts all heads and channels.
TEST(ReferencePaperCache, CountsAllHeadsAndGroups) {
  PaperCacheOptions options;
  options.kvHeads = 3;
  options.headDim = 256;
  options.sinkTokens = 0;
  options.windowTokens = 2;
  options.budgetBytes = 4 * 3 * 2 * kToken;
  std::unique_ptr<PaperCache> cache;
  ASSERT_TRUE(PaperCache::create(options, cache).ok());
  std::mt19937 random(1);
  std::vector<float> keys(3 * 4 * 256), values(keys.size());
  for (float &value : keys)
    value = static_cast<float>(random() % 256);
  for (float &value : values)
    value = static_cast<float>(random() % 256);
  ASSERT_TRUE(cache->update(4, keys.data(), values.data()).ok());
  EXPECT_EQ(cache->bytes(), options.budgetBytes);
  EXPECT_EQ(cache->body(2, kKey).size(), 4u * 2);
  // At 16 bits, a group decodes to within bf16 of its values: 2^-9 of 255 for
  // the code, the product and the difference each.
  for (int32_t head = 0; head < 3; ++head)
    for (int64_t i = 0; i < 4 * 256; ++i) {
      int64_t element = head * 4 * 256 + i;
      ASSERT_NEAR(cache->decode(head, kKey)[i], keys[element], 1.5);
      ASSERT_NEAR(cache->decode(head, kValue)[i], values[element], 1.5);
    }
}

//===----------------------------------------------------------------------===//
// Refusals
//===----------------------------------------------------------------------===//

TEST(ReferencePaperCache, RefusesUpdatesThatThePaperStoresTwice) {
  std::unique_ptr<PaperCache> cache = make(0, 8, 1000 * kToken);
  ASSERT_TRUE(append(*cache, 5).ok());
  EXPECT_EQ(append(*cache, 4).code(), StatusCode::InvalidArgument);
  EXPECT_EQ(cache->state().tokens, 5);
  // Up to the end of a window, or from an empty one, there is no harm.
  EXPECT_TRUE(append(*cache, 11).ok());
  EXPECT_EQ(cache->state().bodyTokens, 16);
  EXPECT_TRUE(append(*cache, 13).ok());
  EXPECT_EQ(cache->state().bodyTokens, 24);
  EXPECT_TRUE(append(*cache, 2).ok());
  EXPECT_EQ(cache->state().windowTokens, 7);
}

TEST(ReferencePaperCache, RefusesWhatIsNoFiniteBf16ValueWithoutEffect) {
  std::unique_ptr<PaperCache> cache = make(0, 8, 1000 * kToken);
  std::vector<float> good(kHeadDim, 1.0f);
  for (float bad : {INFINITY, -INFINITY, NAN, 1.001f}) {
    std::vector<float> values = good;
    values[77] = bad;
    EXPECT_EQ(cache->update(1, good.data(), values.data()).code(),
              StatusCode::NotRepresentable);
    EXPECT_EQ(cache->update(1, values.data(), good.data()).code(),
              StatusCode::NotRepresentable);
  }
  EXPECT_EQ(append(*cache, 0).code(), StatusCode::InvalidArgument);
  EXPECT_EQ(cache->state().tokens, 0);
}

TEST(ReferencePaperCache, RefusesImpossibleOptions) {
  auto codeOf = [](void (*change)(PaperCacheOptions &)) {
    PaperCacheOptions options;
    change(options);
    std::unique_ptr<PaperCache> cache;
    StatusCode code = PaperCache::create(options, cache).code();
    EXPECT_EQ(cache != nullptr, code == StatusCode::Ok);
    return code;
  };
  EXPECT_EQ(codeOf([](PaperCacheOptions &) {}), StatusCode::Ok);
  for (auto change : {+[](PaperCacheOptions &o) { o.kvHeads = 0; },
                      +[](PaperCacheOptions &o) { o.headDim = 0; },
                      +[](PaperCacheOptions &o) { o.headDim = 64; },
                      +[](PaperCacheOptions &o) { o.sinkTokens = -1; },
                      +[](PaperCacheOptions &o) { o.windowTokens = 0; },
                      +[](PaperCacheOptions &o) { o.initialBits = 3; },
                      +[](PaperCacheOptions &o) { o.budgetBytes = -1; }})
    EXPECT_EQ(codeOf(change), StatusCode::InvalidArgument);
}

} // namespace
