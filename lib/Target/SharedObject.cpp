//===- SharedObject.cpp - Code that another process can load --------------===//
//
// Neighbours: SharedObject.h, Linker.h.
//
//===----------------------------------------------------------------------===//

#include "SharedObject.h"
#include "TemporaryFile.h"
#include "pmkvq/Target/Linker.h"
#include "pmkvq_rt/Artifact.h"
#include "pmkvq_rt/Launch.h"
#include "llvm/Config/llvm-config.h"
#include "llvm/IR/IRBuilder.h"
#include "llvm/IR/Module.h"
#include "llvm/Support/Program.h"

using namespace mlir::pmkvq;
using llvm::StringRef;
namespace rt = ::pmkvq::rt;

//===----------------------------------------------------------------------===//
// Hooks
//===----------------------------------------------------------------------===//

/// Gives `function`, which has no body yet, one that calls what a pointer
/// holds.
static void jumpThroughPointer(llvm::Function &function) {
  llvm::Module &ir = *function.getParent();
  auto *type = llvm::PointerType::getUnqual(ir.getContext());
  auto *pointer = new llvm::GlobalVariable(
      ir, type, /*isConstant=*/false, llvm::GlobalValue::ExternalLinkage,
      llvm::ConstantPointerNull::get(type),
      rt::hookPointerName(function.getName().str()));
  // Not internal: code generation calls conversions that no IR does.
  function.setVisibility(llvm::GlobalValue::HiddenVisibility);
  llvm::IRBuilder<> builder(
      llvm::BasicBlock::Create(ir.getContext(), "", &function));
  llvm::SmallVector<llvm::Value *> arguments;
  for (llvm::Argument &argument : function.args())
    arguments.push_back(&argument);
  llvm::CallInst *call = builder.CreateCall(
      function.getFunctionType(), builder.CreateLoad(type, pointer), arguments);
  call->setTailCallKind(llvm::CallInst::TCK_Tail);
  if (call->getType()->isVoidTy())
    builder.CreateRetVoid();
  else
    builder.CreateRet(call);
}

/// Declares what code generation may call to convert halves.
static void declareConversions(llvm::Module &ir) {
  llvm::LLVMContext &context = ir.getContext();
  llvm::Type *half = llvm::Type::getHalfTy(context);
  llvm::Type *single = llvm::Type::getFloatTy(context);
  for (const rt::HookSymbol &conversion : rt::conversionSymbols()) {
    bool extends = StringRef(conversion.name).contains("extend");
    ir.getOrInsertFunction(conversion.name, extends ? single : half,
                           extends ? half : single);
  }
}

std::vector<std::string> mlir::pmkvq::callThroughPointers(llvm::Module &ir) {
  declareConversions(ir);
  std::vector<std::string> names;
  auto define = [&](const rt::HookSymbol &hook) {
    llvm::Function *function = ir.getFunction(hook.name);
    if (!function || !function->isDeclaration())
      return;
    jumpThroughPointer(*function);
    names.emplace_back(hook.name);
  };
  llvm::for_each(rt::hookSymbols(), define);
  llvm::for_each(rt::conversionSymbols(), define);
  return names;
}

//===----------------------------------------------------------------------===//
// Linking
//===----------------------------------------------------------------------===//

std::string mlir::pmkvq::findLinker() {
  const std::string versioned = "ld.lld-" + std::to_string(LLVM_VERSION_MAJOR);
  for (StringRef name :
       {StringRef(versioned), StringRef("ld.lld"), StringRef("ld")})
    if (auto path = llvm::sys::findProgramByName(name))
      return *path;
  return "";
}

llvm::Expected<std::string> mlir::pmkvq::linkShared(StringRef object,
                                                    const std::string &linker) {
  TemporaryFile input("o"), output("so"), log("log");
  for (const TemporaryFile *file : {&input, &output, &log})
    if (file->error)
      return llvm::createStringError(
          file->error, "cannot make a temporary file for the linker: " +
                           file->error.message());
  if (llvm::Error error = input.write(object))
    return error;
  std::optional<StringRef> redirects[] = {StringRef(), StringRef(log.path),
                                          StringRef(log.path)};
  std::string message;
  int status = llvm::sys::ExecuteAndWait(
      linker,
      {linker, "-shared", "-Bsymbolic", "--hash-style=gnu", "--build-id=none",
       "-z", "now", "-z", "relro", "-z", "noexecstack", "-o", output.path,
       input.path},
      std::nullopt, redirects, /*SecondsToWait=*/0, /*MemoryLimit=*/0,
      &message);
  if (status < 0)
    return llvm::createStringError("cannot run " + linker + ": " + message);
  if (status != 0)
    return llvm::createStringError(linker + " refuses the code: " + log.read());
  return output.read();
}
