# Most of a source's compile time is MLIR's headers.  Builds that developers repeat
# have them precompiled; builds made once (PMKVQ_UNITY) compile sources in batches,
# each of which parses them once, by any compiler.  So names of a library's sources
# are not reused in anonymous namespaces.
option(PMKVQ_UNITY "Compile sources with MLIR in batches: whole builds are faster" OFF)

if(NOT PMKVQ_UNITY)
  add_library(PMKVQPrecompiled OBJECT lib/Precompiled.cpp)
  llvm_update_compile_flags(PMKVQPrecompiled)
  target_precompile_headers(PMKVQPrecompiled PRIVATE lib/Precompiled.h)
  if(CMAKE_CXX_COMPILER_ID STREQUAL Clang)
    # ccache compares contents.
    target_compile_options(PMKVQPrecompiled PRIVATE "SHELL:-Xclang -fno-pch-timestamp")
  endif()
endif()

# Targets whose sources include MLIR.
function(pmkvq_share_headers)
  foreach(target ${ARGN})
    # A library of MLIR's kind keeps its sources in an object library.
    if(TARGET obj.${target})
      set(target obj.${target})
    endif()
    if(PMKVQ_UNITY)
      set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 8)
      if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
        # Anonymous namespaces of sources in a batch look like those of a header.
        target_compile_options(${target} PRIVATE -Wno-subobject-linkage)
      endif()
    else()
      target_precompile_headers(${target} REUSE_FROM PMKVQPrecompiled)
    endif()
  endforeach()
endfunction()
