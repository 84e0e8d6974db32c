//===- CompilerImportFiles.h - Checkpoints made for a test ------*- C++ -*-===//
//
// A folder that goes away with the test, and safetensors files as bytes.
// Neighbours: the CompilerImport tests.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TEST_UNIT_COMPILERIMPORTFILES_H
#define PMKVQ_TEST_UNIT_COMPILERIMPORTFILES_H

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

namespace pmkvq::test {

class TemporaryFolder {
public:
  TemporaryFolder() {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "pmkvq-XXXXXX").string();
    if (const char *made = mkdtemp(pattern.data()))
      root = made;
  }
  TemporaryFolder(const TemporaryFolder &) = delete;
  TemporaryFolder &operator=(const TemporaryFolder &) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!root.empty())
      std::filesystem::remove_all(root, ignored);
  }

  std::string path(const std::string &name) const {
    return (root / name).string();
  }
  void write(const std::string &name, const std::string &bytes) const {
    std::ofstream(root / name, std::ios::binary) << bytes;
  }

private:
  std::filesystem::path root;
};

/// A file of this header, and `dataBytes` bytes that count up from 0.
inline std::string safetensors(const std::string &header, size_t dataBytes) {
  uint64_t size = header.size();
  std::string file(sizeof(size), '\0');
  std::memcpy(file.data(), &size, sizeof(size));
  file += header;
  for (size_t i = 0; i < dataBytes; ++i)
    file += static_cast<char>(i);
  return file;
}

} // namespace pmkvq::test

#endif // PMKVQ_TEST_UNIT_COMPILERIMPORTFILES_H
