//===- Machine.cpp - What this machine's CPU has --------------------------===//
//
// Names as LLVM spells them.  Neighbours: Artifact.h, and HostProgram.cpp,
// which chooses the features that code is made for.
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/Artifact.h"

#include <utility>

using namespace pmkvq::rt;

const char *pmkvq::rt::machineArchitecture() {
#if defined(__x86_64__)
  return "x86_64";
#elif defined(__aarch64__)
  return "aarch64";
#else
  return "another";
#endif
}

std::optional<bool> pmkvq::rt::machineHas(const std::string &feature) {
  // Any machine of its architecture.
  if (feature == "x86-64" || feature == "generic")
    return true;
#if defined(__x86_64__)
  __builtin_cpu_init();
  // The compiler takes names as literals only.
  const std::pair<const char *, bool> known[] = {
      {"x86-64-v3", __builtin_cpu_supports("x86-64-v3") != 0},
      {"x86-64-v4", __builtin_cpu_supports("x86-64-v4") != 0},
      {"avx2", __builtin_cpu_supports("avx2") != 0},
      {"fma", __builtin_cpu_supports("fma") != 0},
      {"f16c", __builtin_cpu_supports("f16c") != 0},
      {"avx512f", __builtin_cpu_supports("avx512f") != 0},
      {"avx512bw", __builtin_cpu_supports("avx512bw") != 0},
      {"avx512dq", __builtin_cpu_supports("avx512dq") != 0},
      {"avx512vl", __builtin_cpu_supports("avx512vl") != 0},
      {"avx512vnni", __builtin_cpu_supports("avx512vnni") != 0}};
  for (auto [name, has] : known)
    if (feature == name)
      return has;
#endif
  return std::nullopt;
}
