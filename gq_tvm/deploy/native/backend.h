// What compiled kernels ask of a runtime: memory, threads and a place for errors.
#pragma once

#include <string>

namespace gq {

// Fill in the hooks of a library of kernels that dlopen() returned.
void give_hooks(void* library);

// Threads for kernels that can use several; counts the caller's.
void use_threads(int threads);

// What the last kernel that failed said.
std::string kernel_error();

}  // namespace gq
