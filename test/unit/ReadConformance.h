//===- ReadConformance.h - What reading a cache must give -------*- C++ -*-===//
//
// The reading half of the back ends' conformance: one suite, typed over a back
// end, of attention over caches at every level, compared with double precision.
// RuntimeConformance.h is the writing half.  Neighbours:
// AttentionReadConformanceTest.cpp (the back ends), bench/Case.h (the content
// and the reference).
//
// struct Backend {
//   /// Why the back end cannot run here; empty: it can.
//   static std::string unavailable();
//   /// Runs attention twice over poisoned results and compares.
//   static rt::Result<bench::Errors> check(const bench::Problem &);
//   /// Head dims that it supports.
//   static constexpr int64_t kHeadDims[];
//   /// Bounds on the errors of right results.
//   static bench::Errors bounds(const bench::Problem &);
// };
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TEST_UNIT_READCONFORMANCE_H
#define PMKVQ_TEST_UNIT_READCONFORMANCE_H

#include "RequireGpu.h"
#include "bench/Sweep.h"

#include <gtest/gtest.h>

namespace pmkvq::test {

template <typename Backend> class ReadConformance : public testing::Test {
protected:
  void SetUp() override { PMKVQ_SKIP_UNLESS_EMPTY(Backend::unavailable()); }

  /// Two kv heads with three queries each.
  static bench::Shape shape(const std::string &levels,
                            const std::string &context) {
    bench::Shape shape;
    shape.kvHeads = 2;
    shape.queryHeads = 6;
    shape.batch = 3;
    shape.context = context;
    shape.levels = levels;
    return shape;
  }

  /// At each level over few tokens, where errors show most, over a window
  /// beside pages, and over many tokens.
  static void expectAllRight(const char *inputs) {
    for (const char *levels : {"16", "8", "4", "2"})
      for (const char *context : {"256", "ragged:200-3000", "16384"}) {
        bench::Shape made = shape(levels, context);
        made.inputs = inputs;
        expectRight(made);
      }
  }

  static void expectRight(const bench::Shape &shape) {
    auto problem = bench::understand(shape);
    ASSERT_TRUE(problem.ok()) << problem.status().message();
    auto errors = Backend::check(*problem);
    std::string what = bench::describe(shape) + ", " + shape.keyFormat + " " +
                       shape.valueFormat;
    ASSERT_TRUE(errors.ok()) << what << ": " << errors.status().message();
    bench::Errors bounds = Backend::bounds(*problem);
    EXPECT_LE(errors->rms, bounds.rms) << what;
    EXPECT_LE(errors->largest, bounds.largest) << what;
  }
};

TYPED_TEST_SUITE_P(ReadConformance);

TYPED_TEST_P(ReadConformance, EveryLevel) {
  for (const char *levels : {"16", "8", "4", "2"})
    for (const char *context : {"128", "1024", "4096"})
      this->expectRight(this->shape(levels, context));
}

TYPED_TEST_P(ReadConformance, LevelsOfKeysAndValuesApart) {
  for (const char *levels : {"k16v8", "k16v4", "k16v2", "k8v16", "k8v4", "k8v2",
                             "k4v16", "k4v8", "k4v2", "k2v16", "k2v8", "k2v4"})
    this->expectRight(this->shape(levels, "1024"));
  // With windows, and with keys' parameters per token.
  for (const char *levels : {"k16v2", "k2v16"}) {
    bench::Shape shape = this->shape(levels, "ragged:1-3000");
    shape.keyFormat = "<per_token, hadamard>";
    this->expectRight(shape);
  }
}

TYPED_TEST_P(ReadConformance, LevelsMixedInOneSequence) {
  this->expectRight(this->shape("mixed:2=192/4=48/8=15/16=1", "4096"));
  this->expectRight(this->shape("mixed:16=1/k4v2=1/2=1/k8v2=1/8=1", "2560"));
  this->expectRight(this->shape("mixed:16=1/k16v4=2/k2v16=1/4=3", "2600"));
}

TYPED_TEST_P(ReadConformance, RaggedBatchesWithSinkAndWindow) {
  for (const char *levels : {"16", "4", "mixed:2=3/4=2/8=1"})
    this->expectRight(this->shape(levels, "ragged:1-5000"));
  // Without any page; one token; a full window.
  for (const char *context : {"100", "1", "129", "130"})
    this->expectRight(this->shape("2", context));
}

TYPED_TEST_P(ReadConformance, SeveralQueryTokens) {
  for (const char *levels : {"16", "4", "mixed:2=3/k4v16=2/8=1"})
    for (const char *context :
         {"128+2", "1024+4", "120+5", "ragged:1-3000+16", "16384+7"})
      this->expectRight(this->shape(levels, context));
  // A segment has all the rows, as many as queries allow, or one.
  for (int64_t group : {1, 4, 8, 9, 16}) {
    bench::Shape shape = this->shape("2", "2600+16");
    shape.queryHeads = shape.kvHeads * group;
    this->expectRight(shape);
  }
}

// 12 queries, and 48 of which keys far from 0 are raw.
TYPED_TEST_P(ReadConformance, SeveralQueryTokensOfHardInputs) {
  auto expect = [&](const char *inputs, const char *levels,
                    const char *context) {
    bench::Shape shape = this->shape(levels, context);
    shape.inputs = inputs;
    this->expectRight(shape);
  };
  for (const char *levels :
       {"16", "8", "4", "2", "k2v16", "mixed:k2v8=2/8=1/k8v16=1"})
    expect("outliers", levels, "3000+4");
  expect("outliers", "16", "ragged:200-1500+16");
  for (const char *levels : {"8", "4", "2", "mixed:k2v8=2/8=1"})
    for (const char *context : {"3000+4", "ragged:200-1500+16"})
      expect("huge", levels, context);
}

TYPED_TEST_P(ReadConformance, FormatsOfBothAxes) {
  bench::Shape shape = this->shape("2", "1500");
  shape.keyFormat = "<per_token, hadamard>";
  this->expectRight(shape);
  shape.keyFormat = "<per_channel, plain, clip = 0.75>";
  shape.valueFormat = "<per_token, plain, clip = 0.85>";
  this->expectRight(shape);
}

TYPED_TEST_P(ReadConformance, ValuesWithARangeAlone) {
  for (const char *levels : {"8", "4", "2", "k4v16"})
    for (const char *inputs : {"normal", "tiny", "huge", "constant"}) {
      bench::Shape shape = this->shape(levels, "ragged:1-3000");
      shape.valueFormat = "<per_token_symmetric, hadamard>";
      shape.inputs = inputs;
      this->expectRight(shape);
    }
  for (const char *keyFormat : {"<per_channel, hadamard>", "<per_token>"})
    for (int64_t headDim : {64, 80, 256}) {
      bench::Shape shape =
          this->shape("mixed:2=1/k8v2=1/4=1/k16v4=1/16=1", "1100");
      shape.headDim = headDim;
      shape.queryHeads = 16;
      shape.keyFormat = keyFormat;
      shape.valueFormat = "<per_token_symmetric, plain, clip = 0.75>";
      this->expectRight(shape);
    }
}

TYPED_TEST_P(ReadConformance, GroupsOfOneToSixteenQueries) {
  for (int64_t group : {1, 2, 4, 5, 8, 9, 16}) {
    bench::Shape shape = this->shape("mixed:2=1/4=1/8=1/16=1", "1100");
    shape.queryHeads = 2 * group;
    this->expectRight(shape);
  }
  bench::Shape shape = this->shape("mixed:k16v2=1/k4v16=1", "1100");
  for (int64_t group : {8, 16}) {
    shape.queryHeads = 2 * group;
    this->expectRight(shape);
  }
}

TYPED_TEST_P(ReadConformance, HeadDims) {
  for (int64_t headDim : TypeParam::kHeadDims) {
    bench::Shape shape = this->shape("mixed:2=1/4=1/8=1/16=1", "1100");
    shape.headDim = headDim;
    shape.queryHeads = 6;
    this->expectRight(shape);
    shape.queryHeads = 16;
    shape.levels = "mixed:k16v2=1/k4v16=1/k2v8=1/k8v4=1";
    shape.keyFormat = "<per_token, hadamard>";
    this->expectRight(shape);
  }
}

TYPED_TEST_P(ReadConformance, NormalInputs) { this->expectAllRight("normal"); }
TYPED_TEST_P(ReadConformance, OutlierChannels) {
  this->expectAllRight("outliers");
}
TYPED_TEST_P(ReadConformance, TinyRanges) { this->expectAllRight("tiny"); }
TYPED_TEST_P(ReadConformance, HugeRanges) { this->expectAllRight("huge"); }
TYPED_TEST_P(ReadConformance, ConstantGroups) {
  this->expectAllRight("constant");
}

// Where tokens are many, kernels are others: 12 and 24 queries.
TYPED_TEST_P(ReadConformance, SeveralQueryTokensOverWideRanges) {
  for (const char *inputs : {"hundreds", "thousands", "myriads", "sharp"})
    for (const char *levels : {"8", "4", "2", "mixed:2=3/k4v16=2/8=1"})
      for (const char *context : {"1024+4", "ragged:200-3000+8"}) {
        bench::Shape shape = this->shape(levels, context);
        shape.inputs = inputs;
        this->expectRight(shape);
      }
}

TYPED_TEST_P(ReadConformance, WhatIsNoNumberStaysNone) {
  for (const char *keyFormat : {"<per_channel, hadamard>", "<per_token>"})
    for (const char *levels : {"16", "4", "mixed:2=1/8=1"}) {
      bench::Shape shape = this->shape(levels, "ragged:200-1500");
      shape.keyFormat = keyFormat;
      shape.inputs = "nan";
      this->expectRight(shape);
    }
}

REGISTER_TYPED_TEST_SUITE_P(
    ReadConformance, EveryLevel, LevelsOfKeysAndValuesApart,
    LevelsMixedInOneSequence, RaggedBatchesWithSinkAndWindow,
    SeveralQueryTokens, FormatsOfBothAxes, ValuesWithARangeAlone,
    GroupsOfOneToSixteenQueries, HeadDims, NormalInputs, OutlierChannels,
    TinyRanges, HugeRanges, ConstantGroups, SeveralQueryTokensOfHardInputs,
    SeveralQueryTokensOverWideRanges, WhatIsNoNumberStaysNone);

} // namespace pmkvq::test

#endif // PMKVQ_TEST_UNIT_READCONFORMANCE_H
