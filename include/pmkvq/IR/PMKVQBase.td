//===- PMKVQBase.td - The dialect and its enums ------------*- tablegen -*-===//
//
// The dialect itself and the enums that attributes, types and ops share.
// Neighbours: PMKVQAttrs.td, PMKVQTypes.td, PMKVQOps.td, PMKVQTileOps.td.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_BASE_TD
#define PMKVQ_BASE_TD

include "mlir/IR/EnumAttr.td"
include "mlir/IR/OpBase.td"

def PMKVQ_Dialect : Dialect {
  let name = "pmkvq";
  let cppNamespace = "::mlir::pmkvq";
  let summary = "Progressively quantized key-value caches";
  let description = [{
    A cache is an SSA value; its type says what is static about it (heads,
    formats, ladder, page, sink), the page table says at run time which level
    each part of each page is at.

    The dialect has two floors.  *Cache ops* (`create`, `append`, `attend`,
    `flush`, `requantize`) act on whole caches and tensors.  *Tile ops* act on
    one page or fixed area of one kv head inside a `kernel`: every kernel, for
    every target, is lowered from them, so none of them assumes a machine.
  }];
  let useDefaultTypePrinterParser = 1;
  let useDefaultAttributePrinterParser = 1;
  let extraClassDeclaration = [{
    /// Makes a format known under its name.  Extensions call this when the
    /// dialect is loaded; a name may be taken once.
    void addFormat(std::unique_ptr<FormatModel> format);

    /// The format of that name, or null.
    const FormatModel *lookupFormat(::llvm::StringRef name) const;

    /// The known names, sorted, for diagnostics.
    ::llvm::SmallVector<::llvm::StringRef> formatNames() const;

    /// Makes a schedule known under its name, as addFormat does a format.
    void addSchedule(const ScheduleModel &schedule);

    /// The schedule of that name, or null.
    const ScheduleModel *lookupSchedule(::llvm::StringRef name) const;

    /// The known names, sorted, for diagnostics.
    ::llvm::SmallVector<::llvm::StringRef> scheduleNames() const;

  private:
    ::llvm::StringMap<std::unique_ptr<FormatModel>> formats;
    ::llvm::StringMap<ScheduleModel> schedules;
    void registerAttributes();
    void registerTypes();
    void registerOps();
  }];
}

class PMKVQ_Enum<string name, string summary, list<I32EnumAttrCase> cases>
    : I32EnumAttr<name, summary, cases> {
  let cppNamespace = "::mlir::pmkvq";
  let genSpecializedAttr = 0;
}

def PMKVQ_Part : PMKVQ_Enum<"Part", "part of a page", [
  I32EnumAttrCase<"Key", 0, "key">, I32EnumAttrCase<"Value", 1, "value">]>;
def PMKVQ_PartAttr : EnumAttr<PMKVQ_Dialect, PMKVQ_Part, "part">;

def PMKVQ_WorkList : PMKVQ_Enum<"WorkList", "what a kernel is launched over", [
  I32EnumAttrCase<"Rows", 0, "rows">, I32EnumAttrCase<"Attend", 1, "attend">,
  I32EnumAttrCase<"Merge", 2, "merge">]>;
def PMKVQ_WorkListAttr : EnumAttr<PMKVQ_Dialect, PMKVQ_WorkList, "work_list">;

#endif // PMKVQ_BASE_TD
