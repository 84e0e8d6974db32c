//===- BenchShapeTest.cpp - Shapes as users write them --------------------===//
//
// Contexts, levels, formats, sweeps and tables.  Neighbours: Shape.h, Sweep.h.
//
//===----------------------------------------------------------------------===//

#include "bench/Sweep.h"

#include <gtest/gtest.h>

namespace bench = pmkvq::bench;
namespace rt = pmkvq::rt;
using rt::StatusCode;
using rt::UnitKind;

namespace {
bench::Shape shape(const std::string &context, const std::string &levels = "4",
                   int64_t batch = 1) {
  bench::Shape shape;
  shape.context = context;
  shape.levels = levels;
  shape.batch = batch;
  return shape;
}

bench::Problem make(const bench::Shape &shape) {
  auto problem = bench::understand(shape);
  EXPECT_TRUE(problem.ok()) << problem.status().message();
  return *problem;
}

TEST(BenchContextTest, WholePagesHaveNoFixedArea) {
  bench::Problem problem = make(shape("32768", "4", 3));
  ASSERT_EQ(problem.lengths.size(), 3u);
  EXPECT_EQ(problem.lengths[2].pages, 256);
  EXPECT_EQ(problem.lengths[2].fixedTokens, 0);
}

TEST(BenchContextTest, OthersHaveASinkAndAWindow) {
  const std::pair<const char *, std::pair<int64_t, int64_t>> cases[] = {
      {"1", {0, 1}},     {"129", {0, 129}}, {"130", {1, 2}},
      {"257", {1, 129}}, {"258", {2, 2}},   {"1000", {7, 104}}};
  for (auto &[context, expected] : cases) {
    bench::Length length = make(shape(context)).lengths[0];
    EXPECT_EQ(length.pages, expected.first) << context;
    EXPECT_EQ(length.fixedTokens, expected.second) << context;
    EXPECT_EQ(length.tokens(), std::stoll(context));
  }
}

TEST(BenchContextTest, QueryTokensFollowInOneWindow) {
  const std::pair<const char *, std::pair<int64_t, int64_t>> cases[] = {
      {"32768+4", {256, 4}}, {"100+16", {0, 116}}, {"241+16", {1, 129}}};
  for (auto &[context, expected] : cases) {
    bench::Problem problem = make(shape(context));
    EXPECT_EQ(problem.lengths[0].pages, expected.first) << context;
    EXPECT_EQ(problem.lengths[0].fixedTokens, expected.second) << context;
  }
  EXPECT_EQ(make(shape("256+1")).lengths[0].fixedTokens, 0);
  bench::Problem ragged = make(shape("ragged:100-3000+9", "4", 20));
  EXPECT_EQ(ragged.rows, 9);
  for (const bench::Length &length : ragged.lengths) {
    EXPECT_GE(length.fixedTokens, 9);
    EXPECT_LE(length.fixedTokens, 129);
  }
  // Row 2 of the second sequence's last kv head.
  EXPECT_EQ(ragged.queryPair(15, 2), (9 + 2) * 8 + 7);
  // A session flushes before them.
  for (auto [context, word] : {std::pair("242+16", "up to 113"),
                               {"128+17", "1 to 16"},
                               {"128+0", "1 to 16"},
                               {"128+", "1 to 16"}}) {
    auto problem = bench::understand(shape(context));
    ASSERT_FALSE(problem.ok()) << context;
    EXPECT_NE(problem.status().message().find(word), std::string::npos)
        << problem.status().message();
  }
}

TEST(BenchContextTest, RaggedLengthsReachBothEndsAndRepeat) {
  bench::Problem problem = make(shape("ragged:100-32768", "4", 20));
  EXPECT_EQ(problem.lengths[0].tokens(), 100);
  EXPECT_EQ(problem.lengths[1].tokens(), 32768);
  EXPECT_EQ(problem.lengths[1].pages, 255);
  EXPECT_EQ(problem.lengths[1].fixedTokens, 128);
  for (const bench::Length &length : problem.lengths) {
    EXPECT_GE(length.tokens(), 100);
    EXPECT_LE(length.tokens(), 32768);
    EXPECT_GE(length.fixedTokens, 1);
    EXPECT_LE(length.fixedTokens, 129);
  }
  bench::Problem again = make(shape("ragged:100-32768", "4", 20));
  for (size_t i = 0; i < 20; ++i)
    EXPECT_EQ(again.lengths[i].tokens(), problem.lengths[i].tokens());
}

TEST(BenchLevelsTest, PagesAreCutInProportionOldestFirst) {
  bench::Problem problem = make(shape("32768", "mixed:2=192/4=48/8=16"));
  int64_t counts[17] = {};
  int32_t last = 2;
  for (int64_t page = 0; page < 256; ++page) {
    UnitKind kind = problem.kindOf(page, 256);
    EXPECT_EQ(kind.key, kind.value);
    EXPECT_GE(kind.key, last);
    last = kind.key;
    ++counts[kind.key];
  }
  EXPECT_EQ(counts[2], 192);
  EXPECT_EQ(counts[4], 48);
  EXPECT_EQ(counts[8], 16);
  // Other lengths keep the proportions as far as pages are whole.
  EXPECT_EQ(problem.kindOf(5, 8).key, 2);
  EXPECT_EQ(problem.kindOf(6, 8).key, 4);
  EXPECT_EQ(problem.kindOf(7, 8).key, 8);
  EXPECT_EQ(problem.kindOf(0, 1).key, 8);
}

TEST(BenchLevelsTest, AMixNamesALevelOnce) {
  for (const char *levels :
       {"mixed:2=6/2=3", "mixed:2=1/4=1/2=1", "mixed:k2v2=1/2=1"}) {
    auto problem = bench::understand(shape("128", levels));
    ASSERT_FALSE(problem.ok()) << levels;
    EXPECT_EQ(problem.status().code(), StatusCode::InvalidArgument);
    EXPECT_NE(problem.status().message().find("once, not 2 again"),
              std::string::npos);
  }
}

TEST(BenchLevelsTest, NoScheduleLeavesOlderPagesWithMoreBits) {
  for (const char *levels : {"4", "mixed:2=3/k4v2=2/4=1/k8v4=1/16=1"})
    EXPECT_TRUE(bench::checkOrder(make(shape("1024", levels))).ok()) << levels;
  const std::pair<const char *, const char *> falling[] = {
      {"mixed:16=1/2=1", "16 before 2"},
      {"mixed:2=1/k4v8=1/k8v4=1", "k4v8 before k8v4"}};
  for (auto &[levels, words] : falling) {
    rt::Status status = bench::checkOrder(make(shape("1024", levels)));
    EXPECT_EQ(status.code(), StatusCode::InvalidArgument);
    EXPECT_NE(status.message().find(words), std::string::npos);
  }
}

TEST(BenchLevelsTest, CountsAreThoseOfThePages) {
  bench::Shape made = shape("ragged:1-5000", "mixed:2=3/k16v4=1/16=2", 7);
  bench::Problem problem = make(made);
  int64_t blocks = 0, slots = 0;
  for (const bench::Length &length : problem.lengths)
    for (int64_t page = 0; page < length.pages; ++page) {
      UnitKind kind = problem.kindOf(page, length.pages);
      blocks += made.kvHeads * (kind.key + kind.value) / 2;
      slots += made.kvHeads * (kind.value < 16);
    }
  EXPECT_EQ(problem.counts().blocks, blocks);
  EXPECT_EQ(problem.counts().slots, slots);
  // The first sequence is a fixed area alone.
  EXPECT_EQ(problem.kinds(),
            (std::vector<UnitKind>{{16, 16}, {2, 2}, {16, 4}}));
}

TEST(BenchLevelsTest, SidesMayBeApart) {
  bench::Problem problem = make(shape("300", "k4v2"));
  EXPECT_EQ(problem.kindOf(0, 2), (UnitKind{4, 2}));
  // And the fixed area.
  EXPECT_EQ(problem.kinds().size(), 2u);
  EXPECT_EQ(problem.kinds()[1], (UnitKind{16, 16}));
}

TEST(BenchShapeTest, WhatIsNoShapeIsRefusedWithWhatIsOne) {
  for (const char *context : {"", "0", "-5", "12x", "ragged:", "ragged:5",
                              "ragged:9-5", "ragged:0-5", "99999999999"}) {
    auto problem = bench::understand(shape(context));
    ASSERT_FALSE(problem.ok()) << context;
    EXPECT_EQ(problem.status().code(), StatusCode::InvalidArgument);
    EXPECT_NE(problem.status().message().find("ragged:100-32768"),
              std::string::npos);
  }
  for (const char *levels : {"", "3", "k4", "k4v", "v4", "kv", "k4v3", "mixed:",
                             "mixed:2", "mixed:2=0", "mixed:2=1/", "32"}) {
    auto problem = bench::understand(shape("128", levels));
    ASSERT_FALSE(problem.ok()) << levels;
    EXPECT_EQ(problem.status().code(), StatusCode::InvalidArgument);
    EXPECT_NE(problem.status().message().find(std::string("'") + levels + "'"),
              std::string::npos);
  }
  bench::Shape heads = shape("128");
  heads.queryHeads = 30;
  EXPECT_EQ(bench::understand(heads).status().code(),
            StatusCode::InvalidArgument);
  bench::Shape narrow = shape("128");
  narrow.headDim = 72;
  EXPECT_EQ(bench::understand(narrow).status().code(),
            StatusCode::Unimplemented);
  bench::Shape paper = shape("128");
  paper.keyFormat = "<paper>";
  EXPECT_EQ(bench::understand(paper).status().code(),
            StatusCode::Unimplemented);
}

TEST(BenchShapeTest, IdsOfBlocksHave32Bits) {
  bench::Shape large = shape("67108864", "2", 511);
  EXPECT_EQ(make(large).counts().blocks, int64_t(511) << 23);
  large.batch = 65536;
  auto problem = bench::understand(large);
  ASSERT_FALSE(problem.ok());
  EXPECT_EQ(problem.status().code(), StatusCode::InvalidArgument);
  for (const char *words : {"4294967295 blocks", "549755813888"})
    EXPECT_NE(problem.status().message().find(words), std::string::npos);
}

// 35 TB of blocks.
TEST(BenchCaseTest, WhatTheMachineCannotHoldIsNotAllocated) {
  bench::Shape large = shape("67108864", "2", 256);
  large.headDim = 512;
  for (pmkvq::Order order : {pmkvq::Order::Host, pmkvq::Order::Device}) {
    auto content = bench::Case::create(make(large), order, /*seed=*/1);
    ASSERT_FALSE(content.ok());
    EXPECT_EQ(content.status().code(), StatusCode::OutOfMemory);
    for (const char *words : {"GiB of memory", "this machine has"})
      EXPECT_NE(content.status().message().find(words), std::string::npos);
  }
}

TEST(BenchSweepTest, TooManyCombinationsAreRefused) {
  bench::Sweep sweep;
  sweep.contexts.assign(2500, "128");
  EXPECT_TRUE(bench::checkCount(sweep).ok());
  sweep.batches = {1, 2};
  EXPECT_EQ(bench::checkCount(sweep).code(), StatusCode::InvalidArgument);
  sweep.queryHeads.assign(1'000'000, 8);
  EXPECT_FALSE(bench::checkCount(sweep).ok());
}

TEST(BenchSweepTest, EveryCombinationOnceInOrder) {
  bench::Sweep sweep;
  sweep.batches = {1, 8};
  sweep.contexts = {"128", "256", "512"};
  sweep.levels = {"4", "2"};
  auto shapes = bench::expand(sweep, "99");
  ASSERT_EQ(shapes.size(), 12u);
  EXPECT_EQ(shapes[0].levels, "4");
  EXPECT_EQ(shapes[1].levels, "2");
  EXPECT_EQ(shapes[2].context, "256");
  EXPECT_EQ(shapes[6].batch, 8);
  sweep.contexts.clear();
  EXPECT_EQ(bench::expand(sweep, "99").front().context, "99");
}

TEST(BenchPeersTest, TheFastestOfOthersIsFoundByShape) {
  bench::Shape known = shape("32768", "2", 8);
  auto peer = bench::findPeer(known);
  ASSERT_TRUE(peer.has_value());
  EXPECT_EQ(peer->kernel, "cuda-prototype-pdl");
  EXPECT_EQ(peer->microseconds, 37.0);
  known.queryHeads = 64;
  peer = bench::findPeer(known);
  ASSERT_TRUE(peer.has_value());
  EXPECT_EQ(peer->kernel, "bitdecoding-main/2kc");
  EXPECT_EQ(peer->microseconds, 133.79);
  known.context = "32769";
  EXPECT_FALSE(bench::findPeer(known).has_value());
}

TEST(BenchTableTest, ColumnsAreInTheirOrder) {
  EXPECT_EQ(bench::csvHeader(),
            "device,kv_heads,q_heads,head_dim,batch,context,levels,key_format,"
            "value_format,us,spread,bytes,read_us,ratio,rms_rel_err,"
            "max_rel_err,peer,peer_us\n");
  bench::Measurement row;
  row.device = "cuda";
  row.attention = {40, 0.5};
  row.bytes = 150994944;
  row.readMicroseconds = 32;
  row.errors = {1.5e-4, 6e-4};
  EXPECT_EQ(bench::csvLine(shape("32768", "2", 8), row),
            "cuda,8,32,128,8,32768,2,per_channel+hadamard,per_token+hadamard,"
            "40.000,0.500,150994944,32.000,1.2500,1.500e-04,6.000e-04,"
            "cuda-prototype-pdl,37.00\n");
  row.device = "cpu";
  std::string line = bench::csvLine(shape("32768", "2", 8), row);
  EXPECT_EQ(line.substr(line.size() - 3), ",,\n");
}

TEST(BenchTableTest, FewBytesAreNotZeroMegabytes) {
  bench::Measurement row;
  row.device = "cpu";
  row.readMicroseconds = 1;
  const std::pair<int64_t, const char *> cases[] = {
      {128, " 0.000128 "}, {999'999, " 0.999999 "}, {1'000'000, "      1.0 "}};
  for (auto [bytes, text] : cases) {
    row.bytes = bytes;
    EXPECT_NE(bench::textLine(shape("1"), row).find(text), std::string::npos);
  }
}

TEST(BenchTableTest, WhatIsBesideNoReadingHasNoRatio) {
  bench::Measurement row;
  row.device = "cuda";
  row.attention = {2000, 10};
  row.isAttention = false;
  row.operations = 1'200'000'000'000;
  std::string line = bench::textLine(shape("32768", "4"), row);
  EXPECT_NE(line.find(" - "), std::string::npos);
  EXPECT_EQ(line.find("inf"), std::string::npos);
  EXPECT_NE(line.find("600.0 TFLOP/s"), std::string::npos);
}

TEST(BenchTimingTest, MediansAndSpreadsAreOfOneLaunch) {
  std::vector<double> times;
  for (int i = 31; i > 0; --i)
    times.push_back(i * 8);
  bench::Timing timing = bench::summarize(times, 8);
  EXPECT_EQ(timing.median, 16);
  EXPECT_EQ(timing.spread, 28 - 4);
  EXPECT_EQ(bench::launchesOf(3), 9);
  EXPECT_EQ(bench::launchesOf(20), 20);
  EXPECT_EQ(bench::setsOf(1000000000), 2);
}
} // namespace
