# Make the ROS packages from PyPI usable for a CMake build on this machine.
#
# Their exported targets carry the include path of the Python that the wheels were built with, /opt/python/..., and
# CMake refuses a target with an include path that does not exist. Only those paths are dropped, and only where they
# are missing: the interpreter's own headers come from find_package(Python3). With ROS installed nothing uses this file.
#
# Pass it as -DCMAKE_PROJECT_INCLUDE=cmake/wheel_fixups.cmake. It runs after the project's own CMakeLists.txt was read,
# when all targets have been imported.

function(_elvsm_drop_missing_includes)
  get_property(targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    get_target_property(includes ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(NOT includes)
      continue()
    endif()
    set(keep "")
    foreach(directory IN LISTS includes)
      if(directory MATCHES "^/opt/python/" AND NOT EXISTS "${directory}")
        continue()
      endif()
      list(APPEND keep "${directory}")
    endforeach()
    set_property(TARGET ${target} PROPERTY INTERFACE_INCLUDE_DIRECTORIES "${keep}")
  endforeach()
endfunction()

cmake_language(DEFER CALL _elvsm_drop_missing_includes)
