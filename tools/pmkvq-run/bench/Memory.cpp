//===- Memory.cpp - What this machine has left ----------------------------===//
//
// Neighbours: Memory.h.
//
//===----------------------------------------------------------------------===//

#include "Memory.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <limits>
#include <sstream>

using namespace pmkvq;
namespace rt = ::pmkvq::rt;

static constexpr int64_t kUnknown = std::numeric_limits<int64_t>::max();

/// MemAvailable: free, or held by caches that give way.
static int64_t machineBytes() {
  std::ifstream lines("/proc/meminfo");
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string name;
    int64_t kib = 0;
    if (words >> name >> kib && name == "MemAvailable:")
      return kib * 1024;
  }
  return kUnknown;
}

/// The limit of the container, if there is one ("max": none).
static int64_t groupBytes() {
  std::ifstream file("/sys/fs/cgroup/memory.max");
  int64_t bytes = 0;
  return file >> bytes ? bytes : kUnknown;
}

static std::string gibText(int64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.1f GiB",
                static_cast<double>(bytes) * 0x1p-30);
  return text;
}

rt::Status bench::checkMemory(const std::string &what, int64_t bytes) {
  int64_t left = std::min(machineBytes(), groupBytes());
  if (bytes <= left)
    return {};
  return {rt::StatusCode::OutOfMemory,
          what + " take " + gibText(bytes) + " of memory, this machine has " +
              gibText(left) + " left; use fewer sequences, tokens or heads"};
}
