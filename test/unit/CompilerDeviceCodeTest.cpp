//===- CompilerDeviceCodeTest.cpp - Code for a GPU that is kept -----------===//
//
// PTX and cubins are found again by what they were made from.  Neighbours:
// CompilerDeviceTest.cpp (the kernels), test/python/test_run_cli.py (the CPU's
// code).
//
//===----------------------------------------------------------------------===//

#include "mlir/IR/DialectRegistry.h"
#include "mlir/IR/MLIRContext.h"
#include "pmkvq/Pipelines/Pipelines.h"
#include "pmkvq/Target/Assembler.h"
#include "pmkvq/Target/DeviceProgram.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/SHA256.h"

#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <iterator>
#include <vector>

using mlir::pmkvq::Assembler;
using mlir::pmkvq::compileDecode;
using mlir::pmkvq::DecodeSpec;
namespace fs = std::filesystem;

namespace {
mlir::DialectRegistry makeKeptRegistry() {
  mlir::DialectRegistry registry;
  mlir::pmkvq::registerAllForStages(registry);
  return registry;
}

class DeviceCodeTest : public testing::Test {
protected:
  void SetUp() override {
    llvm::SmallString<128> made;
    ASSERT_FALSE(llvm::sys::fs::createUniqueDirectory("pmkvq-code", made));
    root = made.str().str();
    folder = root / "code";
  }
  void TearDown() override { fs::remove_all(root); }

  std::vector<fs::path> kept() const {
    if (!fs::exists(folder))
      return {};
    std::vector<fs::path> files;
    for (const auto &file : fs::directory_iterator(folder))
      if (file.path().filename().string().rfind("llvmcache-", 0) == 0)
        files.push_back(file.path());
    return files;
  }

  std::string compile(int32_t level) {
    DecodeSpec spec;
    spec.kinds = {{level, level}};
    auto kernel = compileDecode(context, spec, folder.string());
    EXPECT_TRUE(bool(kernel)) << llvm::toString(kernel.takeError());
    return kernel ? kernel->ptx : "";
  }

  static std::string read(const fs::path &path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  static void write(const fs::path &path, const std::string &bytes) {
    std::ofstream(path, std::ios::binary) << bytes;
  }

  mlir::MLIRContext context{makeKeptRegistry()};
  fs::path root, folder;
};

TEST_F(DeviceCodeTest, PtxIsFoundByWhatItIsMadeFrom) {
  const std::string ptx = compile(4);
  ASSERT_EQ(kept().size(), 1u);
  const fs::path file = kept().front();
  const std::string whole = read(file);
  EXPECT_EQ(whole.rfind(ptx, 0), 0u);
  // What lies there under its own hash is taken for it.
  const std::string other = "other";
  auto digest = llvm::SHA256::hash(llvm::arrayRefFromStringRef(other));
  write(file, other + std::string(digest.begin(), digest.end()));
  EXPECT_EQ(compile(4), other);
  // Damaged, it is made again.
  write(file, whole.substr(0, whole.size() / 2));
  EXPECT_EQ(compile(4), ptx);
  EXPECT_EQ(read(file), whole);
  // Another kernel is another file.
  EXPECT_NE(compile(2), ptx);
  EXPECT_EQ(kept().size(), 2u);
}

TEST_F(DeviceCodeTest, CubinsAreFoundByPtxAndAssembler) {
  // Notes that it ran; its cubin is what it was given.
  const fs::path ptxas = root / "ptxas", runs = root / "runs";
  write(ptxas,
        "#!/bin/sh\necho run >> '" + runs.string() + "'\ncp \"$3\" \"$5\"\n");
  fs::permissions(ptxas, fs::perms::owner_all);
  Assembler assembler{ptxas.string(), "sm_90a", /*isRequired=*/true,
                      folder.string()};
  auto assemble = [&](const std::string &ptx) {
    auto code = assembler.assemble(ptx, "sm_90a");
    return code ? *code : llvm::toString(code.takeError());
  };
  EXPECT_EQ(assemble("one"), "one");
  EXPECT_EQ(assemble("one"), "one");
  EXPECT_EQ(read(runs), "run\n");
  EXPECT_EQ(assemble("two"), "two");
  EXPECT_EQ(read(runs), "run\nrun\n");
  // Another ptxas at the same place.
  write(ptxas, read(ptxas) + "# a later version\n");
  EXPECT_EQ(assemble("one"), "one");
  EXPECT_EQ(read(runs), "run\nrun\nrun\n");
}

TEST_F(DeviceCodeTest, NothingIsKeptWithoutAFolder) {
  folder.clear();
  EXPECT_FALSE(compile(8).empty());
  EXPECT_TRUE(fs::is_empty(root));
}
} // namespace
