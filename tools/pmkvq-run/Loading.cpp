//===- Loading.cpp - From a model's files to a program --------------------===//
//
// Neighbours: Loading.h.
//
//===----------------------------------------------------------------------===//

#include "Loading.h"
#include "Compile.h"
#include "ModelFolder.h"
#include "mlir/IR/BuiltinOps.h"
#include "pmkvq/Import/Calibration.h"
#include "pmkvq/Import/ImportModel.h"
#include "pmkvq/Import/WeightStore.h"
#include "pmkvq/Target/HostProgram.h"

using namespace pmkvq;
using namespace pmkvq::run;
using llvm::Error;
using llvm::Expected;
using llvm::StringRef;
using mlir::pmkvq::Checkpoint;
using mlir::pmkvq::DeviceSession;
using mlir::pmkvq::HostProgram;
using mlir::pmkvq::ModelConfig;
using mlir::pmkvq::WeightSpec;
using mlir::pmkvq::WeightStore;

namespace {
/// Code and the weights it reads.
struct Loaded {
  std::unique_ptr<HostProgram> code;
  WeightStore weights;
};
} // namespace

Expected<Model> pmkvq::run::openModel(StringRef name, StringRef calibration,
                                      bool scalesKeys) {
  Expected<std::string> folder = findModelFolder(name);
  if (!folder)
    return folder.takeError();
  Expected<ModelConfig> config = mlir::pmkvq::readModelConfig(*folder);
  if (!config)
    return config.takeError();
  Expected<Checkpoint> checkpoint = Checkpoint::open(*folder);
  if (!checkpoint)
    return checkpoint.takeError();
  if (Error error = mlir::pmkvq::checkTensors(*config, *checkpoint))
    return error;
  if (!calibration.empty()) {
    auto found =
        mlir::pmkvq::readCalibration(calibration, *config, *checkpoint);
    if (!found)
      return found.takeError();
    config->calibration = std::move(*found);
    if (scalesKeys)
      if (Error error = mlir::pmkvq::foldKeyScales(calibration, *config))
        return error;
  }
  return Model{*folder, std::move(*config), std::move(*checkpoint)};
}

Expected<rt::Program> pmkvq::run::loadProgram(Model &model,
                                              const CachePlan &plan,
                                              const Options &options,
                                              mlir::MLIRContext &context,
                                              Equipment &equipment) {
  Expected<CachePlace> place = chooseCachePlace(options);
  if (!place)
    return place.takeError();
  std::vector<check::Attention> layers;
  std::optional<Expected<DeviceSession>> device;
  auto module = compileModule(
      model.config, plan.compiler, options.dumpFolder,
      /*lastStage=*/"", context, [&](StringRef stage, mlir::ModuleOp planned) {
        if (stage != "plan")
          return;
        layers = check::collectAttention(planned);
        if (place->device)
          device.emplace(DeviceSession::collect(planned));
      });
  if (!module) {
    if (device && !*device)
      llvm::consumeError(device->takeError());
    return module.takeError();
  }
  if (device && !*device)
    return device->takeError();
  Expected<std::unique_ptr<HostProgram>> code =
      HostProgram::compile(**module, options.host);
  if (!code)
    return code.takeError();
  Expected<rt::ProgramEntries> entries = (*code)->entries();
  if (!entries)
    return entries.takeError();
  auto checker = makeChecker(options, std::move(layers), **code);
  if (!checker)
    return checker.takeError();
  if (device)
    if (Error error = makeStore(options, **device, **code, context, *place))
      return error;
  equipment = {std::move(*place), std::move(*checker), {}};
  for (const WeightSpec &weight : (*code)->weights()) {
    int64_t bytes = sizeof(uint16_t);
    for (int64_t size : weight.shape)
      bytes *= size;
    equipment.weightBytes.push_back(bytes);
  }
  Expected<WeightStore> weights =
      WeightStore::create(std::move(model.checkpoint), (*code)->weights());
  if (!weights)
    return weights.takeError();
  auto loaded =
      std::make_shared<Loaded>(Loaded{std::move(*code), std::move(*weights)});
  rt::Result<rt::Program> program =
      rt::openProgram(*entries, loaded->weights.pointers(), loaded);
  if (!program.ok())
    return toError(program.status());
  return *program;
}
