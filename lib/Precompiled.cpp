//===- Precompiled.cpp - Has the headers of MLIR compiled -----------------===//

#include "Precompiled.h"
