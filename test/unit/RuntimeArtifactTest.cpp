//===- RuntimeArtifactTest.cpp - Artifacts, good and bad ------------------===//
//
// Writes small artifacts around StandInProgram.cpp, loads and runs them, and
// damages them in every way that the loader must see.  Neighbours: Artifact.h;
// test/python/test_run_artifact.py has those of models.
//
//===----------------------------------------------------------------------===//

#include "artifact/Container.h"
#include "pmkvq_rt/Artifact.h"
#include "pmkvq_rt/Runtime.h"
#include "pmkvq_rt/Session.h"

#include "gtest/gtest.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <unistd.h>

using namespace pmkvq::rt;
namespace fs = std::filesystem;
using nlohmann::json;

namespace {

std::string readAll(const std::string &path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

class ArtifactFile : public ::testing::Test {
protected:
  ArtifactFile()
      : folder(fs::temp_directory_path() /
               ("pmkvq-artifact-" + std::to_string(::getpid()))),
        path(folder / "m.pmkvq"), code(readAll(PMKVQ_STANDIN_PROGRAM)) {
    fs::create_directories(folder);
    description.producer = "pmkvq test";
    description.modelName = "successors";
    description.modelHash = "sha256:0";
    description.stopTokens = {7, 15};
    description.target = {
        machineArchitecture(), "generic", {"generic"}, {"pmkvq_rt_launch"}};
    description.plan = {"none", "per_channel+hadamard", "per_token+plain", 3.5,
                        true};
    ProgramInfo &info = description.info;
    info.abiVersion = kAbiVersion;
    info.layers = 2;
    info.kvHeads = info.queryHeads = 1;
    info.headDim = 64;
    info.sinkTokens = 1;
    info.vocabSize = 16;
    info.maxPositions = 100;
    info.floor[kKey] = info.floor[kValue] = 16;
    description.weights = {"successors"};
    for (uint16_t token = 0; token < 16; ++token)
      successors.push_back((token + 3) % 16);
  }
  ~ArtifactFile() override { fs::remove_all(folder); }

  std::vector<ArtifactSection> sections() const {
    ArtifactSection weight;
    weight.name = "weight/successors";
    weight.dtype = "BF16";
    weight.shape = {16};
    weight.data = reinterpret_cast<const uint8_t *>(successors.data());
    weight.bytes = 32;
    return {weight, byteSection("code/generic", code),
            byteSection("program.mlir", program),
            byteSection("tokenizer/tokenizer.json", tokenizer)};
  }

  void write(std::vector<ArtifactSection> all) const {
    auto writer = ArtifactWriter::create(path);
    ASSERT_TRUE(writer.ok()) << writer.status().message();
    Status status = writer->write(description, all);
    ASSERT_TRUE(status.ok()) << status.message();
  }
  void write() const { write(sections()); }

  void overwrite(const std::string &bytes) const {
    std::ofstream(path, std::ios::binary) << bytes;
  }

  /// Changes the header and gives it the right hash again.
  template <typename Edit> void editHeader(Edit edit) const {
    std::string bytes = readAll(path);
    uint64_t length = 0;
    std::memcpy(&length, bytes.data(), sizeof(length));
    json header = json::parse(bytes.substr(8, length));
    edit(header);
    header["__metadata__"]["hash"] = artifact::hashOfHeader(header);
    std::string text = header.dump();
    text.resize(std::max<size_t>(text.size(), length), ' ');
    ASSERT_EQ(text.size(), length) << "data would move";
    overwrite(bytes.substr(0, 8) + text + bytes.substr(8 + length));
  }

  /// The artifact cannot be opened or its program not loaded; the message names
  /// file and words.
  void refused(StatusCode status, const std::vector<std::string> &words) const {
    auto opened = Artifact::open(path);
    Status reason = opened.status();
    if (opened.ok())
      reason = loadProgram(*opened).status();
    ASSERT_FALSE(reason.ok());
    EXPECT_EQ(static_cast<int>(reason.code()), static_cast<int>(status))
        << reason.message();
    EXPECT_EQ(reason.message().rfind(path + ": ", 0), 0u) << reason.message();
    for (const std::string &word : words)
      EXPECT_NE(reason.message().find(word), std::string::npos)
          << word << " in: " << reason.message();
  }

  fs::path folder;
  std::string path;
  std::string code, program = "module {}\n", tokenizer = "{}";
  ArtifactDescription description;
  std::vector<uint16_t> successors;
};

//===----------------------------------------------------------------------===//
// Good files
//===----------------------------------------------------------------------===//

TEST_F(ArtifactFile, HasWhatWasWritten) {
  write();
  auto artifact = Artifact::open(path);
  ASSERT_TRUE(artifact.ok()) << artifact.status().message();
  const ArtifactDescription &read = (*artifact)->description();
  EXPECT_EQ(read.producer, description.producer);
  EXPECT_EQ(read.modelName, description.modelName);
  EXPECT_EQ(read.modelHash, description.modelHash);
  EXPECT_EQ(read.stopTokens, description.stopTokens);
  EXPECT_EQ(read.target.features, description.target.features);
  EXPECT_EQ(read.target.hooks, description.target.hooks);
  EXPECT_EQ(read.plan.keyFormat, description.plan.keyFormat);
  EXPECT_EQ(read.plan.bitsPerElement, description.plan.bitsPerElement);
  EXPECT_TRUE(read.plan.calibrated);
  EXPECT_EQ(read.info.maxPositions, description.info.maxPositions);
  EXPECT_EQ(read.weights, description.weights);
  EXPECT_TRUE((*artifact)->hasTokenizer());
  for (const ArtifactSection &section : sections()) {
    const ArtifactSection &found = (*artifact)->sections().at(section.name);
    EXPECT_EQ(found.dtype, section.dtype);
    EXPECT_EQ(found.shape, section.shape);
    EXPECT_EQ(std::string(found.data, found.data + found.bytes),
              std::string(section.data, section.data + section.bytes));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(found.data) % kArtifactAlignment, 0u);
  }
}

/// Greedy tokens of a prompt of one token.
std::vector<int32_t> generate(Program program, int32_t token, int64_t count) {
  auto session = Session::open(std::move(program), SessionOptions());
  EXPECT_TRUE(session.ok()) << session.status().message();
  auto results = (*session)->generate({{0, {token}}}, {count});
  EXPECT_TRUE(results.ok()) << results.status().message();
  return results->front().tokens;
}

TEST_F(ArtifactFile, RunsItsCodeOverItsWeights) {
  write();
  auto artifact = Artifact::open(path);
  ASSERT_TRUE(artifact.ok()) << artifact.status().message();
  auto loaded = loadProgram(std::move(*artifact));
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  EXPECT_EQ(generate(std::move(*loaded), 1, 6),
            (std::vector<int32_t>{4, 7, 10, 13, 0, 3}));
}

TEST_F(ArtifactFile, SeveralAreLoadedSideBySide) {
  write();
  auto first = loadProgram(*Artifact::open(path));
  auto second = loadProgram(*Artifact::open(path));
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_NE(first->entries.step, second->entries.step);
  first->owner.reset();
  std::rotate(successors.begin(), successors.begin() + 1, successors.end());
  write();
  auto third = loadProgram(*Artifact::open(path));
  ASSERT_TRUE(third.ok());
  // The second keeps the file that it was loaded from.
  EXPECT_EQ(generate(std::move(*second), 1, 2), (std::vector<int32_t>{4, 7}));
  EXPECT_EQ(generate(std::move(*third), 1, 2), (std::vector<int32_t>{5, 9}));
}

/// The stand-in stays in memory when it is closed, and the next file gets its
/// number.
TEST_F(ArtifactFile, CodeIsNotTakenForOneThatWasClosed) {
  write();
  for (int i = 0; i < 3; ++i)
    ASSERT_TRUE(loadProgram(*Artifact::open(path)).ok());
  code = "no code";
  write();
  EXPECT_FALSE(loadProgram(*Artifact::open(path)).ok());
}

TEST_F(ArtifactFile, LoadsThroughTheCApi) {
  write();
  pmkvq_program *program = nullptr;
  ASSERT_EQ(pmkvq_program_load(path.c_str(), &program), PMKVQ_OK)
      << pmkvq_last_error();
  EXPECT_EQ(pmkvq_program_vocab_size(program), 16);
  pmkvq_program_close(program);
  EXPECT_EQ(pmkvq_program_load(nullptr, &program), PMKVQ_INVALID_ARGUMENT);
  EXPECT_EQ(pmkvq_program_load((path + "x").c_str(), &program),
            PMKVQ_INVALID_ARGUMENT);
  EXPECT_NE(std::string(pmkvq_last_error()).find(path + "x"),
            std::string::npos);
}

//===----------------------------------------------------------------------===//
// Damage
//===----------------------------------------------------------------------===//

TEST_F(ArtifactFile, AnyChangedByteIsSeen) {
  write();
  const std::string bytes = readAll(path);
  for (size_t at = 0; at < bytes.size(); at += at < 64 ? 1 : 37) {
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ 1);
    overwrite(damaged);
    EXPECT_FALSE(Artifact::open(path).ok()) << "byte " << at;
  }
}

TEST_F(ArtifactFile, AnyMissingOrAddedByteIsSeen) {
  write();
  const std::string bytes = readAll(path);
  for (size_t size = 0; size < bytes.size(); size += size < 16 ? 1 : 613) {
    overwrite(bytes.substr(0, size));
    EXPECT_FALSE(Artifact::open(path).ok()) << size << " bytes";
  }
  overwrite(bytes.substr(0, bytes.size() - 1));
  refused(StatusCode::DataLoss, {"data_offsets", "got"});
  overwrite(bytes + "x");
  refused(StatusCode::DataLoss, {"data", "as the sections add up to"});
}

TEST_F(ArtifactFile, ADamagedSectionIsNamed) {
  write();
  std::string bytes = readAll(path);
  bytes[bytes.find("module {}")] = 'M';
  overwrite(bytes);
  refused(StatusCode::DataLoss, {"section program.mlir", "hash"});
}

TEST_F(ArtifactFile, ForeignFilesAreRefused) {
  refused(StatusCode::InvalidArgument, {"file", "No such file"});
  overwrite("");
  refused(StatusCode::InvalidArgument, {"at least 8 bytes"});
  overwrite("#!/bin/sh\necho this is no artifact\n");
  refused(StatusCode::InvalidArgument, {"header length"});
  overwrite(std::string("\2\0\0\0\0\0\0\0", 8) + "[]");
  refused(StatusCode::InvalidArgument, {"header", "a JSON object", "[]"});
  overwrite(std::string("\5\0\0\0\0\0\0\0", 8) + "{\"a\":");
  refused(StatusCode::InvalidArgument, {"header", "not well-formed"});
  overwrite(std::string("\x0d\0\0\0\0\0\0\0", 8) + "{\"a\":1,\"a\":1}");
  refused(StatusCode::InvalidArgument, {"header", "\"a\" twice"});
  // A checkpoint.
  fs::copy_file(std::string(PMKVQ_TEST_MODELS_DIR) +
                    "/reasoner/model-00001-of-00002.safetensors",
                path, fs::copy_options::overwrite_existing);
  refused(StatusCode::InvalidArgument,
          {"__metadata__.format", "'pmkvq'", "--emit=artifact"});
  fs::remove(path);
  fs::create_directory(path);
  refused(StatusCode::InvalidArgument, {"not a regular file"});
}

//===----------------------------------------------------------------------===//
// Headers that say wrong things and are whole
//===----------------------------------------------------------------------===//

TEST_F(ArtifactFile, VersionsMustBeKnown) {
  write();
  editHeader([](json &header) { header["__metadata__"]["version"] = "2"; });
  refused(StatusCode::DataLoss, {"__metadata__.version", "'1'", "'2'"});
  description.info.abiVersion = kAbiVersion + 1;
  write();
  refused(StatusCode::DataLoss,
          {"program.abi_version", std::to_string(kAbiVersion),
           std::to_string(kAbiVersion + 1)});
}

TEST_F(ArtifactFile, SectionsCoverTheData) {
  auto offsets = [&](const char *name, int64_t begin, int64_t end) {
    write();
    editHeader([&](json &header) {
      header[name]["data_offsets"] = {begin, end};
      header[name]["shape"] = {std::max<int64_t>(end - begin, 0)};
    });
  };
  // The file is padding after padding: the weight's 32 bytes come first.
  offsets("padding/2", 31, 63);
  refused(StatusCode::DataLoss, {"section padding/2", "from byte 32 on"});
  offsets("padding/2", 33, 65);
  refused(StatusCode::DataLoss, {"section padding/2", "from byte 32 on"});
  offsets("program.mlir", 0, int64_t(1) << 40);
  refused(StatusCode::DataLoss, {"section program.mlir", "data_offsets"});
  offsets("program.mlir", 9, 8);
  refused(StatusCode::DataLoss, {"section program.mlir", "data_offsets"});
}

TEST_F(ArtifactFile, EntriesAreWellFormed) {
  auto entry = [&](const char *field, const json &value,
                   const std::vector<std::string> &words) {
    write();
    editHeader(
        [&](json &header) { header["weight/successors"][field] = value; });
    refused(StatusCode::DataLoss, words);
  };
  entry("dtype", "F16", {"section weight/successors", "dtype", "BF16"});
  entry("dtype", 1, {"dtype"});
  entry("shape", 16, {"shape", "a list"});
  entry("shape", {17}, {"34 bytes", "got 32"});
  entry("shape", {int64_t(1) << 62, 16}, {"over 2^63"});
  entry("shape", {-16}, {"shape", "from 0 on"});
  entry("shape", {16.5}, {"shape", "from 0 on"});
  entry("data_offsets", {0}, {"data_offsets", "2 numbers"});
}

TEST_F(ArtifactFile, SectionsMustBeThere) {
  std::vector<ArtifactSection> all = sections();
  for (size_t left : {0, 1, 2}) {
    std::vector<ArtifactSection> some = all;
    some.erase(some.begin() + static_cast<int64_t>(left));
    write(some);
    refused(StatusCode::DataLoss, {"section " + all[left].name, "got none"});
  }
  all[0].dtype = "U8";
  all[0].shape = {32};
  write(all);
  refused(StatusCode::DataLoss, {"section weight/successors", "BF16", "U8"});
}

TEST_F(ArtifactFile, EverySectionHasAHash) {
  auto editHashes = [&](auto edit) {
    write();
    editHeader([&](json &header) {
      json inner =
          json::parse(header["__metadata__"]["pmkvq"].get<std::string>());
      edit(inner["hashes"]);
      header["__metadata__"]["pmkvq"] = inner.dump();
    });
  };
  editHashes([](json &hashes) { hashes.erase("program.mlir"); });
  refused(StatusCode::DataLoss, {"hashes", "program.mlir"});
  editHashes([](json &hashes) { hashes["program.mlir"] = "0"; });
  refused(StatusCode::DataLoss, {"section program.mlir", "hash", "'0'"});
  editHashes([](json &hashes) { hashes = 1; });
  refused(StatusCode::DataLoss, {"hashes", "an object"});
}

TEST_F(ArtifactFile, FieldsAreTyped) {
  auto field = [&](const char *part, const char *name, const json &value) {
    write();
    editHeader([&](json &header) {
      json inner =
          json::parse(header["__metadata__"]["pmkvq"].get<std::string>());
      inner[part][name] = value;
      header["__metadata__"]["pmkvq"] = inner.dump();
    });
    refused(StatusCode::DataLoss, {std::string(part) + "." + name, "expected"});
  };
  field("model", "name", 1);
  field("model", "stop_tokens", {-1});
  field("target", "features", "avx2");
  field("plan", "kv_bits", -1);
  field("plan", "calibrated", 1);
  field("program", "layers", 1.5);
  field("program", "layers", "2");
  field("program", "layer_floors", {2});
}

TEST_F(ArtifactFile, TheMachineMustBeTheRightOne) {
  description.target.architecture = "s390x";
  write();
  refused(StatusCode::FailedPrecondition,
          {"target.architecture", machineArchitecture(), "'s390x'"});
  description.target.architecture = machineArchitecture();
  description.target.features = {"generic", "avx1024"};
  write();
  refused(StatusCode::FailedPrecondition, {"target.features", "'avx1024'"});
  description.target.features = {};
  description.target.hooks = {"pmkvq_rt_teleport"};
  write();
  refused(StatusCode::DataLoss, {"target.hooks", "'pmkvq_rt_teleport'"});
}

//===----------------------------------------------------------------------===//
// Code
//===----------------------------------------------------------------------===//

TEST_F(ArtifactFile, CodeMustBeCode) {
  code = "not an ELF file";
  write();
  refused(StatusCode::FailedPrecondition,
          {"section code/generic", "does not load"});
}

TEST_F(ArtifactFile, CodeTakesItsHooks) {
  description.target.hooks.emplace_back("pmkvq_rt_linear");
  write();
  refused(StatusCode::FailedPrecondition,
          {"section code/generic", "pmkvq_pointer_to_pmkvq_rt_linear"});
}

TEST_F(ArtifactFile, CodeAndFileSayTheSame) {
  ++description.info.maxPositions;
  write();
  refused(StatusCode::DataLoss, {"program.max_positions", "100", "101"});
  --description.info.maxPositions;
  description.info.budgetBytes = 4;
  write();
  refused(StatusCode::DataLoss, {"program.budget_bytes", "0", "4"});
  description.info.budgetBytes = 0;
  description.info.layerFloor[0][kValue] = 8;
  write();
  refused(StatusCode::DataLoss, {"program.layer_floors of layer 0", "16", "8"});
}

//===----------------------------------------------------------------------===//
// Writing
//===----------------------------------------------------------------------===//

TEST_F(ArtifactFile, NothingIsHalfWritten) {
  overwrite("old");
  {
    auto writer = ArtifactWriter::create(path);
    ASSERT_TRUE(writer.ok());
    EXPECT_EQ(readAll(path), "old");
  }
  EXPECT_EQ(readAll(path), "old");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), {}), 1);
  // A link stays one.
  fs::create_symlink(path, folder / "link");
  auto writer = ArtifactWriter::create(folder / "link");
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE(writer->write(description, sections()).ok());
  EXPECT_TRUE(fs::is_symlink(folder / "link"));
  EXPECT_TRUE(Artifact::open(path).ok());
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), {}), 2);
}

TEST_F(ArtifactFile, PlacesThatCannotBeWritten) {
  for (const std::string &place :
       {(folder / "no" / "m.pmkvq").string(), folder.string(),
        std::string("/dev/null"), std::string("/proc/m.pmkvq")}) {
    auto writer = ArtifactWriter::create(place);
    ASSERT_FALSE(writer.ok()) << place;
    EXPECT_EQ(writer.status().message().rfind(place + ": ", 0), 0u);
  }
}

} // namespace
