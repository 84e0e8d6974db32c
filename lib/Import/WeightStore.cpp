//===- WeightStore.cpp - A program's weights in memory --------------------===//
//
// Neighbours: WeightStore.h.
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Import/WeightStore.h"
#include "llvm/ADT/APFloat.h"
#include "llvm/ADT/bit.h"
#include "llvm/Support/MathExtras.h"
#include <cmath>
#include <cstring>

using namespace mlir;
using namespace mlir::pmkvq;
using llvm::Error;
using llvm::Expected;

//===----------------------------------------------------------------------===//
// Element types
//===----------------------------------------------------------------------===//

static float bf16ToF32(uint16_t bits) {
  return llvm::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

/// Round to nearest, ties to even; NaN stays NaN.
static uint16_t f32ToBF16(float value) {
  uint32_t bits = llvm::bit_cast<uint32_t>(value);
  if (std::isnan(value))
    return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static float f16ToF32(uint16_t bits) {
  float sign = bits & 0x8000 ? -1.0f : 1.0f;
  int exponent = bits >> 10 & 31, fraction = bits & 1023;
  if (exponent == 31)
    return fraction ? std::numeric_limits<float>::quiet_NaN()
                    : sign * std::numeric_limits<float>::infinity();
  if (exponent == 0)
    return sign * std::ldexp(static_cast<float>(fraction), -24);
  return sign * std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
}

template <typename T> static T loadAt(const char *data, int64_t index) {
  T value;
  std::memcpy(&value, data + index * sizeof(T), sizeof(T));
  return value;
}

/// The tensor as f32; its type is one of the three.
static std::vector<float> toF32(const TensorView &view) {
  int64_t count = view.bytes / byteSize(view.dtype);
  std::vector<float> values(count);
  for (int64_t i = 0; i < count; ++i) {
    if (view.dtype == DType::F32)
      values[i] = loadAt<float>(view.data, i);
    else if (view.dtype == DType::BF16)
      values[i] = bf16ToF32(loadAt<uint16_t>(view.data, i));
    else
      values[i] = f16ToF32(loadAt<uint16_t>(view.data, i));
  }
  return values;
}

//===----------------------------------------------------------------------===//
// Rotation
//===----------------------------------------------------------------------===//

/// One butterfly between two rows of `size` elements.
static void butterfly(float *a, float *b, int64_t size) {
  for (int64_t i = 0; i < size; ++i) {
    float sum = a[i] + b[i], difference = a[i] - b[i];
    a[i] = sum;
    b[i] = difference;
  }
}

/// The unnormalized transform of `block` rows of `size` elements.
static void transformRows(float *rows, int64_t block, int64_t size) {
  for (int64_t half = 1; half < block; half *= 2)
    for (int64_t begin = 0; begin < block; begin += 2 * half)
      // The rows of each half lie side by side: one long butterfly.
      butterfly(rows + begin * size, rows + (begin + half) * size, half * size);
}

void mlir::pmkvq::rotateInPlace(MutableArrayRef<float> values,
                                ArrayRef<int64_t> shape, int64_t dim,
                                int64_t block) {
  int64_t inner = 1;
  for (int64_t size : shape.drop_front(dim + 1))
    inner *= size;
  int64_t step = block * inner;
  int64_t count = static_cast<int64_t>(values.size());
  for (int64_t begin = 0; begin < count; begin += step)
    transformRows(values.data() + begin, block, inner);
  float scale = static_cast<float>(1 / std::sqrt(static_cast<double>(block)));
  for (float &value : values)
    value *= scale;
}

//===----------------------------------------------------------------------===//
// WeightStore
//===----------------------------------------------------------------------===//

/// The shape that the tensor of a spec must have.
static SmallVector<int64_t> wantedShape(const WeightSpec &spec,
                                        const TensorView &view) {
  SmallVector<int64_t> shape(spec.shape.begin(), spec.shape.end());
  if (!spec.firstRow || shape.empty() || view.shape.empty())
    return shape;
  shape[0] = std::max(*spec.firstRow + shape[0], view.shape[0]);
  return shape;
}

/// The part of a tensor that the spec asks for; its shape is what was wanted.
static TensorView takeRows(const WeightSpec &spec, TensorView view) {
  if (!spec.firstRow || spec.shape.empty())
    return view;
  int64_t rowBytes = view.bytes / view.shape[0];
  view.data += *spec.firstRow * rowBytes;
  view.bytes = spec.shape[0] * rowBytes;
  view.shape.assign(spec.shape.begin(), spec.shape.end());
  return view;
}

static Error checkSpec(const WeightSpec &spec, const TensorView &view) {
  std::string field = "tensor " + spec.source;
  SmallVector<int64_t> wanted = wantedShape(spec, view);
  if (ArrayRef<int64_t>(view.shape) != ArrayRef<int64_t>(wanted))
    return fileError(view.path, field,
                     "expected shape " + formatShape(wanted) + ", got " +
                         formatShape(view.shape));
  if (view.dtype != DType::BF16 && view.dtype != DType::F16 &&
      view.dtype != DType::F32)
    return fileError(view.path, field,
                     "expected dtype BF16, F16 or F32, got " +
                         getName(view.dtype));
  int64_t rank = static_cast<int64_t>(spec.shape.size());
  for (const WeightSpec::Rotation &rotation : spec.rotations)
    if (rotation.dim < 0 || rotation.dim >= rank ||
        !llvm::isPowerOf2_64(rotation.block) ||
        spec.shape[rotation.dim] % rotation.block != 0)
      return fileError(view.path, field,
                       "a rotation of dimension " + Twine(rotation.dim) +
                           " in blocks of " + Twine(rotation.block) +
                           " does not fit shape " + formatShape(spec.shape));
  auto exponents = static_cast<int64_t>(spec.scaleRows.size());
  if (exponents && (rank == 0 || exponents != spec.shape[0]))
    return fileError(view.path, field,
                     Twine(exponents) +
                         " exponents do not fit the rows of shape " +
                         formatShape(spec.shape));
  return Error::success();
}

/// Multiplies rows by powers of two, which changes no digit of theirs.
static void scaleRows(MutableArrayRef<float> values,
                      ArrayRef<int8_t> exponents) {
  if (exponents.empty())
    return;
  size_t columns = values.size() / exponents.size();
  for (auto [row, exponent] : llvm::enumerate(exponents))
    for (float &value : values.slice(row * columns, columns))
      value = std::ldexp(value, exponent);
}

Error WeightStore::add(const WeightSpec &spec) {
  Expected<const TensorView *> found = checkpoint.find(spec.source);
  if (!found)
    return found.takeError();
  if (Error error = checkSpec(spec, **found))
    return error;
  TensorView view = takeRows(spec, **found);
  bool isAligned =
      reinterpret_cast<uintptr_t>(view.data) % alignof(uint16_t) == 0;
  if (view.dtype == DType::BF16 && spec.rotations.empty() &&
      spec.scaleRows.empty() && isAligned) {
    table.push_back(view.data);
    return Error::success();
  }
  std::vector<float> values = toF32(view);
  for (const WeightSpec::Rotation &rotation : spec.rotations)
    rotateInPlace(values, spec.shape, rotation.dim, rotation.block);
  scaleRows(values, spec.scaleRows);
  std::vector<uint16_t> &rounded = owned.emplace_back(values.size());
  llvm::transform(values, rounded.begin(), f32ToBF16);
  table.push_back(rounded.data());
  return Error::success();
}

Expected<WeightStore> WeightStore::create(Checkpoint checkpoint,
                                          ArrayRef<WeightSpec> specs) {
  WeightStore store(std::move(checkpoint));
  for (const WeightSpec &spec : specs)
    if (Error error = store.add(spec))
      return error;
  return store;
}
