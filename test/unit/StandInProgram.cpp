//===- StandInProgram.cpp - The code of an artifact, for tests ------------===//
//
// A model whose next token is its last one's successor, by a table that is its
// only weight.  A shared object of its own, as generated code is.  Neighbours:
// RuntimeArtifactTest.cpp.
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/Abi.h"

using namespace pmkvq::rt;

// Names of the ABI.
// NOLINTBEGIN(readability-identifier-naming)
extern "C" {

int32_t (*pmkvq_pointer_to_pmkvq_rt_launch)(void *, KernelFn, void *const *,
                                            int64_t) = nullptr;

void pmkvq_describe(ProgramInfo *info) {
  *info = {};
  info->abiVersion = kAbiVersion;
  info->layers = 2;
  info->kvHeads = 1;
  info->queryHeads = 1;
  info->headDim = 64;
  info->sinkTokens = 1;
  info->vocabSize = 16;
  info->maxPositions = 100;
  info->floor[kKey] = info->floor[kValue] = 16;
  info->layerFloor[1][kKey] = 16;
}

/// One row of logits: all zero but for the successor's.
static int32_t choose(void *const *operands, int64_t output) {
  const auto *args = static_cast<const StepArgs *>(operands[0]);
  const auto *successors = static_cast<const uint16_t *>(args->weights[0]);
  float *logits = args->logits + output * 16;
  for (int i = 0; i < 16; ++i)
    logits[i] = 0;
  logits[successors[args->tokens[args->outputs[output]]]] = 1;
  return kKernelOk;
}

int32_t pmkvq_step(StepArgs *args) {
  void *operands[] = {args};
  return pmkvq_pointer_to_pmkvq_rt_launch(args->runtime, choose, operands,
                                          args->outputCount);
}
}
// NOLINTEND(readability-identifier-naming)
