// What compiled kernels ask of a runtime: memory, threads and a place for errors.
#pragma once

#include <memory>
#include <string>

namespace gq {

// Fill in the hooks of a library of kernels that dlopen() returned; any number of threads may.
void give_hooks(void* library);

// Threads that kernels which can use several share out their work to.
class Pool;
struct PoolDeleter {
  void operator()(Pool* pool) const;
};
using Threads = std::unique_ptr<Pool, PoolDeleter>;

// So many threads, the caller's among them; none for 1. Callers may share them: they take turns. In
// a process forked off later, where they are not, callers compute alone. Throws std::system_error
// if there are too many.
Threads make_threads(int threads);

// While it lives, kernels that this thread calls run on a pool; on this thread alone for null.
class UseThreads {
 public:
  explicit UseThreads(const Threads& threads);
  ~UseThreads();
  UseThreads(const UseThreads&) = delete;

 private:
  Pool* before_;
};

// What the last kernel that failed said.
std::string kernel_error();

}  // namespace gq
