//===- SameStatistics.h - Statistics laid out as in libMLIR -----*- C++ -*-===//
//
// Comes before every compiler file of a build with assertions.  libMLIR has
// none, and llvm::Statistic, a base of every pass statistic, is laid out by
// NDEBUG; it is the only class of LLVM's headers that is.  Neighbours:
// CMakeLists.txt.
//
//===----------------------------------------------------------------------===//

#ifndef NDEBUG
#define NDEBUG
#include "llvm/ADT/Statistic.h"
#undef NDEBUG
#endif
