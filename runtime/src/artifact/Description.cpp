//===- Description.cpp - What an artifact says of itself, as JSON ---------===//
//
// Numbers of a ProgramInfo are listed once, for writing, reading and comparing.
// Neighbours: Description.h.
//
//===----------------------------------------------------------------------===//

#include "Description.h"

#include <cmath>
#include <limits>

using namespace pmkvq::rt;
using namespace pmkvq::rt::artifact;
using nlohmann::json;

namespace {
/// A number of a ProgramInfo and its name in the file.
struct Number {
  const char *name;
  int32_t &value;
};
} // namespace

static std::array<Number, 13> numbersOf(ProgramInfo &info) {
  return {{{"abi_version", info.abiVersion},
           {"layers", info.layers},
           {"kv_heads", info.kvHeads},
           {"query_heads", info.queryHeads},
           {"head_dim", info.headDim},
           {"sink_tokens", info.sinkTokens},
           {"key_parameter_bytes", info.parameterBytes[kKey]},
           {"value_parameter_bytes", info.parameterBytes[kValue]},
           {"vocab_size", info.vocabSize},
           {"max_positions", info.maxPositions},
           {"schedule", info.schedule},
           {"key_floor", info.floor[kKey]},
           {"value_floor", info.floor[kValue]}}};
}

//===----------------------------------------------------------------------===//
// Writing
//===----------------------------------------------------------------------===//

static json programJson(ProgramInfo info) {
  json program;
  for (const Number &number : numbersOf(info))
    program[number.name] = number.value;
  program["budget_bytes"] = info.budgetBytes;
  json floors = json::array();
  for (int32_t layer = 0; layer < info.layers; ++layer)
    floors.push_back(
        {floorOf(info, layer, kKey), floorOf(info, layer, kValue)});
  program["layer_floors"] = std::move(floors);
  return program;
}

json artifact::toJson(const ArtifactDescription &description,
                      const Hashes &hashes) {
  const ArtifactTarget &target = description.target;
  const ArtifactPlan &plan = description.plan;
  return {{"producer", description.producer},
          {"model",
           {{"name", description.modelName},
            {"hash", description.modelHash},
            {"stop_tokens", description.stopTokens}}},
          {"target",
           {{"architecture", target.architecture},
            {"cpu", target.cpu},
            {"features", target.features},
            {"hooks", target.hooks}}},
          {"plan",
           {{"schedule", plan.schedule},
            {"key_format", plan.keyFormat},
            {"value_format", plan.valueFormat},
            {"kv_bits", plan.bitsPerElement},
            {"calibrated", plan.calibrated}}},
          {"program", programJson(description.info)},
          {"weights", description.weights},
          {"hashes", hashes}};
}

//===----------------------------------------------------------------------===//
// Reading
//===----------------------------------------------------------------------===//

namespace {
/// Typed access to an object.  The first error is kept, and everything after it
/// gives some valid value, so that reading needs no check a field.
class Reader {
public:
  Reader(const json &object, const std::string &path, std::string prefix)
      : object(object), path(path), prefix(std::move(prefix)) {}

  const json &member(const char *name) {
    static const json none;
    auto found = object.find(name);
    return found == object.end() ? none : *found;
  }

  void text(const char *name, std::string &value) {
    const json &found = member(name);
    if (!found.is_string())
      return fail(name, "a string");
    value = found.get<std::string>();
  }

  void flag(const char *name, bool &value) {
    const json &found = member(name);
    if (!found.is_boolean())
      return fail(name, "true or false");
    value = found.get<bool>();
  }

  template <typename T> void count(const char *name, T &value) {
    const json &found = member(name);
    if (!isCount<T>(found))
      return fail(name, "a whole number from 0 to " +
                            std::to_string(std::numeric_limits<T>::max()));
    value = found.get<T>();
  }

  void number(const char *name, double &value) {
    const json &found = member(name);
    if (!found.is_number() || !std::isfinite(found.get<double>()) ||
        found.get<double>() < 0)
      return fail(name, "a number from 0 on");
    value = found.get<double>();
  }

  void texts(const char *name, std::vector<std::string> &values) {
    const json &found = member(name);
    if (!found.is_array())
      return fail(name, "a list of strings");
    for (const json &value : found) {
      if (!value.is_string())
        return fail(name, "a list of strings");
      values.push_back(value.get<std::string>());
    }
  }

  void tokens(const char *name, std::vector<int32_t> &values) {
    const json &found = member(name);
    if (!found.is_array())
      return fail(name, "a list of token ids");
    for (const json &value : found) {
      if (!isCount<int32_t>(value))
        return fail(name, "a list of token ids");
      values.push_back(value.get<int32_t>());
    }
  }

  /// [layers] pairs of levels.
  void floors(const char *name, ProgramInfo &info) {
    const json &found = member(name);
    auto isLevelPair = [](const json &pair) {
      return pair.is_array() && pair.size() == kParts &&
             isCount<uint8_t>(pair[kKey]) && isCount<uint8_t>(pair[kValue]);
    };
    if (info.layers > kMaxLayers || !found.is_array() ||
        found.size() != static_cast<size_t>(info.layers))
      return fail(name, "a pair for each of " + std::to_string(info.layers) +
                            " layers, at most " + std::to_string(kMaxLayers));
    for (size_t layer = 0; layer < found.size(); ++layer) {
      if (!isLevelPair(found[layer]))
        return fail(name, "pairs of levels");
      for (Part part : {kKey, kValue})
        info.layerFloor[layer][part] = found[layer][part].get<uint8_t>();
    }
  }

  void hashes(const char *name, Hashes &values) {
    const json &found = member(name);
    if (!found.is_object())
      return fail(name, "an object of strings");
    for (auto &[section, hash] : found.items()) {
      if (!hash.is_string())
        return fail(name, "an object of strings");
      values[section] = hash.get<std::string>();
    }
  }

  const Status &status() const { return first; }

private:
  template <typename T> static bool isCount(const json &value) {
    return value.is_number_unsigned() &&
           value.get<uint64_t>() <=
               static_cast<uint64_t>(std::numeric_limits<T>::max());
  }

  void fail(const char *name, const std::string &expected) {
    if (first.ok())
      first = fileError(path, prefix + name,
                        difference(expected, object.contains(name)
                                                 ? show(member(name))
                                                 : "none"));
  }

  const json &object;
  const std::string &path;
  std::string prefix;
  Status first;
};
} // namespace

/// Reads the object `name` of `whole` with `read`.
template <typename Read>
static Status readPart(const json &whole, const std::string &path,
                       const std::string &name, Read read) {
  auto found = whole.find(name);
  if (found == whole.end() || !found->is_object())
    return fileError(path, name,
                     difference("a JSON object",
                                found == whole.end() ? "none" : show(*found)));
  Reader reader(*found, path, name + ".");
  read(reader);
  return reader.status();
}

Status artifact::fromJson(const json &object, const std::string &path,
                          ArtifactDescription &description, Hashes &hashes) {
  Reader outer(object, path, "");
  outer.text("producer", description.producer);
  outer.texts("weights", description.weights);
  outer.hashes("hashes", hashes);
  if (!outer.status().ok())
    return outer.status();
  Status status = readPart(object, path, "model", [&](Reader &reader) {
    reader.text("name", description.modelName);
    reader.text("hash", description.modelHash);
    reader.tokens("stop_tokens", description.stopTokens);
  });
  if (!status.ok())
    return status;
  status = readPart(object, path, "target", [&](Reader &reader) {
    reader.text("architecture", description.target.architecture);
    reader.text("cpu", description.target.cpu);
    reader.texts("features", description.target.features);
    reader.texts("hooks", description.target.hooks);
  });
  if (!status.ok())
    return status;
  status = readPart(object, path, "plan", [&](Reader &reader) {
    reader.text("schedule", description.plan.schedule);
    reader.text("key_format", description.plan.keyFormat);
    reader.text("value_format", description.plan.valueFormat);
    reader.number("kv_bits", description.plan.bitsPerElement);
    reader.flag("calibrated", description.plan.calibrated);
  });
  if (!status.ok())
    return status;
  return readPart(object, path, "program", [&](Reader &reader) {
    ProgramInfo &info = description.info;
    for (const Number &number : numbersOf(info))
      reader.count(number.name, number.value);
    reader.count("budget_bytes", info.budgetBytes);
    reader.floors("layer_floors", info);
  });
}

Status artifact::compare(const ProgramInfo &file, const ProgramInfo &code,
                         const std::string &path) {
  ProgramInfo ours = file, theirs = code;
  auto fail = [&](const std::string &field, int64_t expected, int64_t actual) {
    return fileError(path, "program." + field,
                     "the code says " + std::to_string(expected) +
                         ", the file " + std::to_string(actual));
  };
  auto expected = numbersOf(theirs), actual = numbersOf(ours);
  for (size_t i = 0; i < expected.size(); ++i)
    if (expected[i].value != actual[i].value)
      return fail(expected[i].name, expected[i].value, actual[i].value);
  if (code.budgetBytes != file.budgetBytes)
    return fail("budget_bytes", code.budgetBytes, file.budgetBytes);
  for (int32_t layer = 0; layer < code.layers; ++layer)
    for (Part part : {kKey, kValue})
      if (floorOf(code, layer, part) != floorOf(file, layer, part))
        return fail("layer_floors of layer " + std::to_string(layer),
                    floorOf(code, layer, part), floorOf(file, layer, part));
  return Status();
}
