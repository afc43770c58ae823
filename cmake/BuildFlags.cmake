# vv_flags: warnings, hardening and sanitizers, linked privately by every target of ours.

# No NDEBUG and no -O3: our own assertions stay on in every build, and -g costs nothing at run time.
# A release names no directory of who built it, so that it is the same from any: `./dev package` relies on that.
set(CMAKE_C_FLAGS_RELEASE "-O2 -g -ffile-prefix-map=${CMAKE_SOURCE_DIR}/=")
set(CMAKE_C_FLAGS_DEBUG "-Og -g3")
# Only what is marked VARVE_API leaves the shared library.
set(CMAKE_C_VISIBILITY_PRESET hidden)

add_library(vv_flags INTERFACE)
target_compile_definitions(vv_flags INTERFACE _GNU_SOURCE $<$<CONFIG:Debug>:VV_DEBUG>)
target_compile_options(vv_flags INTERFACE
    -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wcast-qual
    -Wwrite-strings -Wformat=2 -Wundef -Wvla -Walloca -Wdouble-promotion -Wnull-dereference -Wconversion
    -Wno-sign-conversion -Wimplicit-fallthrough -Wredundant-decls -Wold-style-definition -Wnested-externs
    -Wdate-time -Winit-self -Wframe-larger-than=65536
    -fno-strict-aliasing -fno-common
    -fmacro-prefix-map=${CMAKE_SOURCE_DIR}/= # a failed assertion names base/x.c, whoever built it
)
if(CMAKE_C_COMPILER_ID STREQUAL "GNU")
    target_compile_options(vv_flags INTERFACE -Wlogical-op -Wduplicated-cond -Wtrampolines
        -Wno-format-truncation) # words of errors are cut on purpose
else() # clang, for the fuzzers: the code is written to gcc's warnings
    target_compile_options(vv_flags INTERFACE -Wno-unknown-warning-option -Wno-conversion -Wno-cast-qual
        -Wno-null-dereference)
endif()
if(CMAKE_SYSTEM_PROCESSOR STREQUAL "x86_64")
    target_compile_options(vv_flags INTERFACE -march=x86-64-v2)
endif()

if(VARVE_SANITIZE)
    target_compile_options(vv_flags INTERFACE -fsanitize=${VARVE_SANITIZE} -fno-omit-frame-pointer -O1
                                              -fno-sanitize-recover=all
        # gcc loses track of values in instrumented code; the other builds warn truthfully.
        -Wno-null-dereference -Wno-maybe-uninitialized)
    target_link_options(vv_flags INTERFACE -fsanitize=${VARVE_SANITIZE})
    if(VARVE_FUZZ)
        target_compile_options(vv_flags INTERFACE -fsanitize=fuzzer-no-link)
    endif()
else()
    target_compile_options(vv_flags INTERFACE
        -fstack-protector-strong -fstack-clash-protection
        $<$<CONFIG:Release>:-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3>)
    if(CMAKE_SYSTEM_PROCESSOR STREQUAL "x86_64")
        target_compile_options(vv_flags INTERFACE -fcf-protection)
    endif()
    target_link_options(vv_flags INTERFACE -Wl,-z,relro,-z,now,-z,noexecstack)
endif()

# Position-independent executables, so that the loader may place them anywhere.
include(CheckPIESupported)
check_pie_supported(LANGUAGES C)
