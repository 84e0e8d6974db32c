//===- Safetensors.cpp - Checkpoints in files -----------------------------===//
//
// Every size is checked before it is used.  Neighbours: Safetensors.h.
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Import/Safetensors.h"
#include "Json.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/CheckedArithmetic.h"
#include "llvm/Support/Endian.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/SHA256.h"
#include <map>

using namespace mlir;
using namespace mlir::pmkvq;
using llvm::Error;
using llvm::Expected;
using nlohmann::json;

//===----------------------------------------------------------------------===//
// Element types and messages
//===----------------------------------------------------------------------===//

namespace {
struct DTypeInfo {
  StringRef name;
  DType dtype;
  int64_t bytes;
};
} // namespace

/// In the order of the enum.
static constexpr DTypeInfo kDTypes[] = {
    {"BOOL", DType::Bool, 1},       {"U8", DType::U8, 1},
    {"I8", DType::I8, 1},           {"F8_E5M2", DType::F8_E5M2, 1},
    {"F8_E4M3", DType::F8_E4M3, 1}, {"I16", DType::I16, 2},
    {"U16", DType::U16, 2},         {"F16", DType::F16, 2},
    {"BF16", DType::BF16, 2},       {"I32", DType::I32, 4},
    {"U32", DType::U32, 4},         {"F32", DType::F32, 4},
    {"F64", DType::F64, 8},         {"I64", DType::I64, 8},
    {"U64", DType::U64, 8}};

int64_t mlir::pmkvq::byteSize(DType dtype) {
  return kDTypes[static_cast<int>(dtype)].bytes;
}

StringRef mlir::pmkvq::getName(DType dtype) {
  return kDTypes[static_cast<int>(dtype)].name;
}

std::string mlir::pmkvq::formatShape(ArrayRef<int64_t> shape) {
  std::string text = "[";
  llvm::raw_string_ostream os(text);
  llvm::interleaveComma(shape, os);
  return text + "]";
}

Error mlir::pmkvq::fileError(const Twine &path, const Twine &field,
                             const Twine &message) {
  return llvm::createStringError(path + ": " + field + ": " + message);
}

static Error tensorError(StringRef path, StringRef name, const Twine &message) {
  return fileError(path, "tensor " + name, message);
}

//===----------------------------------------------------------------------===//
// Entries of a header
//===----------------------------------------------------------------------===//

static Expected<DType> readDType(const json &entry) {
  auto found = entry.find("dtype");
  if (found == entry.end() || !found->is_string())
    return llvm::createStringError("dtype: expected a string");
  const std::string &name = found->get_ref<const std::string &>();
  for (const DTypeInfo &info : kDTypes)
    if (info.name == name)
      return info.dtype;
  return llvm::createStringError("dtype: unknown type " + showJson(*found));
}

/// The array `field` of `entry` as numbers that fit an int64.
static Expected<SmallVector<int64_t>> readSizes(const json &entry,
                                                const char *field) {
  SmallVector<int64_t> sizes;
  auto found = entry.find(field);
  if (found == entry.end() || !found->is_array())
    return llvm::createStringError(Twine(field) + ": expected a list");
  for (const json &size : *found) {
    bool fits = size.is_number_unsigned() &&
                size.get<uint64_t>() <=
                    static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    if (!fits)
      return llvm::createStringError(
          Twine(field) + ": expected whole numbers from 0 on, got " +
          showJson(size));
    sizes.push_back(size.get<int64_t>());
  }
  return sizes;
}

static std::optional<int64_t> countBytes(ArrayRef<int64_t> shape, DType dtype) {
  std::optional<int64_t> bytes = byteSize(dtype);
  for (int64_t size : shape) {
    bytes = llvm::checkedMul(*bytes, size);
    if (!bytes)
      return std::nullopt;
  }
  return bytes;
}

/// One entry, its data within `data`.  Errors lack file and tensor.
static Expected<TensorView> readEntry(const json &entry, StringRef data) {
  if (!entry.is_object())
    return llvm::createStringError("expected a JSON object, got " +
                                   showJson(entry));
  Expected<DType> dtype = readDType(entry);
  if (!dtype)
    return dtype.takeError();
  Expected<SmallVector<int64_t>> shape = readSizes(entry, "shape");
  if (!shape)
    return shape.takeError();
  Expected<SmallVector<int64_t>> offsets = readSizes(entry, "data_offsets");
  if (!offsets)
    return offsets.takeError();
  if (offsets->size() != 2)
    return llvm::createStringError("data_offsets: expected 2 numbers, got " +
                                   Twine(offsets->size()));
  int64_t begin = (*offsets)[0], end = (*offsets)[1];
  int64_t size = static_cast<int64_t>(data.size());
  if (begin > end || end > size)
    return llvm::createStringError(
        "data_offsets: expected a range within the " + Twine(size) +
        " bytes of data, got " + formatShape(*offsets));
  std::optional<int64_t> bytes = countBytes(*shape, *dtype);
  if (bytes != end - begin)
    return llvm::createStringError(
        "expected " + (bytes ? Twine(*bytes) : Twine("more than 2^63")) +
        " bytes for shape " + formatShape(*shape) + " of " + getName(*dtype) +
        ", got " + Twine(end - begin));
  return TensorView{*dtype, *shape, data.data() + begin, *bytes, ""};
}

//===----------------------------------------------------------------------===//
// SafetensorsFile
//===----------------------------------------------------------------------===//

Error SafetensorsFile::map(StringRef file) {
  path = file.str();
  llvm::sys::fs::file_status status;
  if (std::error_code error = llvm::sys::fs::status(path, status))
    return fileError(path, "file", error.message());
  if (!llvm::sys::fs::is_regular_file(status))
    return fileError(path, "file", "not a regular file");
  auto mapped = llvm::MemoryBuffer::getFile(path, /*IsText=*/false,
                                            /*RequiresNullTerminator=*/false);
  if (std::error_code error = mapped.getError())
    return fileError(path, "file", error.message());
  buffer = std::move(*mapped);
  return Error::success();
}

Expected<int64_t> SafetensorsFile::readHeaderBytes() const {
  // The format's own limit; no header of a real model comes near it.
  constexpr uint64_t maxHeaderBytes = 100'000'000;
  size_t size = buffer->getBufferSize();
  if (size < sizeof(uint64_t))
    return fileError(path, "file size",
                     "expected at least 8 bytes, got " + Twine(size));
  uint64_t bytes = llvm::support::endian::read64le(buffer->getBufferStart());
  if (bytes > maxHeaderBytes || bytes > size - sizeof(uint64_t))
    return fileError(
        path, "header length",
        "expected at most " +
            Twine(std::min<uint64_t>(maxHeaderBytes, size - sizeof(uint64_t))) +
            " bytes, got " + Twine(bytes));
  return static_cast<int64_t>(bytes);
}

Error SafetensorsFile::readHeader(int64_t headerBytes) {
  StringRef rest = buffer->getBuffer().drop_front(sizeof(uint64_t));
  StringRef text = rest.take_front(headerBytes);
  data = rest.drop_front(headerBytes);
  Expected<json> header = parseJsonObject(text);
  if (!header)
    return fileError(path, "header", llvm::toString(header.takeError()));
  for (auto &[name, entry] : header->items()) {
    if (name == "__metadata__")
      continue;
    Expected<TensorView> view = readEntry(entry, data);
    if (!view)
      return tensorError(path, name, llvm::toString(view.takeError()));
    view->path = path;
    views.try_emplace(name, std::move(*view));
  }
  return Error::success();
}

Error SafetensorsFile::checkLayout() const {
  using Entry = llvm::StringMapEntry<TensorView>;
  std::vector<const Entry *> ordered;
  for (const Entry &entry : views)
    ordered.push_back(&entry);
  llvm::sort(ordered, [](const Entry *a, const Entry *b) {
    return std::pair(a->second.data, a->second.bytes) <
           std::pair(b->second.data, b->second.bytes);
  });
  int64_t end = 0;
  for (const Entry *entry : ordered) {
    int64_t begin = entry->second.data - data.data();
    if (begin != end)
      return tensorError(path, entry->first(),
                         "data_offsets: expected data from byte " + Twine(end) +
                             " on, where the tensor before it ends, got byte " +
                             Twine(begin));
    end += entry->second.bytes;
  }
  if (end != static_cast<int64_t>(data.size()))
    return fileError(path, "data",
                     "expected " + Twine(end) +
                         " bytes, as the tensors add up to, got " +
                         Twine(data.size()));
  return Error::success();
}

Expected<std::unique_ptr<SafetensorsFile>>
SafetensorsFile::open(StringRef path, ArrayRef<std::string> required) {
  std::unique_ptr<SafetensorsFile> file(new SafetensorsFile());
  if (Error error = file->map(path))
    return error;
  Expected<int64_t> headerBytes = file->readHeaderBytes();
  if (!headerBytes)
    return headerBytes.takeError();
  if (Error error = file->readHeader(*headerBytes))
    return error;
  // Before the layout: a tensor that is gone says more than the hole it left.
  for (const std::string &name : required)
    if (!file->views.contains(name))
      return tensorError(path, name,
                         "missing, though the index says it is here");
  if (Error error = file->checkLayout())
    return error;
  return file;
}

//===----------------------------------------------------------------------===//
// Checkpoint
//===----------------------------------------------------------------------===//

static std::string joinPath(StringRef folder, StringRef name) {
  SmallString<128> path(folder);
  llvm::sys::path::append(path, name);
  return path.str().str();
}

/// Shards and the tensors that the index says they hold, in a fixed order.
using Shards = std::map<std::string, std::vector<std::string>>;

static Expected<Shards> readIndex(StringRef path) {
  Expected<json> index = readJsonObject(path);
  if (!index)
    return index.takeError();
  auto map = index->find("weight_map");
  if (map == index->end() || !map->is_object() || map->empty())
    return fileError(path, "weight_map",
                     "expected a JSON object, got " + (map == index->end()
                                                           ? std::string("none")
                                                           : showJson(*map)));
  Shards shards;
  for (auto &[name, shard] : map->items()) {
    bool isName = shard.is_string();
    if (isName) {
      StringRef file = shard.get_ref<const std::string &>();
      isName = !file.empty() && file != "." && file != ".." &&
               file.find_first_of(StringRef("/\\\0", 3)) == StringRef::npos;
    }
    if (!isName)
      return fileError(path, "weight_map of " + name,
                       "expected the name of a file beside the index, got " +
                           showJson(shard));
    shards[shard.get<std::string>()].push_back(name);
  }
  return shards;
}

Error Checkpoint::addFile(StringRef file, ArrayRef<std::string> required) {
  Expected<std::unique_ptr<SafetensorsFile>> opened =
      SafetensorsFile::open(file, required);
  if (!opened)
    return opened.takeError();
  for (const auto &entry : (*opened)->tensors()) {
    auto [other, isNew] = views.try_emplace(entry.first(), &entry.second);
    if (!isNew)
      return tensorError(file, entry.first(),
                         "is in " + other->second->path + " too");
  }
  files.push_back(std::move(*opened));
  return Error::success();
}

Error Checkpoint::addShards(StringRef folder) {
  Expected<Shards> shards = readIndex(path);
  if (!shards)
    return shards.takeError();
  for (const auto &[shard, names] : *shards)
    if (Error error = addFile(joinPath(folder, shard), names))
      return error;
  return Error::success();
}

Expected<Checkpoint> Checkpoint::open(StringRef folder) {
  Checkpoint checkpoint;
  checkpoint.path = joinPath(folder, "model.safetensors.index.json");
  if (llvm::sys::fs::exists(checkpoint.path)) {
    if (Error error = checkpoint.addShards(folder))
      return error;
    return checkpoint;
  }
  checkpoint.path = joinPath(folder, "model.safetensors");
  if (!llvm::sys::fs::exists(checkpoint.path))
    return fileError(folder, "weights",
                     "expected model.safetensors or "
                     "model.safetensors.index.json, got neither");
  if (Error error = checkpoint.addFile(checkpoint.path, {}))
    return error;
  return checkpoint;
}

std::string Checkpoint::fingerprint() const {
  constexpr int64_t ends = 4096;
  SmallVector<StringRef> names = llvm::to_vector(views.keys());
  llvm::sort(names);
  llvm::SHA256 hash;
  for (StringRef name : names) {
    const TensorView &tensor = *views.lookup(name);
    hash.update((name + "\n" + getName(tensor.dtype) + "\n" +
                 formatShape(tensor.shape) + "\n")
                    .str());
    int64_t bytes = std::min(tensor.bytes, ends);
    hash.update(StringRef(tensor.data, bytes));
    hash.update(StringRef(tensor.data + tensor.bytes - bytes, bytes));
  }
  return "sha256:" + llvm::toHex(hash.final(), /*LowerCase=*/true);
}

Expected<const TensorView *> Checkpoint::find(StringRef name) const {
  if (const TensorView *view = lookup(name))
    return view;
  return tensorError(path, name, "missing");
}
