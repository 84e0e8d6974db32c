//===- RuntimeLinearTest.cpp - Tests of products with bf16 weights --------===//
//
// pmkvq_rt_linear against double precision, over shapes that cross every block
// edge.
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/Launch.h"

#include "gtest/gtest.h"

#include <cmath>
#include <cstring>
#include <fstream>
#include <random>
#include <string>

using namespace pmkvq::rt;

namespace {
struct Product {
  int64_t m, n, k;
  std::vector<float> x;
  std::vector<uint16_t> w;
  std::vector<float> y;
};
} // namespace

static float fromBf16(uint16_t bits) {
  uint32_t wide = uint32_t(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

static Product makeProduct(int64_t m, int64_t n, int64_t k) {
  std::mt19937 random(static_cast<uint32_t>(m * 31 + n * 7 + k));
  std::normal_distribution<float> normal;
  Product product{m, n, k, {}, {}, {}};
  product.x.resize(m * k);
  product.w.resize(n * k);
  product.y.resize(m * n);
  for (float &value : product.x)
    value = normal(random);
  for (uint16_t &bits : product.w) {
    float value = normal(random);
    uint32_t wide;
    std::memcpy(&wide, &value, sizeof(wide));
    bits = static_cast<uint16_t>(wide >> 16);
  }
  for (float &value : product.y)
    value = normal(random);
  return product;
}

static std::vector<float> run(const Product &product, int32_t threads) {
  Result<std::unique_ptr<ThreadPool>> pool = ThreadPool::create(threads);
  EXPECT_TRUE(pool.ok());
  HookContext context{std::move(*pool)};
  std::vector<float> y = product.y;
  pmkvq_rt_linear(&context, product.x.data(), product.w.data(), y.data(),
                  product.m, product.n, product.k);
  return y;
}

/// Any order of summing k products in f32 is off by at most (k + 1) * 2^-24
/// times the sum of their magnitudes; one more rounding adds them to y.
static void expectClose(const Product &product, const std::vector<float> &y) {
  for (int64_t i = 0; i < product.m; ++i)
    for (int64_t j = 0; j < product.n; ++j) {
      double sum = product.y[i * product.n + j];
      double magnitude = std::fabs(sum);
      for (int64_t l = 0; l < product.k; ++l) {
        double term = double(product.x[i * product.k + l]) *
                      fromBf16(product.w[j * product.k + l]);
        sum += term;
        magnitude += std::fabs(term);
      }
      double tolerance = std::ldexp(magnitude * (product.k + 2), -24);
      ASSERT_NEAR(y[i * product.n + j], sum, tolerance)
          << "m " << product.m << " n " << product.n << " k " << product.k
          << " at " << i << ", " << j;
    }
}

TEST(Linear, MatchesDoublePrecisionAcrossBlockEdges) {
  const int64_t shapes[][3] = {{1, 1, 1},     {1, 33, 17},   {1, 576, 576},
                               {2, 130, 64},  {7, 31, 1100}, {9, 129, 2050},
                               {8, 32, 1024}, {3, 40, 100},  {4, 20, 77},
                               {5, 64, 33},   {6, 33, 50},   {257, 140, 30},
                               {300, 64, 65}};
  for (const auto &shape : shapes) {
    Product product = makeProduct(shape[0], shape[1], shape[2]);
    expectClose(product, run(product, 2));
  }
}

TEST(Linear, BitsDoNotDependOnThreads) {
  for (int64_t m : {1, 5, 70, 520}) {
    Product product = makeProduct(m, 300, 200);
    std::vector<float> one = run(product, 1);
    for (int32_t threads : {2, 3, 8}) {
      std::vector<float> y = run(product, threads);
      EXPECT_EQ(std::memcmp(one.data(), y.data(), y.size() * sizeof(float)), 0);
    }
  }
}

TEST(Linear, EmptyShapesLeaveYAlone) {
  Product product = makeProduct(2, 3, 4);
  Result<std::unique_ptr<ThreadPool>> pool = ThreadPool::create(1);
  ASSERT_TRUE(pool.ok());
  HookContext context{std::move(*pool)};
  std::vector<float> y = product.y;
  pmkvq_rt_linear(&context, product.x.data(), product.w.data(), y.data(), 0, 3,
                  4);
  pmkvq_rt_linear(&context, product.x.data(), product.w.data(), y.data(), 2, 3,
                  0);
  EXPECT_EQ(y, product.y);
}

static int threadsOfProcess() {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);)
    if (line.rfind("Threads:", 0) == 0)
      return std::stoi(line.substr(8));
  return -1;
}

// oneDNN's OpenMP would start threads of its own, which fight ours; they live
// on after the call, so counting afterwards finds them.
TEST(Linear, StartsNoThreadsOfItsOwn) {
  Result<std::unique_ptr<ThreadPool>> pool = ThreadPool::create(3);
  ASSERT_TRUE(pool.ok());
  HookContext context{std::move(*pool)};
  int before = threadsOfProcess();
  ASSERT_GE(before, 3);
  Product product = makeProduct(512, 512, 512);
  std::vector<float> y = product.y;
  for (int round = 0; round < 3; ++round)
    pmkvq_rt_linear(&context, product.x.data(), product.w.data(), y.data(),
                    product.m, product.n, product.k);
  EXPECT_EQ(threadsOfProcess(), before);
}
