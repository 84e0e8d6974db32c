//===- CacheReader.cpp - A cache's codes as values ------------------------===//
//
// See CacheReader.h.
//
//===----------------------------------------------------------------------===//

#include "CacheReader.h"
#include "CodeLayout.h"
#include "pmkvq/Reference/Bits.h"

using namespace pmkvq;
using namespace pmkvq::check;
using mlir::pmkvq::CacheType;
using mlir::pmkvq::CodeLayout;
using mlir::pmkvq::FormatAttr;
using mlir::pmkvq::TileType;

/// Bit of every code of a page's part, [token][headDim].
static std::vector<uint32_t> locateCodes(TileType tile) {
  CodeLayout layout(tile);
  int64_t level = tile.getLevel(), headDim = tile.getHeadDim();
  std::vector<uint32_t> bits(rt::kPageTokens * headDim);
  for (int64_t token = 0; token < rt::kPageTokens; ++token)
    for (int64_t dim = 0; dim < headDim; ++dim) {
      auto [byte, bit] = layout.place(static_cast<int32_t>(level), token, dim);
      bits[token * headDim + dim] = static_cast<uint32_t>(8 * byte + bit);
    }
  return bits;
}

llvm::Expected<CacheReader::PartFormat> CacheReader::makeFormat(CacheType cache,
                                                                rt::Part part) {
  auto side = static_cast<mlir::pmkvq::Part>(part);
  FormatAttr format = cache.getFormat(side);
  llvm::StringRef name = format.getModel().getName();
  PartFormat made;
  made.axis = name == "per_channel" ? reference::Axis::PerChannel
                                    : reference::Axis::PerToken;
  bool symmetric = name == "per_token_symmetric";
  if (name == "per_channel" || name == "per_token" || symmetric)
    made.uniform =
        reference::UniformFormat{made.axis, format.getHadamard(),
                                 format.getClip(), /*group=*/0, symmetric};
  else if (name != "paper")
    return llvm::createStringError(
        "expected a format that the reference knows (per_channel, per_token, "
        "per_token_symmetric, paper), got " +
        name);
  made.parameterBytes = cache.getParameterBytes(side);
  for (int64_t level : cache.getLevels(side))
    if (level != 16)
      made.bits[rt::ladderIndex(static_cast<int32_t>(level))] = locateCodes(
          TileType::get(cache.getContext(), side, level, rt::kPageTokens,
                        cache.getHeadDim(), format));
  return made;
}

llvm::Expected<CacheReader> CacheReader::create(CacheType cache) {
  CacheReader reader;
  reader.headDim = cache.getHeadDim();
  reader.kvHeads = cache.getKvHeads();
  reader.sink = cache.getSink();
  for (rt::Part part : {rt::kKey, rt::kValue}) {
    llvm::Expected<PartFormat> format = makeFormat(cache, part);
    if (!format)
      return format.takeError();
    reader.formats[part] = std::move(*format);
  }
  return reader;
}

static uint16_t load16(const uint8_t *address) {
  return static_cast<uint16_t>(address[0] | address[1] << 8);
}

uint32_t CacheReader::code(const rt::CacheView &view,
                           const rt::PageEntry &entry, rt::Part part,
                           int64_t element) const {
  int32_t level = entry.level[part];
  const std::vector<uint32_t> &bits =
      formats[part].bits[rt::ladderIndex(level)];
  int64_t bit = level == 16 ? 16 * element : bits[element];
  int64_t size = rt::blockBytes(headDim);
  int64_t block = entry.blocks[part][bit / 8 / size];
  // At level 1 the entry says which half of the block.
  int64_t half = level == 1 ? entry.blocks[part][1] * size / 2 : 0;
  const uint8_t *address = view.blocks + block * size + half + bit / 8 % size;
  return level == 16 ? load16(address)
                     : (*address >> bit % 8) & ((1u << level) - 1);
}

void CacheReader::decodePage(const rt::CacheView &view,
                             const rt::PageEntry &entry, rt::Part part,
                             double *values) const {
  const PartFormat &format = formats[part];
  int32_t level = entry.level[part];
  bool perChannel = format.axis == reference::Axis::PerChannel;
  int64_t groups = perChannel ? headDim : rt::kPageTokens;
  const uint8_t *parameters =
      view.parameters +
      entry.slot * (formats[rt::kKey].parameterBytes +
                    formats[rt::kValue].parameterBytes) +
      (part == rt::kKey ? 0 : formats[rt::kKey].parameterBytes);
  for (int64_t element = 0; element < rt::kPageTokens * headDim; ++element) {
    uint32_t found = code(view, entry, part, element);
    if (level == 16 && format.uniform) {
      values[element] = reference::bf16ToFloat(static_cast<uint16_t>(found));
      continue;
    }
    int64_t group = perChannel ? element % headDim : element / headDim;
    if (format.uniform && format.uniform->symmetric) {
      double range =
          reference::halfToFloat(reference::rangeFromByte(parameters[group]));
      values[element] = reference::decodeCode(*format.uniform, -range / 2,
                                              range, found, level);
      continue;
    }
    uint16_t first = load16(parameters + 2 * group);
    uint16_t second = load16(parameters + 2 * (groups + group));
    values[element] =
        format.uniform
            ? reference::decodeCode(
                  *format.uniform, reference::halfToFloat(first),
                  reference::halfToFloat(second), found, level)
            : static_cast<double>(reference::bf16ToFloat(first)) * found -
                  reference::bf16ToFloat(second);
  }
}

std::vector<double> CacheReader::decode(const rt::CacheView &view,
                                        int32_t sequence, int32_t head,
                                        rt::Part part, int32_t pages,
                                        int64_t fixedTokens) const {
  int64_t stream = int64_t(sequence) * kvHeads + head;
  int64_t pageElements = rt::kPageTokens * headDim;
  std::vector<double> values(pages * pageElements + fixedTokens * headDim);
  for (int32_t page = 0; page < pages; ++page)
    decodePage(view, view.pages[stream * view.maxPages + page], part,
               values.data() + page * pageElements);
  const uint16_t *fixed = view.fixed + (stream * rt::kParts + part) *
                                           (sink + rt::kPageTokens) * headDim;
  for (int64_t i = 0; i < fixedTokens * headDim; ++i)
    values[pages * pageElements + i] = reference::bf16ToFloat(fixed[i]);
  return values;
}
