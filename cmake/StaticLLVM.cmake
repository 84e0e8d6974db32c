# Links MLIR and LLVM as archives, so that a tool runs where neither is installed
# (preset `static`).  Included after find_package(MLIR) by CMakeLists.txt.
#
# The packages' exported targets name the shared libLLVM, which would sit beside
# the archives with a second copy of every option and type id: it is taken out of
# their interfaces, and tools link PMKVQStaticLLVM, which names all that replaces
# it.  The linker takes from archives what is used.

set(MLIR_LINK_MLIR_DYLIB OFF)
set(LLVM_LINK_LLVM_DYLIB OFF)

find_library(PMKVQ_LIBZ_STATIC libz.a REQUIRED)
find_library(PMKVQ_LIBZSTD_STATIC libzstd.a REQUIRED)

get_property(mlir_libs GLOBAL PROPERTY MLIR_ALL_LIBS)
foreach(target ${mlir_libs} ${LLVM_AVAILABLE_LIBS})
  if(NOT TARGET ${target})
    continue()
  endif()
  get_target_property(links ${target} INTERFACE_LINK_LIBRARIES)
  if(links)
    list(REMOVE_ITEM links LLVM MLIR "$<LINK_ONLY:LLVM>")
    # The solver is for Clang's analyzer.
    list(FILTER links EXCLUDE REGEX "libz3")
    list(TRANSFORM links REPLACE "^ZLIB::ZLIB$" "${PMKVQ_LIBZ_STATIC}")
    list(TRANSFORM links REPLACE "^zstd::libzstd_shared$" "${PMKVQ_LIBZSTD_STATIC}")
    set_target_properties(${target} PROPERTIES INTERFACE_LINK_LIBRARIES "${links}")
  endif()
endforeach()

# Libraries for tests, for C and for other languages are nobody's dependency.
list(FILTER mlir_libs EXCLUDE REGEX "Test|CAPI|^MLIR$|^mlir_|Shared$|Runtime$|SparseTensorRuntime|LspServer|PDLL|Plugins")
llvm_map_components_to_libnames(llvm_libs
  Core Support Passes OrcJIT JITLink PerfJITEvents ExecutionEngine
  X86CodeGen X86AsmParser X86Desc X86Info
  NVPTXCodeGen NVPTXDesc NVPTXInfo
  BitReader BitWriter IRReader Linker AsmParser FrontendOpenMP)
add_library(PMKVQStaticLLVM INTERFACE)
target_link_libraries(PMKVQStaticLLVM INTERFACE ${mlir_libs} ${llvm_libs})
target_link_options(PMKVQStaticLLVM INTERFACE
  -static-libstdc++ -static-libgcc -Wl,--gc-sections -Wl,-s)

# Makes `tool` independent of installed libraries but the C library's.
function(pmkvq_link_llvm tool)
  target_link_libraries(${tool} PRIVATE PMKVQStaticLLVM)
endfunction()
