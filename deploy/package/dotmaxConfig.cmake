# find_package(dotmax) gives dotmax::client.
include(CMakeFindDependencyMacro)
find_dependency(Threads)
find_dependency(Protobuf)
find_dependency(absl)
find_dependency(gRPC)
include(${CMAKE_CURRENT_LIST_DIR}/dotmaxTargets.cmake)
