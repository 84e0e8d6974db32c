//===- PtxText.h - What a kernel's PTX says ---------------------*- C++ -*-===//
//
// Splits PTX as LLVM prints it, one instruction a line, into opcodes and
// operands, and runs ptxas on it.  Neighbours: CompilerDeviceTest.cpp.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TEST_UNIT_PTXTEXT_H
#define PMKVQ_TEST_UNIT_PTXTEXT_H

#include <map>
#include <optional>
#include <string>
#include <vector>

namespace pmkvq::test {

/// `opcode {a, b}, c, [d+16];` has the operands {a, b}, {c} and {d}.
struct PtxInstruction {
  std::string opcode;
  std::vector<std::vector<std::string>> operands;

  bool is(const std::string &prefix) const {
    return opcode.compare(0, prefix.size(), prefix) == 0;
  }
  /// Stores, and what else has no result, read their first operand too.
  bool hasResult() const;
};

class PtxText {
public:
  explicit PtxText(const std::string &text);

  const std::vector<PtxInstruction> &instructions() const { return all; }
  /// Instructions that give and that read a register.
  std::vector<const PtxInstruction *>
  definitions(const std::string &name) const;
  std::vector<const PtxInstruction *> uses(const std::string &name) const;
  int count(const std::string &prefix) const;

private:
  std::vector<PtxInstruction> all;
  std::map<std::string, std::vector<size_t>> defined, used;
};

/// What `ptxas -v` says of a kernel.
struct PtxasReport {
  bool accepted = false;
  int registers = 0, spillBytes = 0, stackBytes = 0;
  std::string output;
};

PtxasReport runPtxas(const std::string &ptxas, const std::string &ptx,
                     const std::string &chip = "sm_90a");

} // namespace pmkvq::test

#endif // PMKVQ_TEST_UNIT_PTXTEXT_H
