//===- Sampling.cpp - From logits to a token ------------------------------===//
//
// The generator, a repeatable exp, and the draw.  Neighbours: Sampling.h has
// the mental model.  This file is compiled without contraction of
// multiplications and additions, which would change bits from one machine to
// another.
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/Sampling.h"

#include <algorithm>
#include <cmath>

using namespace pmkvq::rt;

/// The shortest text that tells the value in a message.
static std::string text(double value) {
  std::string result = std::to_string(value);
  return result.substr(0, result.find_last_not_of('0') + 1);
}

Status pmkvq::rt::checkSampling(const SamplingOptions &options) {
  if (!std::isfinite(options.temperature) || options.temperature < 0)
    return Status(StatusCode::InvalidArgument,
                  "temperature is " + text(options.temperature) +
                      "; a finite number from 0 (greedy) on is possible");
  // Written so that NaN fails too.
  if (!(options.topP > 0 && options.topP <= 1))
    return Status(StatusCode::InvalidArgument,
                  "top-p is " + text(options.topP) +
                      "; above 0 and up to 1 (all tokens) is possible");
  return Status();
}

int32_t pmkvq::rt::argmax(const float *logits, int64_t count) {
  return static_cast<int32_t>(std::max_element(logits, logits + count) -
                              logits);
}

//===----------------------------------------------------------------------===//
// Random numbers
//===----------------------------------------------------------------------===//

std::array<uint32_t, 4> pmkvq::rt::philox(std::array<uint32_t, 4> counter,
                                          std::array<uint32_t, 2> key) {
  for (int32_t round = 0; round < 10; ++round) {
    uint64_t a = uint64_t(0xD2511F53) * counter[0];
    uint64_t b = uint64_t(0xCD9E8D57) * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0],
               static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1],
               static_cast<uint32_t>(a)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

double pmkvq::rt::uniform(uint64_t seed, uint64_t stream, uint64_t position) {
  std::array<uint32_t, 4> words = philox(
      {static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32),
       static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)},
      {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  uint64_t bits = (uint64_t(words[0]) << 32 | words[1]) >> 11;
  return static_cast<double>(bits) * 0x1p-53;
}

//===----------------------------------------------------------------------===//
// Probabilities
//===----------------------------------------------------------------------===//

double pmkvq::rt::repeatableExp(double x) {
  if (!(x > -693.0)) // 2^-1000
    return 0;
  // x = n ln 2 + r with |r| <= 0.35; ln 2 in two parts, the first with enough
  // trailing zeros that n times it is exact.
  double n = std::floor(x * 1.4426950408889634 + 0.5);
  double r = (x - n * 0x1.62e42feep-1) - n * 0x1.a39ef35793c76p-33;
  // Taylor's series; the first term left out is below 2^-58.
  double sum = 1;
  for (int32_t k = 14; k >= 1; --k)
    sum = 1 + sum * r / k;
  return std::ldexp(sum, static_cast<int>(n));
}

/// Fills weights_ with exp((logit - largest) / temperature).
void Sampler::weigh(const float *logits, int64_t count, double temperature) {
  weights_.resize(count);
  double largest = logits[argmax(logits, count)];
  for (int64_t i = 0; i < count; ++i)
    weights_[i] = repeatableExp((logits[i] - largest) / temperature);
}

/// Fills kept_ with the fewest ids that reach `topP`, most probable first, ties
/// by id.
void Sampler::keepMostProbable(const float *logits, double topP) {
  double total = 0;
  for (double weight : weights_)
    total += weight;
  heap_.resize(weights_.size());
  for (size_t i = 0; i < heap_.size(); ++i)
    heap_[i] = static_cast<int32_t>(i);
  // By logit, not by weight: small weights may both be 0.
  auto less = [logits](int32_t a, int32_t b) {
    return logits[a] < logits[b] || (logits[a] == logits[b] && a > b);
  };
  // A heap: few ids are taken of many, so sorting them all would be waste.
  std::make_heap(heap_.begin(), heap_.end(), less);
  double sum = 0;
  while (!heap_.empty() && (kept_.empty() || sum < topP * total)) {
    std::pop_heap(heap_.begin(), heap_.end(), less);
    kept_.push_back(heap_.back());
    sum += weights_[heap_.back()];
    heap_.pop_back();
  }
}

int32_t Sampler::sample(const float *logits, int64_t count,
                        const SamplingOptions &options, uint64_t stream,
                        uint64_t position) {
  if (options.temperature == 0)
    return argmax(logits, count);
  weigh(logits, count, options.temperature);
  kept_.clear();
  kept_.reserve(count);
  if (options.topP < 1)
    keepMostProbable(logits, options.topP);
  else
    for (int64_t i = 0; i < count; ++i)
      kept_.push_back(static_cast<int32_t>(i));
  double total = 0;
  for (int32_t id : kept_)
    total += weights_[id];
  double threshold = uniform(options.seed, stream, position) * total;
  double sum = 0;
  int32_t last = kept_.front();
  for (int32_t id : kept_) {
    if (weights_[id] == 0)
      continue;
    last = id;
    sum += weights_[id];
    if (sum > threshold)
      break;
  }
  return last;
}
