//===- Machine.cpp - What this machine's CPU has --------------------------===//
//
// Names as LLVM spells them.  Neighbours: Artifact.h, and HostProgram.cpp,
// which chooses the features that code is made for.
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/Artifact.h"

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
#define PMKVQ_FEATURE(name)                                                    \
  if (feature == name)                                                         \
  return __builtin_cpu_supports(name) != 0
  PMKVQ_FEATURE("x86-64-v3");
  PMKVQ_FEATURE("x86-64-v4");
  PMKVQ_FEATURE("avx2");
  PMKVQ_FEATURE("fma");
  PMKVQ_FEATURE("f16c");
  PMKVQ_FEATURE("avx512f");
  PMKVQ_FEATURE("avx512bw");
  PMKVQ_FEATURE("avx512dq");
  PMKVQ_FEATURE("avx512vl");
  PMKVQ_FEATURE("avx512vnni");
#undef PMKVQ_FEATURE
#endif
  return std::nullopt;
}
