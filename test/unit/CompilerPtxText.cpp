//===- CompilerPtxText.cpp - What a kernel's PTX says ---------------------===//
//
// See PtxText.h.
//
//===----------------------------------------------------------------------===//

#include "PtxText.h"
#include "pmkvq/Target/Assembler.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/raw_ostream.h"

using namespace ::pmkvq;
using namespace ::pmkvq::test;
using llvm::StringRef;

bool PtxInstruction::hasResult() const {
  return !is("st.") && !is("bra") && !is("ret") && !is("bar") && !is("cp.") &&
         !is("mbarrier.init") && !is("mbarrier.arrive") && !is("fence") &&
         !is("griddepcontrol");
}

/// Registers and constants of one operand.
static std::vector<std::string> splitOperand(StringRef text) {
  std::vector<std::string> values;
  llvm::SmallVector<StringRef> parts;
  text.trim("{}[] \t").split(parts, ',');
  for (StringRef part : parts)
    values.push_back(part.trim("[] \t").split('+').first.str());
  return values;
}

static std::optional<PtxInstruction> parseStatement(StringRef line) {
  if (line.starts_with("@"))
    line = line.split(' ').second.trim();
  if (line.empty() || line.starts_with("."))
    return std::nullopt;
  PtxInstruction instruction;
  auto space = line.find_first_of(" \t");
  instruction.opcode = line.substr(0, space).str();
  if (space == StringRef::npos)
    return instruction;
  line = line.substr(space).trim();
  while (!line.empty()) {
    // A comma within braces does not end an operand.
    size_t end = line.starts_with("{") ? line.find('}') : 0;
    end = line.find(',', end == StringRef::npos ? 0 : end);
    instruction.operands.push_back(splitOperand(line.substr(0, end)));
    line = end == StringRef::npos ? StringRef() : line.substr(end + 1).trim();
  }
  return instruction;
}

PtxText::PtxText(const std::string &text) {
  // Labels, braces and comments are lines of their own; a statement may take
  // several.
  std::string statements;
  llvm::SmallVector<StringRef> lines, parts;
  StringRef(text).split(lines, '\n');
  for (StringRef line : lines) {
    line = line.split("//").first.trim();
    if (!line.ends_with(":") && line != "{" && line != "}")
      statements += line.str() + " ";
  }
  StringRef(statements).split(parts, ';');
  for (StringRef part : parts) {
    auto instruction = parseStatement(part.trim());
    if (!instruction)
      continue;
    for (size_t i = 0; i < instruction->operands.size(); ++i)
      for (const std::string &value : instruction->operands[i])
        (i == 0 && instruction->hasResult() ? defined : used)[value].push_back(
            all.size());
    all.push_back(std::move(*instruction));
  }
}

static std::vector<const PtxInstruction *>
pick(const std::vector<PtxInstruction> &all,
     const std::map<std::string, std::vector<size_t>> &index,
     const std::string &name) {
  std::vector<const PtxInstruction *> found;
  if (auto it = index.find(name); it != index.end())
    for (size_t i : it->second)
      found.push_back(&all[i]);
  return found;
}

std::vector<const PtxInstruction *>
PtxText::definitions(const std::string &name) const {
  return pick(all, defined, name);
}
std::vector<const PtxInstruction *>
PtxText::uses(const std::string &name) const {
  return pick(all, used, name);
}

int PtxText::count(const std::string &prefix) const {
  int result = 0;
  for (const PtxInstruction &instruction : all)
    result += instruction.is(prefix);
  return result;
}

//===----------------------------------------------------------------------===//
// ptxas
//===----------------------------------------------------------------------===//

/// The number before `what`, 0 if there is none.
static int numberBefore(StringRef text, StringRef what) {
  size_t at = text.find(what);
  if (at == StringRef::npos)
    return 0;
  StringRef before = text.substr(0, at).rtrim();
  int value = 0;
  before.substr(before.find_last_of(" \n") + 1).getAsInteger(10, value);
  return value;
}

PtxasReport test::runPtxas(const std::string &ptxas, const std::string &ptx,
                           const std::string &chip) {
  PtxasReport report;
  auto said = mlir::pmkvq::runPtxas(ptxas, ptx, chip);
  if (!said) {
    report.output = llvm::toString(said.takeError());
    return report;
  }
  report.output = said->text;
  report.accepted = said->accepted;
  report.registers = numberBefore(report.output, " registers");
  report.spillBytes = numberBefore(report.output, " bytes spill stores") +
                      numberBefore(report.output, " bytes spill loads");
  report.stackBytes = numberBefore(report.output, " bytes stack frame");
  return report;
}
