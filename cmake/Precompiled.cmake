# Most of a source's compile time is MLIR's headers: those of lib/Precompiled.h are
# parsed once a build.
add_library(PMKVQPrecompiled OBJECT lib/Precompiled.cpp)
llvm_update_compile_flags(PMKVQPrecompiled)
target_precompile_headers(PMKVQPrecompiled PRIVATE lib/Precompiled.h)
if(CMAKE_CXX_COMPILER_ID STREQUAL Clang)
  # ccache compares contents.
  target_compile_options(PMKVQPrecompiled PRIVATE "SHELL:-Xclang -fno-pch-timestamp")
endif()

# Targets whose sources include MLIR.
function(pmkvq_precompile)
  foreach(target ${ARGN})
    # A library of MLIR's kind keeps its sources in an object library.
    if(TARGET obj.${target})
      set(target obj.${target})
    endif()
    target_precompile_headers(${target} REUSE_FROM PMKVQPrecompiled)
  endforeach()
endfunction()
