//===- Calibration.cpp - What a calibration file says of a model ----------===//
//
// Neighbours: Calibration.h, Fields.h (typed access to JSON).
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Import/Calibration.h"
#include "Fields.h"
#include "Json.h"
#include "pmkvq_rt/Abi.h"
#include <cmath>
#include <optional>

using namespace mlir;
using namespace mlir::pmkvq;
using llvm::Error;
using llvm::Expected;
using nlohmann::json;

static constexpr int64_t kCalibrationVersion = 1;
/// Pages that the file tells apart.
static constexpr size_t kMostAges = ::pmkvq::rt::kLossAges;
static constexpr StringRef kPartFields[] = {"key", "value"};

/// An object within an object; an empty one, and an error, if it is not there.
static const json &innerObject(Fields &fields, StringRef name) {
  static const json empty = json::object();
  const json *value = fields.find(name);
  if (value && value->is_object())
    return *value;
  fields.fail(name, "an object", value);
  return empty;
}

static void expectNumber(Fields &fields, StringRef name, int64_t expected,
                         StringRef reason) {
  const json *value = fields.find(name);
  if (!value || !value->is_number_integer() || *value != expected)
    fields.fail(name, Twine(expected) + " (" + reason + ")", value);
}

static void expectText(Fields &fields, StringRef name, StringRef expected,
                       StringRef reason) {
  const json *value = fields.find(name);
  if (!value || !value->is_string() ||
      value->get_ref<const std::string &>() != expected)
    fields.fail(name, expected + (reason.empty() ? "" : " (" + reason + ")"),
                value);
}

static bool isFinite(const json &value) {
  return value.is_number() && std::isfinite(value.get<double>());
}

static void readClip(Fields &fields, double &clip) {
  const json *found = fields.find("clip");
  if (found && isFinite(*found) && found->get<double>() > 0.7 &&
      found->get<double>() < 0.9)
    clip = found->get<double>();
  else
    fields.fail("clip", "a number in (0.7, 0.9)", found);
}

/// One measure of one part of a layer.
static void readLosses(Fields &fields, StringRef measure, bool values,
                       std::vector<double> &loss) {
  constexpr size_t most = ::pmkvq::rt::kLossLevels;
  const json *losses = fields.find(measure);
  bool valid =
      losses && losses->is_array() &&
      (losses->size() == most - 1 || (values && losses->size() == most)) &&
      llvm::all_of(*losses, [](const json &value) {
        return isFinite(value) && value.get<double>() >= 0 &&
               value.get<double>() <= kMostOfLists;
      });
  if (!valid)
    return fields.fail(
        measure,
        Twine("finite numbers of at least 0, at 8, 4 and 2 bits") +
            (values ? ", maybe 1" : ""),
        losses);
  for (const json &number : *losses)
    loss.push_back(number.get<double>());
}

namespace {
/// Reads layers of a file that all have the same fields.
class LayerReader {
public:
  LayerReader(const ModelConfig &config, StringRef path, StringRef measure,
              bool hasDivergences)
      : config(config), path(path), measure(measure),
        hasDivergences(hasDivergences) {}

  Expected<LayerCalibration> read(const json &object, size_t index) const;

private:
  bool readHead(const json &head, std::vector<int8_t> &exponents) const;
  Error readExponents(const json &scale, const std::string &prefix,
                      std::vector<int8_t> &exponents) const;
  void readHeads(Fields &layer, StringRef name, std::optional<size_t> count,
                 std::vector<float> &numbers) const;

  const ModelConfig &config;
  StringRef path;
  StringRef measure;
  bool hasDivergences;
};
} // namespace

/// Appends one head's exponents; false if they are not any.
bool LayerReader::readHead(const json &head,
                           std::vector<int8_t> &exponents) const {
  if (!head.is_array() || head.size() != static_cast<size_t>(config.headDim))
    return false;
  size_t half = head.size() / 2;
  for (size_t i = 0; i < head.size(); ++i) {
    if (!head[i].is_number_integer() || head[i] < -kMostKeyExponent ||
        head[i] > kMostKeyExponent || head[i] != head[i % half])
      return false;
    exponents.push_back(head[i].get<int8_t>());
  }
  return true;
}

Error LayerReader::readExponents(const json &scale, const std::string &prefix,
                                 std::vector<int8_t> &exponents) const {
  static const json empty = json::object();
  Fields fields(scale.is_object() ? scale : empty, path, prefix);
  const json *heads = fields.find("exponents");
  bool valid = heads && heads->is_array() &&
               heads->size() == static_cast<size_t>(config.kvHeads) &&
               llvm::all_of(*heads, [&](const json &head) {
                 // One norm's weight is that of all heads.
                 return (!config.queryKeyNorms || head == heads->front()) &&
                        readHead(head, exponents);
               });
  if (!valid)
    fields.fail("exponents",
                Twine(config.kvHeads) + " lists of " + Twine(config.headDim) +
                    " whole numbers from -" + Twine(kMostKeyExponent) + " to " +
                    Twine(kMostKeyExponent) + ", the same for i and i + " +
                    Twine(config.headDim / 2) +
                    (config.queryKeyNorms ? " and in all lists" : ""),
                heads);
  return fields.takeError();
}

/// Appends a list of numbers for each kv head, if the layer has the field:
/// `count` numbers each, or as many as the first head has, if that is none.
void LayerReader::readHeads(Fields &layer, StringRef name,
                            std::optional<size_t> count,
                            std::vector<float> &numbers) const {
  const json *heads = layer.find(name);
  if (!heads)
    return;
  bool valid = heads->is_array() &&
               heads->size() == static_cast<size_t>(config.kvHeads) &&
               heads->front().is_array();
  const size_t size = valid ? heads->front().size() : 0;
  valid = valid && (count ? size == *count : size >= 1 && size <= kMostAges);
  auto isNumber = [](const json &number) {
    return isFinite(number) && number >= 0 && number <= kMostOfLists;
  };
  valid = valid && llvm::all_of(*heads, [&](const json &head) {
            return head.is_array() && head.size() == size &&
                   llvm::all_of(head, isNumber);
          });
  if (!valid) {
    std::string counts =
        count ? std::to_string(*count)
              : "1 to " + std::to_string(kMostAges) + " (all as many)";
    return layer.fail(name,
                      Twine(config.kvHeads) + " lists of " + counts +
                          " numbers from 0 to 1e30",
                      heads);
  }
  for (const json &head : *heads)
    for (const json &number : head)
      numbers.push_back(number.get<float>());
}

Expected<LayerCalibration> LayerReader::read(const json &object,
                                             size_t index) const {
  std::string prefix = "layers[" + std::to_string(index) + "].";
  static const json empty = json::object();
  Fields layer(object.is_object() ? object : empty, path, prefix);
  LayerCalibration result;
  if (hasDivergences)
    result.divergence.emplace();
  for (auto [i, name] : llvm::enumerate(kPartFields)) {
    Fields part(innerObject(layer, name), path, prefix + name.str() + ".");
    if (Error error = layer.takeError())
      return error;
    readClip(part, result.clip[i]);
    const bool values = i == ::pmkvq::rt::kValue;
    readLosses(part, measure, values, result.loss[i]);
    if (hasDivergences)
      readLosses(part, "kl", values, (*result.divergence)[i]);
    if (Error error = part.takeError())
      return error;
  }
  if (const json *scale = layer.find("key_scale"))
    if (Error error =
            readExponents(*scale, prefix + "key_scale.", result.keyExponents))
      return error;
  readHeads(layer, "query_squares", static_cast<size_t>(config.headDim),
            result.querySquares);
  readHeads(layer, "page_shares", std::nullopt, result.pageShares);
  if (Error error = layer.takeError())
    return error;
  return result;
}

/// Refuses the calibration of another model.
static Error checkModel(const json &object, StringRef path,
                        const ModelConfig &config,
                        const Checkpoint &checkpoint) {
  Fields model(object, path, "model.");
  constexpr StringRef reason = "of this model";
  expectNumber(model, "layers", config.layers, reason);
  expectNumber(model, "kv_heads", config.kvHeads, reason);
  expectNumber(model, "head_dim", config.headDim, reason);
  expectText(model, "hash", checkpoint.fingerprint(), reason);
  return model.takeError();
}

/// The text of a field; empty if it has none.
static std::string textOf(Fields &fields, StringRef name) {
  const json *value = fields.find(name);
  return value && value->is_string() ? value->get<std::string>()
                                     : std::string();
}

/// Reads how it was measured; returns the measure that losses are of.
static Expected<std::string> readSettings(const json &object, StringRef path,
                                          Calibration &calibration) {
  Fields settings(object, path, "settings.");
  std::string measure = textOf(settings, "measure");
  if (measure != "sensitivity" && measure != "kl")
    settings.fail("measure", "sensitivity or kl", settings.find("measure"));
  calibration.byDivergence = measure == "kl";
  for (auto [i, part] : llvm::enumerate(kPartFields)) {
    std::string name = (part + "_format").str();
    calibration.formats[i] = textOf(settings, name);
    if (calibration.formats[i].empty())
      settings.fail(name, "a format like <per_channel, hadamard>",
                    settings.find(name));
  }
  calibration.scaledDivergences = settings.flag("key_scales", false);
  std::string rounding = textOf(settings, "rounding");
  calibration.fedBackDivergences = rounding == "feedback";
  if (settings.find("rounding") && rounding != "feedback" &&
      rounding != "nearest")
    settings.fail("rounding", "feedback or nearest", settings.find("rounding"));
  if (Error error = settings.takeError())
    return error;
  return measure;
}

/// Whether the first layer has divergences: then all must.
static bool findDivergences(const json &layers) {
  if (layers.empty() || !layers.front().is_object())
    return false;
  auto key = layers.front().find("key");
  return key != layers.front().end() && key->is_object() && key->contains("kl");
}

/// Refuses numbers that one layer has and the first has not, or the other way.
static Error checkAlike(StringRef path, size_t index, StringRef field,
                        StringRef what, llvm::ArrayRef<float> found,
                        llvm::ArrayRef<float> first) {
  if (found.empty() == first.empty())
    return Error::success();
  return fileError(path, "layers[" + Twine(index) + "]." + field,
                   "expected all layers to have " + what + ", or none");
}

/// Refuses a layer that has other fields than the first.
static Error checkLayer(StringRef path, StringRef measure, size_t index,
                        const LayerCalibration &layer,
                        const LayerCalibration &first) {
  if (Error error =
          checkAlike(path, index, "query_squares", "squares of queries",
                     layer.querySquares, first.querySquares))
    return error;
  if (Error error = checkAlike(path, index, "page_shares", "shares of pages",
                               layer.pageShares, first.pageShares))
    return error;
  auto checkLevels = [&](StringRef field, const auto &losses,
                         const auto &expected) -> Error {
    size_t found = losses[::pmkvq::rt::kValue].size();
    size_t count = expected[::pmkvq::rt::kValue].size();
    if (found == count)
      return Error::success();
    return fileError(path, "layers[" + Twine(index) + "].value." + field,
                     "expected " + Twine(count) +
                         " numbers, as the first layer has, got " +
                         Twine(found));
  };
  if (Error error = checkLevels(measure, layer.loss, first.loss))
    return error;
  return layer.divergence
             ? checkLevels("kl", *layer.divergence, *first.divergence)
             : Error::success();
}

Expected<Calibration>
mlir::pmkvq::readCalibration(StringRef path, const ModelConfig &config,
                             const Checkpoint &checkpoint) {
  Expected<json> document = readJsonObject(path);
  if (!document)
    return document.takeError();
  Fields fields(*document, path);
  expectText(fields, "format", "pmkvq-calibration", "");
  expectNumber(fields, "version", kCalibrationVersion,
               "which this build reads");
  const json &model = innerObject(fields, "model");
  const json &settings = innerObject(fields, "settings");
  const json *layers = fields.find("layers");
  if (!layers || !layers->is_array())
    fields.fail("layers", "a list", layers);
  if (Error error = fields.takeError())
    return error;
  if (Error error = checkModel(model, path, config, checkpoint))
    return error;
  Calibration result;
  Expected<std::string> measure = readSettings(settings, path, result);
  if (!measure)
    return measure.takeError();
  if (layers->size() != static_cast<size_t>(config.layers))
    return fileError(path, "layers",
                     "expected " + Twine(config.layers) + " layers, got " +
                         Twine(layers->size()));
  LayerReader reader(config, path, *measure, findDivergences(*layers));
  for (auto [index, layer] : llvm::enumerate(*layers)) {
    Expected<LayerCalibration> read = reader.read(layer, index);
    if (!read)
      return read.takeError();
    const LayerCalibration &first =
        result.layers.empty() ? *read : result.layers.front();
    if (Error error = checkLayer(path, *measure, index, *read, first))
      return error;
    result.layers.push_back(std::move(*read));
  }
  return result;
}

Error mlir::pmkvq::foldKeyScales(StringRef path, ModelConfig &config) {
  for (auto [index, layer] : llvm::enumerate(config.calibration->layers))
    if (layer.keyExponents.empty())
      return fileError(path, "layers[" + Twine(index) + "].key_scale.exponents",
                       "expected key scales, got none; calibrate again");
  config.foldKeyScales = true;
  return Error::success();
}
