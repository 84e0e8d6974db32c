//===- Calibration.cpp - What a calibration file says of a model ----------===//
//
// Neighbours: Calibration.h, Fields.h (typed access to JSON).
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Import/Calibration.h"
#include "Fields.h"
#include "Json.h"
#include <cmath>

using namespace mlir;
using namespace mlir::pmkvq;
using llvm::Error;
using llvm::Expected;
using nlohmann::json;

static constexpr int64_t kCalibrationVersion = 1;
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

/// The clip and the losses of one part of a layer.
static void readPart(Fields &fields, StringRef measure, double &clip,
                     std::array<double, 3> &loss) {
  const json *found = fields.find("clip");
  if (found && isFinite(*found) && found->get<double>() > 0.7 &&
      found->get<double>() < 0.9)
    clip = found->get<double>();
  else
    fields.fail("clip", "a number in (0.7, 0.9)", found);
  const json *losses = fields.find(measure);
  bool valid = losses && losses->is_array() && losses->size() == loss.size() &&
               llvm::all_of(*losses, [](const json &value) {
                 return isFinite(value) && value.get<double>() >= 0;
               });
  if (!valid)
    return fields.fail(measure,
                       "three finite numbers of at least 0, at 8, 4 and 2 bits",
                       losses);
  for (size_t i = 0; i < loss.size(); ++i)
    loss[i] = (*losses)[i].get<double>();
}

static Expected<LayerCalibration> readLayer(const json &object, StringRef path,
                                            size_t index, StringRef measure) {
  std::string prefix = "layers[" + std::to_string(index) + "].";
  static const json empty = json::object();
  Fields layer(object.is_object() ? object : empty, path, prefix);
  LayerCalibration result;
  for (auto [i, name] : llvm::enumerate(kPartFields)) {
    Fields part(innerObject(layer, name), path, prefix + name.str() + ".");
    if (Error error = layer.takeError())
      return error;
    readPart(part, measure, result.clip[i], result.loss[i]);
    if (Error error = part.takeError())
      return error;
  }
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

static Expected<std::string> readMeasure(const json &object, StringRef path) {
  Fields settings(object, path, "settings.");
  const json *measure = settings.find("measure");
  std::string name = measure && measure->is_string()
                         ? measure->get<std::string>()
                         : std::string();
  if (name != "sensitivity" && name != "kl")
    settings.fail("measure", "sensitivity or kl", measure);
  if (Error error = settings.takeError())
    return error;
  return name;
}

Expected<std::vector<LayerCalibration>>
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
  Expected<std::string> measure = readMeasure(settings, path);
  if (!measure)
    return measure.takeError();
  if (layers->size() != static_cast<size_t>(config.layers))
    return fileError(path, "layers",
                     "expected " + Twine(config.layers) + " layers, got " +
                         Twine(layers->size()));
  std::vector<LayerCalibration> result;
  for (auto [index, layer] : llvm::enumerate(*layers)) {
    Expected<LayerCalibration> read = readLayer(layer, path, index, *measure);
    if (!read)
      return read.takeError();
    result.push_back(*read);
  }
  return result;
}
