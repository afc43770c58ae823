# vv_flags: warnings, hardening and sanitizers, linked privately by every target of ours.
add_library(vv_flags INTERFACE)
target_compile_definitions(vv_flags INTERFACE _GNU_SOURCE $<$<CONFIG:Debug>:VV_DEBUG>)
target_compile_options(vv_flags INTERFACE
    -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wcast-qual
    -Wwrite-strings -Wformat=2 -Wundef -Wvla -Wdouble-promotion -Wnull-dereference -Wconversion
    -Wno-sign-conversion -Wimplicit-fallthrough -Wredundant-decls -Wold-style-definition
    -Wno-format-truncation # words of errors are cut on purpose
   
    -fno-strict-aliasing -fno-common -fstack-protector-strong -march=x86-64-v2 -g)
if(VARVE_SANITIZE)
    target_compile_options(vv_flags INTERFACE -fsanitize=${VARVE_SANITIZE} -fno-omit-frame-pointer
                                              -fno-sanitize-recover=all)
    target_link_options(vv_flags INTERFACE -fsanitize=${VARVE_SANITIZE})
else()
    target_compile_options(vv_flags INTERFACE $<$<CONFIG:Release>:-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2>)
    target_link_options(vv_flags INTERFACE -Wl,-z,relro,-z,now,-z,noexecstack)
endif()
