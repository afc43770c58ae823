# What `cmake --install` puts beside the programs, and the Debian packages that `./dev package` makes of all of it:
#
#   varved          the server, its unit, its configuration, varved(8)       component server
#   varve-tools     the command, varve(1), completion for bash and zsh       component tools
#   libvarveN       the library                                              component library
#   libvarve-dev    header, static library, pkg-config and CMake files       component development
#
# All but /etc/varve/varved.conf goes below the prefix; that file is in the package alone, so that an installation into
# a prefix touches nothing outside of it. Manual pages, completion and the configuration are what the programs say.

set(said ${CMAKE_BINARY_DIR}/said)
file(MAKE_DIRECTORY ${said})

# vv_says FILE COMMAND...: the file holds what the command prints.
function(vv_says file)
    add_custom_command(OUTPUT ${said}/${file} COMMAND sh -c "env -i ${ARGN} > ${said}/${file}"
                       DEPENDS varved varve_cli COMMENT "asking for ${file}" VERBATIM)
    set_property(GLOBAL APPEND PROPERTY vv_said ${said}/${file})
endfunction()

vv_says(varved.8.gz "$<TARGET_FILE:varved> --help=man | gzip -9n")
vv_says(varve.1.gz "$<TARGET_FILE:varve_cli> --help=man | gzip -9n")
vv_says(varve "$<TARGET_FILE:varve_cli> completion bash")
vv_says(_varve "$<TARGET_FILE:varve_cli> completion zsh")
vv_says(varved.conf "$<TARGET_FILE:varved> --print-config | sed 's|^#DATA = .*|DATA = /var/lib/varve|'")
get_property(all_said GLOBAL PROPERTY vv_said)
add_custom_target(vv_said ALL DEPENDS ${all_said})

install(TARGETS varved RUNTIME COMPONENT server)
install(FILES ${said}/varved.8.gz DESTINATION ${CMAKE_INSTALL_MANDIR}/man8 COMPONENT server)
install(FILES ops/varved.conf DESTINATION ${CMAKE_INSTALL_DATADIR}/varve COMPONENT server)
install(FILES ops/systemd/varved.service DESTINATION lib/systemd/system COMPONENT server)
install(FILES ${said}/varved.conf DESTINATION /etc/varve COMPONENT configuration EXCLUDE_FROM_ALL)

install(TARGETS varve_cli RUNTIME COMPONENT tools)
install(FILES ${said}/varve.1.gz DESTINATION ${CMAKE_INSTALL_MANDIR}/man1 COMPONENT tools)
set(bash_completions ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
install(FILES ${said}/varve DESTINATION ${bash_completions} COMPONENT tools)
install(FILES ${said}/varve DESTINATION ${bash_completions} RENAME varved COMPONENT tools)
install(FILES ${said}/_varve DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/vendor-completions COMPONENT tools)

set(library_package libvarve${PROJECT_VERSION_MAJOR})
foreach(pair server:varved tools:varve-tools library:${library_package} development:libvarve-dev)
    string(REPLACE ":" ";" pair ${pair})
    list(GET pair 0 component)
    list(GET pair 1 name)
    install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/${name} RENAME copyright COMPONENT ${component}
            EXCLUDE_FROM_ALL)
endforeach()

# ---- packages ----

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME varve)
set(CPACK_PACKAGE_VENDOR "The Varve project")
set(CPACK_PACKAGE_CONTACT "The Varve project <maintainers@varve.invalid>")
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_COMPONENTS_ALL server configuration tools library development)
set(CPACK_COMPONENT_SERVER_GROUP server)
set(CPACK_COMPONENT_CONFIGURATION_GROUP server)
set(CPACK_COMPONENT_TOOLS_GROUP tools)
set(CPACK_COMPONENT_LIBRARY_GROUP library)
set(CPACK_COMPONENT_DEVELOPMENT_GROUP development)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_RELEASE 1)
set(CPACK_DEBIAN_COMPRESSION_TYPE xz)
set(CPACK_DEBIAN_PACKAGE_PRIORITY optional)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)

set(CPACK_DEBIAN_SERVER_PACKAGE_NAME varved)
set(CPACK_DEBIAN_SERVER_PACKAGE_SECTION database)
set(CPACK_DEBIAN_SERVER_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_SERVER_PACKAGE_DEPENDS "adduser, init-system-helpers (>= 1.54~)")
set(CPACK_DEBIAN_SERVER_PACKAGE_RECOMMENDS varve-tools)
set(CPACK_COMPONENT_SERVER_DESCRIPTION "durable key-value store, served over gRPC
A log-structured merge tree whose I/O goes through io_uring, with group
commit, snapshots, replicas, backups and metrics. What a client was told is
done survives the loss of power.")
set(debian ${CMAKE_SOURCE_DIR}/ops/debian)
file(WRITE ${said}/conffiles "/etc/varve/varved.conf\n")
set(CPACK_DEBIAN_SERVER_PACKAGE_CONTROL_EXTRA
    "${debian}/postinst;${debian}/prerm;${debian}/postrm;${said}/conffiles")

set(CPACK_DEBIAN_TOOLS_PACKAGE_NAME varve-tools)
set(CPACK_DEBIAN_TOOLS_PACKAGE_SECTION database)
set(CPACK_DEBIAN_TOOLS_PACKAGE_SHLIBDEPS ON)
set(CPACK_COMPONENT_TOOLS_DESCRIPTION "command for Varve, a durable key-value store
Puts, gets, scans and watches; loads, backs up, verifies, inspects and
repairs; through a server or in a directory.")

set(CPACK_DEBIAN_LIBRARY_PACKAGE_NAME ${library_package})
set(CPACK_DEBIAN_LIBRARY_PACKAGE_SECTION libs)
set(CPACK_DEBIAN_LIBRARY_PACKAGE_SHLIBDEPS ON)
set(CPACK_COMPONENT_LIBRARY_DESCRIPTION "durable key-value store, the library
The engine of Varve for programs that embed it.")

set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_NAME libvarve-dev)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_DEPENDS
    "${library_package} (= ${PROJECT_VERSION}-1), liburing-dev, libjemalloc-dev, liblz4-dev, libzstd-dev, libxxhash-dev")
set(CPACK_COMPONENT_DEVELOPMENT_DESCRIPTION "durable key-value store, files for development
Header, static library, and files for pkg-config and CMake of libvarve.")

include(CPack)
