//===- CompilerImportSafetensorsTest.cpp - Damaged checkpoints ------------===//
//
// Files that lie about themselves are refused, with the reason.  Neighbours:
// lib/Import/Safetensors.cpp.
//
//===----------------------------------------------------------------------===//

#include "CompilerImportFiles.h"
#include "pmkvq/Import/Safetensors.h"

#include <gtest/gtest.h>

using namespace mlir::pmkvq;
using namespace ::pmkvq::test;

namespace {

class Safetensors : public testing::Test {
protected:
  /// The error of opening a file of this header and so many data bytes; empty
  /// if there is none.
  std::string open(const std::string &header, size_t dataBytes,
                   std::vector<std::string> required = {}) {
    folder.write("m.safetensors", safetensors(header, dataBytes));
    return openAgain(required);
  }

  std::string openAgain(std::vector<std::string> required = {}) {
    auto file = SafetensorsFile::open(folder.path("m.safetensors"), required);
    return file ? "" : llvm::toString(file.takeError());
  }

  static std::string entry(const std::string &shape, const std::string &offsets,
                           const std::string &dtype = "BF16") {
    return R"({"dtype":")" + dtype + R"(","shape":)" + shape +
           R"(,"data_offsets":)" + offsets + "}";
  }

  TemporaryFolder folder;
};

#define EXPECT_CONTAINS(text, part)                                            \
  EXPECT_NE((text).find(part), std::string::npos) << (text)

TEST_F(Safetensors, GivesViewsOfTheTensors) {
  std::string header = R"({"__metadata__":{"format":"pt"},"b":)" +
                       entry("[2,3]", "[8,20]") + R"(,"a":)" +
                       entry("[2]", "[0,8]", "F32") + "}";
  folder.write("m.safetensors", safetensors(header, 20));
  auto file =
      llvm::cantFail(SafetensorsFile::open(folder.path("m.safetensors")));
  ASSERT_EQ(file->tensors().size(), 2u);
  const TensorView &b = file->tensors().find("b")->second;
  EXPECT_EQ(b.dtype, DType::BF16);
  EXPECT_EQ(formatShape(b.shape), "[2, 3]");
  EXPECT_EQ(b.bytes, 12);
  // The data counts up from 0.
  EXPECT_EQ(b.data[0], 8);
}

TEST_F(Safetensors, RefusesTruncatedFiles) {
  folder.write("m.safetensors", "1234567");
  EXPECT_CONTAINS(openAgain(), "expected at least 8 bytes, got 7");
  folder.write("m.safetensors", std::string("\x09\0\0\0\0\0\0\0{}", 10));
  EXPECT_CONTAINS(openAgain(), "expected at most 2 bytes, got 9");
  folder.write("m.safetensors", std::string(8, '\xff'));
  EXPECT_CONTAINS(openAgain(), "got 18446744073709551615");
  EXPECT_CONTAINS(open(R"({"w":)" + entry("[4]", "[0,8]") + "}", 7),
                  "within the 7 bytes");
}

TEST_F(Safetensors, RefusesShapesThatOverflow) {
  // 2^63 * 2 bytes wrap to 0; 2^62 * 4 elements too.
  EXPECT_CONTAINS(
      open(R"({"w":)" + entry("[9223372036854775807]", "[0,0]") + "}", 0),
      "more than 2^63");
  EXPECT_CONTAINS(
      open(R"({"w":)" + entry("[4611686018427387904,4]", "[0,0]") + "}", 0),
      "more than 2^63");
}

TEST_F(Safetensors, RefusesSizesThatDisagree) {
  EXPECT_CONTAINS(open(R"({"w":)" + entry("[3]", "[0,8]") + "}", 8),
                  "tensor w: expected 6 bytes for shape [3] of BF16, got 8");
  EXPECT_CONTAINS(open(R"({"w":)" + entry("[4]", "[8,0]") + "}", 8),
                  "tensor w");
  EXPECT_CONTAINS(open(R"({"w":)" + entry("[-4]", "[0,8]") + "}", 8), "-4");
  EXPECT_CONTAINS(open(R"({"w":)" + entry("[4]", "[0,8]", "Q9") + "}", 8),
                  "\"Q9\"");
}

TEST_F(Safetensors, RefusesOverlapsAndHoles) {
  std::string overlap = R"({"a":)" + entry("[4]", "[0,8]") + R"(,"b":)" +
                        entry("[4]", "[4,12]") + "}";
  EXPECT_CONTAINS(open(overlap, 12), "tensor b: data_offsets: expected data "
                                     "from byte 8");
  std::string hole = R"({"a":)" + entry("[4]", "[0,8]") + R"(,"b":)" +
                     entry("[4]", "[10,18]") + "}";
  EXPECT_CONTAINS(open(hole, 18), "got byte 10");
  EXPECT_CONTAINS(open(R"({"a":)" + entry("[4]", "[0,8]") + "}", 10),
                  "expected 8 bytes");
}

TEST_F(Safetensors, RefusesATensorThatIsThereTwice) {
  std::string twice = R"({"a":)" + entry("[4]", "[0,8]") + R"(,"b":)" +
                      entry("[4]", "[8,16]") + R"(,"a":)" +
                      entry("[4]", "[0,8]") + "}";
  EXPECT_CONTAINS(open(twice, 16),
                  "header: expected each member once, got \"a\" twice");
  // Equal names in different objects are none of that.
  EXPECT_EQ(open(R"({"shape":)" + entry("[4]", "[0,8]") + R"(,"dtype":)" +
                     entry("[4]", "[8,16]") + "}",
                 16),
            "");
  EXPECT_CONTAINS(open(R"({"a":{"dtype":"BF16","dtype":"F16","shape":[4],)"
                       R"("data_offsets":[0,8]}})",
                       8),
                  "got \"dtype\" twice");
}

TEST_F(Safetensors, RefusesHeadersThatAreNoObject) {
  for (const char *header : {"", "[]", "{", "\xff", "{\"w\":1}"})
    EXPECT_FALSE(open(header, 0).empty()) << header;
  EXPECT_FALSE(open(std::string(100000, '['), 0).empty());
}

class CheckpointFolder : public Safetensors {
protected:
  std::string openFolder() {
    auto checkpoint = Checkpoint::open(folder.path(""));
    return checkpoint ? "" : llvm::toString(checkpoint.takeError());
  }
  void writeShard(const std::string &name, const std::string &tensor) {
    folder.write(
        name,
        safetensors("{\"" + tensor + "\":" + entry("[4]", "[0,8]") + "}", 8));
  }
  void writeIndex(const std::string &map) {
    folder.write("model.safetensors.index.json",
                 R"({"weight_map":)" + map + "}");
  }
};

TEST_F(CheckpointFolder, FindsTensorsInEveryShard) {
  writeShard("1.safetensors", "a");
  writeShard("2.safetensors", "b");
  writeIndex(R"({"a":"1.safetensors","b":"2.safetensors"})");
  Checkpoint checkpoint = llvm::cantFail(Checkpoint::open(folder.path("")));
  EXPECT_NE(checkpoint.lookup("a"), nullptr);
  EXPECT_NE(checkpoint.lookup("b"), nullptr);
  EXPECT_CONTAINS(llvm::toString(checkpoint.find("c").takeError()),
                  "tensor c: missing");
}

TEST_F(CheckpointFolder, RefusesShardsThatDisagreeWithTheIndex) {
  writeShard("1.safetensors", "a");
  writeIndex(R"({"a":"1.safetensors","b":"1.safetensors"})");
  EXPECT_CONTAINS(openFolder(), "tensor b: missing");
  writeIndex(R"({"a":"1.safetensors","b":"2.safetensors"})");
  EXPECT_CONTAINS(openFolder(), "2.safetensors: file: No such file");
  folder.write("2.safetensors",
               safetensors(R"({"a":)" + entry("[4]", "[0,8]") + R"(,"b":)" +
                               entry("[4]", "[8,16]") + "}",
                           16));
  EXPECT_CONTAINS(openFolder(), "tensor a: is in ");
}

TEST_F(CheckpointFolder, RefusesAnIndexThatLeavesTheFolder) {
  for (const char *shard : {"../a.safetensors", "/etc/passwd", "..", "",
                            "x/../../a", "a\\\\b", "a\\u0000b"}) {
    writeIndex(R"({"a":")" + std::string(shard) + "\"}");
    EXPECT_CONTAINS(openFolder(), "expected the name of a file beside");
  }
}

} // namespace
