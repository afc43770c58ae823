# libvarve, shared and static, and what `cmake --install` puts where a user looks for it: the libraries, varve.h,
# varve.pc, and a CMake package with Varve::varve and Varve::varve_static.
#
# The targets are varve_shared and varve_static, since `varve` is the command.

include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

foreach(layer base io kv mem wal sst lsm db)
    list(APPEND objects $<TARGET_OBJECTS:vv_${layer}>)
endforeach()

set(exports ${CMAKE_SOURCE_DIR}/cmake/varve.map)
add_library(varve_shared SHARED ${objects})
target_link_libraries(varve_shared PRIVATE PkgConfig::LIBURING PkgConfig::JEMALLOC PkgConfig::XXHASH
                                           PkgConfig::LZ4 PkgConfig::ZSTD
                                           Threads::Threads m vv_flags)
target_link_options(varve_shared PRIVATE -Wl,--version-script=${exports} -Wl,--as-needed)
set_target_properties(varve_shared PROPERTIES
    OUTPUT_NAME varve EXPORT_NAME varve VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}
    LINK_DEPENDS ${exports} LINKER_LANGUAGE C)

add_library(varve_static STATIC ${objects})
target_link_libraries(varve_static PRIVATE uring jemalloc lz4 zstd pthread m) # by name: found where the user is
set_target_properties(varve_static PROPERTIES OUTPUT_NAME varve LINKER_LANGUAGE C)

foreach(library varve_shared varve_static)
    target_include_directories(${library} INTERFACE $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/engine>)
endforeach()

# Components are packages: see Packages.cmake.
install(TARGETS varve_shared varve_static EXPORT VarveTargets
        LIBRARY COMPONENT library NAMELINK_COMPONENT development
        ARCHIVE COMPONENT development
        INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES engine/varve.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT development)

# Paths relative to the files themselves, so that the whole may be moved.
file(RELATIVE_PATH VARVE_PC_TO_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
string(REGEX REPLACE "/$" "" VARVE_PC_TO_PREFIX ${VARVE_PC_TO_PREFIX})
configure_file(cmake/varve.pc.in varve.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/varve.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT development)

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/Varve)
install(EXPORT VarveTargets FILE VarveConfig.cmake NAMESPACE Varve:: DESTINATION ${package}
        COMPONENT development)
write_basic_package_version_file(VarveConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/VarveConfigVersion.cmake DESTINATION ${package} COMPONENT development)
