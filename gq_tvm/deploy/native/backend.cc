#include "backend.h"

#include <dlfcn.h>

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace {

// TVMParallelGroupEnv and FTVMParallelLambda of tvm/runtime/c_backend_api.h.
struct Group {
  void* barrier;
  int32_t tasks;
};
using Task = int (*)(int, Group*, void*);

std::string& last_error() {
  static thread_local std::string text;
  return text;
}

}  // namespace

namespace gq {

// Workers that wait for a task; the caller is the first of the threads.
class Pool {
 public:
  explicit Pool(int threads) : threads_(threads) {
    try {
      for (int number = 1; number < threads; ++number)
        workers_.emplace_back([this, number] { work(number); });
    } catch (...) {
      stop();
      throw;
    }
  }

  ~Pool() { stop(); }

  int run(Task task, void* closure) {
    {
      std::lock_guard lock(mutex_);
      task_ = task;
      closure_ = closure;
      failed_ = 0;
      left_ = threads_ - 1;
      ++round_;
    }
    begin_.notify_all();
    Group group{this, threads_};
    int result = task(0, &group, closure);
    std::unique_lock lock(mutex_);
    end_.wait(lock, [this] { return left_ == 0; });
    return result ? result : failed_;
  }

  void barrier() {
    std::unique_lock lock(mutex_);
    uint64_t generation = generation_;
    if (++waiting_ == threads_) {
      waiting_ = 0;
      ++generation_;
      meet_.notify_all();
    } else {
      meet_.wait(lock, [&] { return generation != generation_; });
    }
  }

 private:
  void stop() {
    {
      std::lock_guard lock(mutex_);
      task_ = nullptr;
      ++round_;
    }
    begin_.notify_all();
    for (auto& worker : workers_) worker.join();
  }

  void work(int number) {
    uint64_t seen = 0;
    for (;;) {
      Task task;
      void* closure;
      {
        std::unique_lock lock(mutex_);
        begin_.wait(lock, [&] { return round_ != seen; });
        seen = round_;
        if (!task_) return;
        task = task_;
        closure = closure_;
      }
      Group group{this, threads_};
      int result = task(number, &group, closure);
      std::lock_guard lock(mutex_);
      if (result) failed_ = result;
      if (--left_ == 0) end_.notify_one();
    }
  }

  int threads_;
  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable begin_, end_, meet_;
  Task task_ = nullptr;
  void* closure_ = nullptr;
  uint64_t round_ = 0, generation_ = 0;
  int left_ = 0, failed_ = 0, waiting_ = 0;
};

}  // namespace gq

namespace {

// The pool of the model whose kernels this thread runs.
gq::Pool*& pool() {
  static thread_local gq::Pool* current = nullptr;
  return current;
}

constexpr size_t kAlignment = 64;

void* allocate(int, int, uint64_t size, int, int) {
  if (size > SIZE_MAX - kAlignment) return nullptr;  // of 32 bits
  size_t whole = (std::max<size_t>(static_cast<size_t>(size), 1) + kAlignment - 1) / kAlignment;
  return aligned_alloc(kAlignment, whole * kAlignment);
}

int release(int, int, void* memory) {
  free(memory);
  return 0;
}

int launch(Task task, void* closure, int) {
  if (pool()) return pool()->run(task, closure);
  Group alone{nullptr, 1};
  return task(0, &alone, closure);
}

int barrier(int, Group* group) {
  if (group->barrier) static_cast<gq::Pool*>(group->barrier)->barrier();
  return 0;
}

void report(const char* kind, const char** parts, int32_t count) {
  std::string& text = last_error();
  text = std::string(kind) + ": ";
  for (int i = 0; i < count; ++i)
    if (parts[i]) text += parts[i];
  std::replace(text.begin(), text.end(), '\n', ' ');
}

// A library is one however often it is opened: kernels of an earlier model may be running, and
// read the hook, while a later one finds that it is there.
template <class F>
void give(void* library, const char* name, F* function) {
  auto* hook = static_cast<void**>(dlsym(library, name));
  if (hook && *hook != reinterpret_cast<void*>(function)) *hook = reinterpret_cast<void*>(function);
}

}  // namespace

namespace gq {

void give_hooks(void* library) {
  static std::mutex mutex;
  std::lock_guard lock(mutex);
  give(library, "gq_report", report);
  give(library, "__TVMBackendAllocWorkspace", allocate);
  give(library, "__TVMBackendFreeWorkspace", release);
  give(library, "__TVMBackendParallelLaunch", launch);
  give(library, "__TVMBackendParallelBarrier", barrier);
}

void PoolDeleter::operator()(Pool* made) const { delete made; }

Threads make_threads(int threads) { return Threads(threads > 1 ? new Pool(threads) : nullptr); }

UseThreads::UseThreads(const Threads& threads) : before_(pool()) { pool() = threads.get(); }

UseThreads::~UseThreads() { pool() = before_; }

std::string kernel_error() { return last_error(); }

}  // namespace gq
