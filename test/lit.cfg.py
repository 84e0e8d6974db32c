# Lit configuration: every .mlir file under test/ is a test.
#
# Substitutions besides lit's own: %models is the folder of model checkpoints.

import os

import lit.formats

config.name = "pmkvq"
config.test_format = lit.formats.ShTest(execute_external=False)
config.suffixes = [".mlir"]
# Inputs has no tests of its own; the other folders belong to other runners.
config.excludes = ["Inputs", "data", "models", "python", "unit"]
config.test_source_root = os.path.join(config.pmkvq_source_dir, "test")
config.test_exec_root = os.path.join(config.pmkvq_binary_dir, "test")

# The project's tools come before LLVM's.
config.environment["PATH"] = os.pathsep.join(
    [os.path.join(config.pmkvq_binary_dir, "bin"), config.llvm_tools_dir,
     config.environment.get("PATH", os.environ.get("PATH", ""))])
config.environment["FILECHECK_OPTS"] = "--dump-input=fail"
for name in ("HOME", "XDG_CACHE_HOME"):
    if name in os.environ:
        config.environment[name] = os.environ[name]

config.substitutions.append(("%models", os.path.join(config.test_source_root, "models")))
