//===- Safetensors.h - Checkpoints in files -------------------*- C++ -*-===//
//
// Reads safetensors files and folders of them without trusting a byte.
// Neighbours: ModelConfig.h (what the tensors must look like), WeightStore.h
// (who hands them to a program).
//
// Mental model.  A file is a u64 header length, a JSON header, and data:
//
//   {"w": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}, ...}
//
// Offsets count from the first byte of the data, and the tensors cover the data
// without overlap or hole.  The file is mapped, and tensors are views of it.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_IMPORT_SAFETENSORS_H
#define PMKVQ_IMPORT_SAFETENSORS_H

#include "mlir/Support/LLVM.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/Support/Error.h"
#include "llvm/Support/MemoryBuffer.h"
#include <memory>
#include <string>
#include <vector>

namespace mlir::pmkvq {

/// Element types of the format, by its own names.
enum class DType {
  Bool,
  U8,
  I8,
  F8_E5M2,
  F8_E4M3,
  I16,
  U16,
  F16,
  BF16,
  I32,
  U32,
  F32,
  F64,
  I64,
  U64
};

/// Bytes of one element.
int64_t byteSize(DType dtype);

/// The format's name for it.
llvm::StringRef getName(DType dtype);

/// A tensor inside a mapped file, contiguous, last dimension fastest.
struct TensorView {
  DType dtype;
  llvm::SmallVector<int64_t> shape;
  /// May be unaligned.
  const char *data;
  int64_t bytes;
  /// The file it lies in, for messages.
  std::string path;
};

/// "[2, 3]".
std::string formatShape(llvm::ArrayRef<int64_t> shape);

/// "PATH: FIELD: MESSAGE" as an error.
llvm::Error fileError(const llvm::Twine &path, const llvm::Twine &field,
                      const llvm::Twine &message);

/// One mapped file.
class SafetensorsFile {
public:
  /// Maps and checks a file; `required` are tensors it must have.
  ///
  /// Errors: the file, the field or tensor, what was expected and what is.
  static llvm::Expected<std::unique_ptr<SafetensorsFile>>
  open(llvm::StringRef path, llvm::ArrayRef<std::string> required = {});

  const llvm::StringMap<TensorView> &tensors() const { return views; }

private:
  SafetensorsFile() = default;
  llvm::Error map(llvm::StringRef path);
  llvm::Expected<int64_t> readHeaderBytes() const;
  llvm::Error readHeader(int64_t headerBytes);
  llvm::Error checkLayout() const;

  std::string path;
  std::unique_ptr<llvm::MemoryBuffer> buffer;
  /// What follows the header.
  llvm::StringRef data;
  llvm::StringMap<TensorView> views;
};

/// The tensors of a model's folder: model.safetensors, or the shards that
/// model.safetensors.index.json names.
class Checkpoint {
public:
  /// Errors: as SafetensorsFile; an index that leaves the folder or names a
  /// tensor that its shard lacks; a tensor in two shards.
  static llvm::Expected<Checkpoint> open(llvm::StringRef folder);

  /// Null if there is no such tensor.
  const TensorView *lookup(llvm::StringRef name) const {
    return views.lookup(name);
  }

  /// "sha256:..." over names, types, shapes and both ends of all tensors, in
  /// the order of their names: fast, and other weights have another one.
  /// python/pmkvq/checkpoint.py computes the same.
  std::string fingerprint() const;

  /// Errors: names the checkpoint and the tensor it lacks.
  llvm::Expected<const TensorView *> find(llvm::StringRef name) const;

private:
  llvm::Error addFile(llvm::StringRef path,
                      llvm::ArrayRef<std::string> required);
  llvm::Error addShards(llvm::StringRef folder);

  /// The index, or the only file.
  std::string path;
  std::vector<std::unique_ptr<SafetensorsFile>> files;
  llvm::StringMap<const TensorView *> views;
};

} // namespace mlir::pmkvq

#endif // PMKVQ_IMPORT_SAFETENSORS_H
