//===- SlotLayout.h - Parameters of pages, pieces of units ------*- C++ -*-===//
//
// What formats of two fp16 parameters a group, of values also of one byte, take
// on a GPU: a page's slot in the parameter pool, and a unit's place in shared
// memory.  The runtime is told the slot's size (DeviceProgram.h).  Neighbours:
// pmkvq_rt/Units.h (units), SharedLayout.h (the rest of shared memory),
// FragmentLayout.h (orders within).
//
// In shared memory a unit lies as [key parameters][value parameters][key codes]
// [value codes]; a side at level 16 has no parameters.  Codes begin at a line
// of 128 bytes: copies to places between two take a fifth longer.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TARGET_SLOTLAYOUT_H
#define PMKVQ_TARGET_SLOTLAYOUT_H

#include "pmkvq_rt/Units.h"

#include <cstdint>

namespace pmkvq {

/// Bytes of a group's two fp16 parameters.
inline constexpr int64_t kGroupBytes = 4;

/// Bits by which the byte of a range, an E5M3, is shifted to be an fp16.
inline constexpr int32_t kE5M3Shift = 7;

/// Bytes of a page's parameter slot on a GPU: both parts', for 128 tokens;
/// values take `valueBytes` a group.
constexpr int64_t deviceSlotBytes(int64_t headDim, bool keysPerToken,
                                  int64_t valueBytes = kGroupBytes) {
  return (keysPerToken ? rt::kPageTokens : headDim) * kGroupBytes +
         rt::kPageTokens * valueBytes;
}

/// Where the value parameters begin in a slot.
constexpr int64_t deviceValueParameters(int64_t headDim, bool keysPerToken) {
  return (keysPerToken ? rt::kPageTokens : headDim) * kGroupBytes;
}

/// What codes in shared memory begin at a multiple of, in bytes.
inline constexpr int64_t kSharedLine = 128;

/// The next multiple of a line.
constexpr int64_t wholeLines(int64_t bytes) {
  return (bytes + kSharedLine - 1) / kSharedLine * kSharedLine;
}

/// Where the four pieces of a unit lie in its slot, in bytes.
struct UnitSlot {
  int64_t keyParameters, valueParameters, parametersEnd, keyCodes, valueCodes,
      end;

  /// Bytes of all pieces.
  constexpr int64_t copied() const { return parametersEnd + end - keyCodes; }
};

/// Keys per channel have one group a head dim, the same for all units of a
/// page; keys per token and values per token one a token.
constexpr UnitSlot unitSlot(rt::UnitKind kind, int64_t headDim,
                            bool keysPerToken,
                            int64_t valueBytes = kGroupBytes) {
  int64_t keyGroups = keysPerToken ? kind.copiedTokens(rt::kKey) : headDim;
  UnitSlot slot = {};
  slot.valueParameters = kind.key == 16 ? 0 : keyGroups * kGroupBytes;
  int64_t valueGroups = kind.value == 16 ? 0 : kind.copiedTokens(rt::kValue);
  slot.parametersEnd = slot.valueParameters + valueGroups * valueBytes;
  slot.keyCodes = wholeLines(slot.parametersEnd);
  slot.valueCodes = slot.keyCodes + kind.codeBytes(rt::kKey, headDim);
  slot.end = slot.valueCodes + kind.codeBytes(rt::kValue, headDim);
  return slot;
}

} // namespace pmkvq

#endif // PMKVQ_TARGET_SLOTLAYOUT_H
