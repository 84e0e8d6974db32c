//===- GoldenFile.h - Tensors of a safetensors file for tests ---*- C++ -*-===//
//
// A small reader for the repository's own golden data; it trusts the file.
// Neighbours: test/data/golden/README.md (what the tensors hold), the tests of
// lib/Reference.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TEST_UNIT_GOLDENFILE_H
#define PMKVQ_TEST_UNIT_GOLDENFILE_H

#include <nlohmann/json.hpp>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace pmkvq::test {

class GoldenFile {
public:
  /// The tensors of `name`, a path below the test data directory.
  explicit GoldenFile(const std::string &name) {
    std::ifstream file(std::string(PMKVQ_TEST_DATA_DIR) + "/" + name,
                       std::ios::binary);
    uint64_t headerBytes = 0;
    if (!file.read(reinterpret_cast<char *>(&headerBytes), 8))
      return;
    std::string header(headerBytes, ' ');
    file.read(header.data(), static_cast<std::streamsize>(headerBytes));
    header_ = nlohmann::json::parse(header, nullptr, false);
    data_.assign(std::istreambuf_iterator<char>(file), {});
  }

  /// False if the file could not be read.
  bool ok() const { return header_.is_object() && !data_.empty(); }

  std::vector<int64_t> shape(const std::string &tensor) const {
    return header_.at(tensor).at("shape").get<std::vector<int64_t>>();
  }

  /// The elements of a tensor; empty unless its dtype is `dtype` and T has that
  /// dtype's size.
  template <typename T>
  std::vector<T> read(const std::string &tensor,
                      const std::string &dtype) const {
    if (!header_.contains(tensor) || header_.at(tensor).at("dtype") != dtype)
      return {};
    auto offsets =
        header_.at(tensor).at("data_offsets").get<std::vector<size_t>>();
    std::vector<T> elements((offsets[1] - offsets[0]) / sizeof(T));
    // An empty vector's data() may be null, which memcpy does not take.
    if (!elements.empty())
      std::memcpy(elements.data(), data_.data() + offsets[0],
                  elements.size() * sizeof(T));
    return elements;
  }

  std::vector<float> floats(const std::string &tensor) const {
    return read<float>(tensor, "F32");
  }

private:
  nlohmann::json header_;
  std::vector<char> data_;
};

} // namespace pmkvq::test

#endif // PMKVQ_TEST_UNIT_GOLDENFILE_H
