//===- RopeConfig.cpp - What config.json says of RoPE ---------------------===//
//
// Frequencies are computed in single precision and in the order of operations
// of `transformers`: checkpoints were trained with these.  Neighbours:
// RopeConfig.h, StepBuilder.cpp (what becomes of the frequencies).
//
//===----------------------------------------------------------------------===//

#include "RopeConfig.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include <algorithm>
#include <cmath>

using namespace mlir;
using namespace mlir::pmkvq;
using nlohmann::json;

/// theta^(-2i / headDim).
static std::vector<float> defaultFrequencies(double theta, int64_t headDim) {
  std::vector<float> values;
  for (int64_t i = 0; i < headDim; i += 2) {
    float exponent = static_cast<float>(i) / static_cast<float>(headDim);
    values.push_back(1.0f / std::pow(static_cast<float>(theta), exponent));
  }
  return values;
}

//===----------------------------------------------------------------------===//
// Kinds
//===----------------------------------------------------------------------===//

namespace {
/// What the fields around the parameters say.
struct RopeContext {
  int64_t headDim;
  int64_t maxPositions;
  /// original_max_position_embeddings beside the parameters wins over the one
  /// among them.
  std::optional<double> originalPositions;
  /// None: the parameters must have it.
  std::optional<double> theta;
};

/// Reads the parameters of one kind of RoPE and applies them.
class RopeReader {
public:
  RopeReader(Fields &fields, RopeConfig &rope, const RopeContext &context)
      : fields(fields), rope(rope), context(context) {}

  void linear();
  void llama3();
  void yarn();

private:
  double originalPositions() {
    double among = fields.positive("original_max_position_embeddings",
                                   static_cast<double>(context.maxPositions));
    return context.originalPositions.value_or(among);
  }
  float yarnAttentionFactor(double factor);
  double yarnDim(double turns, double positions);

  Fields &fields;
  RopeConfig &rope;
  const RopeContext &context;
};

struct RopeKind {
  StringRef name;
  /// The parameters that it has beside the type and rope_theta.
  ArrayRef<StringRef> parameters;
  void (RopeReader::*apply)();
};
} // namespace

/// Positions lie `factor` times as close.
void RopeReader::linear() {
  float factor = static_cast<float>(fields.positive("factor"));
  for (float &frequency : rope.frequencies)
    frequency /= factor;
}

/// Long waves are stretched by `factor`, short ones stay, those between are
/// blended.
void RopeReader::llama3() {
  float factor = static_cast<float>(fields.positive("factor"));
  double low = fields.positive("low_freq_factor");
  double high = fields.positive("high_freq_factor");
  double positions = originalPositions();
  if (low >= high)
    fields.fail("high_freq_factor", "more than low_freq_factor",
                fields.find("high_freq_factor"));
  for (float &frequency : rope.frequencies) {
    float length = static_cast<float>(2 * llvm::numbers::pi) / frequency;
    if (length > static_cast<float>(positions / low)) {
      frequency /= factor;
    } else if (length >= static_cast<float>(positions / high)) {
      float smooth =
          (static_cast<float>(positions) / length - static_cast<float>(low)) /
          static_cast<float>(high - low);
      frequency = (1 - smooth) * frequency / factor + smooth * frequency;
    }
  }
}

float RopeReader::yarnAttentionFactor(double factor) {
  auto grown = [&](double scale) {
    return factor <= 1 ? 1 : 0.1 * scale * std::log(factor) + 1;
  };
  double computed = grown(1);
  if (fields.find("mscale") && fields.find("mscale_all_dim"))
    computed = grown(fields.positive("mscale")) /
               grown(fields.positive("mscale_all_dim"));
  return static_cast<float>(fields.positive("attention_factor", computed));
}

/// The element pair that turns `turns` times within `positions`.
double RopeReader::yarnDim(double turns, double positions) {
  return static_cast<double>(context.headDim) *
         std::log(positions / (turns * 2 * llvm::numbers::pi)) /
         (2 * std::log(rope.theta));
}

/// YaRN (arXiv 2309.00071): pairs that turn often stay, those that turn seldom
/// lie `factor` times as close, those between are blended.
void RopeReader::yarn() {
  double positions = originalPositions();
  double factor = fields.positive("factor");
  rope.attentionFactor = yarnAttentionFactor(factor);
  if (rope.theta <= 1)
    return fields.fail("rope_theta", "more than 1 with yarn",
                       fields.find("rope_theta"));
  double low = yarnDim(fields.positive("beta_fast", 32), positions);
  double high = yarnDim(fields.positive("beta_slow", 1), positions);
  if (fields.flag("truncate", true)) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(context.headDim - 1));
  if (low == high)
    high += 0.001;
  for (auto [index, frequency] : llvm::enumerate(rope.frequencies)) {
    float ramp = (static_cast<float>(index) - static_cast<float>(low)) /
                 static_cast<float>(high - low);
    float kept = 1 - std::clamp(ramp, 0.0f, 1.0f);
    float stretched = 1 / (static_cast<float>(factor) * (1 / frequency));
    frequency = stretched * (1 - kept) + frequency * kept;
  }
}

//===----------------------------------------------------------------------===//
// The object that has them
//===----------------------------------------------------------------------===//

static ArrayRef<RopeKind> getRopeKinds() {
  static constexpr StringRef linear[] = {"factor"};
  static constexpr StringRef llama3[] = {"factor", "low_freq_factor",
                                         "high_freq_factor",
                                         "original_max_position_embeddings"};
  static constexpr StringRef yarn[] = {
      "factor",    "original_max_position_embeddings",
      "beta_fast", "beta_slow",
      "mscale",    "mscale_all_dim",
      "truncate",  "attention_factor"};
  static const RopeKind kinds[] = {{"default", {}, nullptr},
                                   {"linear", linear, &RopeReader::linear},
                                   {"llama3", llama3, &RopeReader::llama3},
                                   {"yarn", yarn, &RopeReader::yarn}};
  return kinds;
}

/// The kind that `rope_type`, or `type` in older files, names; null after an
/// error.
static const RopeKind *readRopeKind(Fields &fields) {
  const json *type = nullptr;
  StringRef key = "rope_type";
  for (StringRef name : {"type", "rope_type"})
    if (const json *found = fields.find(name)) {
      if (type && *type != *found)
        fields.fail(name, "what type says", found);
      type = found;
      key = name;
    }
  for (const RopeKind &kind : getRopeKinds())
    if (type ? *type == kind.name.str() : kind.name == "default")
      return &kind;
  bool dependsOnLength =
      *type == "dynamic" || *type == "longrope" || *type == "su";
  fields.fail(key,
              Twine("\"default\", \"linear\", \"llama3\" or \"yarn\"") +
                  (dependsOnLength ? " (frequencies that depend on the length "
                                     "of a sequence are not built)"
                                   : ""),
              type);
  return nullptr;
}

/// A parameter that is not known may change the angles.
static void refuseUnknownParameters(Fields &fields, const RopeKind &kind) {
  std::vector<StringRef> known = {"rope_type", "type", "rope_theta"};
  llvm::append_range(known, kind.parameters);
  for (const auto &[name, value] : fields.getObject().items())
    if (!value.is_null() && name != "partial_rotary_factor" &&
        !llvm::is_contained(known, StringRef(name)))
      fields.fail(name,
                  "none (the parameters of rope type " + kind.name +
                      " are: " + llvm::join(known, ", ") + ")",
                  &value);
}

static RopeConfig readParameters(Fields &fields, const RopeContext &context) {
  RopeConfig rope;
  const RopeKind *kind = readRopeKind(fields);
  fields.only("partial_rotary_factor", 1.0, "partial RoPE is not built");
  if (kind)
    refuseUnknownParameters(fields, *kind);
  rope.theta = fields.positive("rope_theta", context.theta);
  rope.frequencies = defaultFrequencies(rope.theta, context.headDim);
  if (kind && kind->apply)
    (RopeReader(fields, rope, context).*kind->apply)();
  return rope;
}

/// Some files have the fields of both generations; they must agree.
static void checkBothForms(Fields &fields, const json &parameters,
                           const json &scaling) {
  for (const auto &[name, value] : scaling.items()) {
    auto same = parameters.find(name == "type" ? "rope_type" : name);
    if (same == parameters.end() || *same != value)
      fields.fail("rope_scaling", "null or what rope_parameters says",
                  &scaling);
  }
}

RopeConfig mlir::pmkvq::readRope(Fields &fields, int64_t headDim,
                                 int64_t maxPositions) {
  // The value that the architectures have had from the start.
  constexpr double defaultTheta = 10000;
  for (StringRef name : {"rope_parameters", "rope_scaling"})
    if (const json *object = fields.find(name);
        object && !object->is_object()) {
      fields.fail(name, "a JSON object", object);
      return {};
    }
  const json *parameters = fields.find("rope_parameters");
  const json *scaling = fields.find("rope_scaling");
  if (parameters && scaling)
    checkBothForms(fields, *parameters, *scaling);
  RopeContext context{headDim, maxPositions, {}, {}};
  if (fields.find("original_max_position_embeddings"))
    context.originalPositions =
        fields.positive("original_max_position_embeddings");
  if (!parameters || fields.find("rope_theta"))
    context.theta = fields.positive("rope_theta", defaultTheta);
  const json none = json::object();
  bool isNew = parameters || !scaling;
  if (!parameters)
    parameters = scaling ? scaling : &none;
  Fields inner(*parameters, fields.getPath(),
               isNew ? "rope_parameters." : "rope_scaling.");
  RopeConfig rope = readParameters(inner, context);
  fields.adopt(inner.takeError());
  return rope;
}
