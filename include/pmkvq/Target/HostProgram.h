//===- HostProgram.h - Lowered modules as code in memory --------*- C++ -*-===//
//
// Compiles a module that has passed every stage for this machine's CPU and
// finds the runtime's entry points in it.  Neighbours: Pipelines.h (the
// stages), pmkvq_rt/Abi.h (the entry points).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TARGET_HOSTPROGRAM_H
#define PMKVQ_TARGET_HOSTPROGRAM_H

#include "mlir/Support/LLVM.h"
#include "pmkvq_rt/Abi.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/Support/Error.h"
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace llvm::orc {
class LLJIT;
}

namespace mlir {
class ModuleOp;
namespace pmkvq {

/// One entry of a program's weight table: a tensor of the checkpoint, or some
/// of its rows, and what is to be done to it.
struct WeightSpec {
  struct Rotation {
    /// Dimension that is cut into blocks of `block` elements, each multiplied
    /// by the normalized Walsh-Hadamard matrix.
    int64_t dim;
    int64_t block;
  };
  std::string source;
  std::vector<int64_t> shape;
  std::vector<Rotation> rotations;
  /// None: `shape` is all of the tensor.
  // NOLINTNEXTLINE(readability-redundant-member-init): lists leave it out.
  std::optional<int64_t> firstRow = {};
  /// Exponents of the powers of two that rows are multiplied by, after all
  /// rotations; empty: none.
  // NOLINTNEXTLINE(readability-redundant-member-init): lists leave it out.
  std::vector<int8_t> scaleRows = {};
  /// The weight's symbol: no other weight of the program has it.
  // NOLINTNEXTLINE(readability-redundant-member-init): lists leave it out.
  std::string name = {};
};

/// What code is made for, and where it is kept.
struct HostOptions {
  /// "native" (all that this machine has), "generic" (any of its architecture),
  /// "avx2" or "avx512" (with VNNI).
  std::string cpu = "native";
  /// A folder with code of other programs, too: code that is there is not made
  /// again.  Empty: none.
  // NOLINTNEXTLINE(readability-redundant-member-init): lists leave it out.
  std::string codeFolder = {};
};

/// Code for other processes, and for other machines of the same kind.
struct SharedCode {
  /// A shared object that needs nothing but the C library.
  std::string bytes;
  /// LLVM's name: "x86_64".
  std::string architecture;
  /// What a CPU must have, by LLVM's names.
  std::vector<std::string> features;
  /// Functions that are called through pointers of the code: see
  /// pmkvq_rt/Artifact.h.
  std::vector<std::string> hooks;
  /// The weight table's order.
  std::vector<WeightSpec> weights;
};

/// Code in memory; lives as long as this object.
class HostProgram {
public:
  /// Compiles `module`, in the LLVM dialect.  The module is consumed.
  ///
  /// Errors: a CPU of another name, or one with instructions that this machine
  /// lacks.
  static llvm::Expected<std::unique_ptr<HostProgram>>
  compile(ModuleOp module, const HostOptions &options = {});
  ~HostProgram();

  /// Compiles `module`, in the LLVM dialect, for a named CPU, which need not be
  /// here, and links it with `linker`.  The module is consumed.
  ///
  /// Errors: a CPU of another name, "native" too; what the linker says.
  static llvm::Expected<SharedCode> compileShared(ModuleOp module,
                                                  const HostOptions &options,
                                                  const std::string &linker);

  /// The named CPU that makes most of this machine: "avx512", "avx2" or
  /// "generic".
  static std::string namedHost();

  /// Bytes of the vector registers that kernels for a CPU of that name are made
  /// for, as PlanOptions has it; an unknown name is reported when code is made.
  static int64_t registerBytes(llvm::StringRef cpu);

  enum class Form { LLVMIR, Assembly };

  /// What compile would load, as text; this machine need not have `cpu`'s
  /// instructions.  The module is consumed.
  static llvm::Expected<std::string> print(ModuleOp module, Form form,
                                           llvm::StringRef cpu = "native");

  /// Address of an exported function, or null if there is none.
  void *lookUp(llvm::StringRef name) const;

  /// The entry points that the runtime needs; an error names a missing one.
  llvm::Expected<::pmkvq::rt::ProgramEntries> entries() const;

  /// The weight table's order.
  const std::vector<WeightSpec> &weights() const { return weightSpecs; }

private:
  HostProgram();
  std::unique_ptr<llvm::orc::LLJIT> jit;
  llvm::StringSet<> defined;
  std::vector<WeightSpec> weightSpecs;
};

} // namespace pmkvq
} // namespace mlir

#endif // PMKVQ_TARGET_HOSTPROGRAM_H
