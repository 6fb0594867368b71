#include "run/backend.h"

#include <dlfcn.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
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

// How often this process is a fork of another: workers are those of the process that made them.
std::atomic<int>& forks() {
  static std::atomic<int> count{0};
  static int counted = pthread_atfork(nullptr, nullptr, [] { ++count; });
  (void)counted;
  return count;
}

}  // namespace

namespace gq {

// Workers that wait for a task; the caller is the first of the threads. For about half a
// millisecond after a task they look for the next one, longer than the serial stretches between the
// kernels of a call, so that only the first kernel pays for waking them; then they sleep.
class Pool {
 public:
  explicit Pool(int threads) : threads_(threads), made_in_(forks()) {
    try {
      for (int number = 1; number < threads; ++number)
        workers_.emplace_back([this, number] { work(number); });
    } catch (...) {
      stop();
      throw;
    }
  }

  ~Pool() {
    if (made_in_ == forks()) stop();
    else new std::vector<std::thread>(std::move(workers_));  // nobody is there to be waited for
  }

  int run(Task task, void* closure) {
    if (made_in_ != forks()) return alone(task, closure);
    std::lock_guard turn(turn_);
    task_ = task;
    closure_ = closure;
    failed_ = 0;
    left_ = threads_ - 1;
    begin();
    Group group{this, threads_};
    int result = task(0, &group, closure);
    while (left_) std::this_thread::yield();
    return result ? result : failed_.load();
  }

  static int alone(Task task, void* closure) {
    Group group{nullptr, 1};
    return task(0, &group, closure);
  }

  void barrier() {
    int met = meetings_;
    if (++waiting_ == threads_) {
      waiting_ = 0;
      ++meetings_;
    }
    while (meetings_ == met) std::this_thread::yield();
  }

 private:
  static constexpr int kLooks = 2000;

  void begin() {
    ++round_;
    if (!sleeping_) return;
    std::lock_guard lock(mutex_);
    begin_.notify_all();
  }

  void stop() {
    task_ = nullptr;
    begin();
    for (auto& worker : workers_) worker.join();
  }

  void wait_for(unsigned round) {
    for (int looks = 0; looks < kLooks; ++looks) {
      if (round_ == round) return;
      std::this_thread::yield();
    }
    std::unique_lock lock(mutex_);
    ++sleeping_;
    begin_.wait(lock, [&] { return round_ == round; });
    --sleeping_;
  }

  void work(int number) {
    for (unsigned round = 1;; ++round) {
      wait_for(round);
      if (!task_) return;
      Group group{this, threads_};
      if (int result = task_(number, &group, closure_)) failed_ = result;
      --left_;
    }
  }

  int threads_, made_in_;
  std::vector<std::thread> workers_;
  std::mutex turn_, mutex_;
  std::condition_variable begin_;
  Task task_ = nullptr;
  void* closure_ = nullptr;
  std::atomic<unsigned> round_{0};
  std::atomic<int> left_{0}, failed_{0}, sleeping_{0}, waiting_{0}, meetings_{0};
};

}  // namespace gq

namespace {

// The pool of the model whose kernels this thread runs.
gq::Pool*& pool() {
  static thread_local gq::Pool* current = nullptr;
  return current;
}

constexpr size_t kAlignment = 64;

// What kernels of a thread work on, kept for the next ones: few of them need any, one at a time.
class Workspaces {
 public:
  ~Workspaces() {
    for (const Block& block : blocks_) free(block.data);
  }

  void* take(size_t size) {
    auto unused = [](const Block& block) { return !block.used; };
    auto found = std::find_if(blocks_.begin(), blocks_.end(), unused);
    if (found == blocks_.end()) found = blocks_.insert(found, Block{});
    if (found->size < size) {
      free(found->data);
      found->data = aligned_alloc(kAlignment, size);
      found->size = found->data ? size : 0;
    }
    found->used = found->data != nullptr;
    return found->data;
  }

  void give_back(void* data) {
    for (Block& block : blocks_)
      if (block.data == data) block.used = false;
  }

 private:
  struct Block {
    void* data = nullptr;
    size_t size = 0;
    bool used = false;
  };
  std::vector<Block> blocks_;
};

Workspaces& workspaces() {
  static thread_local Workspaces own;
  return own;
}

void* allocate(int, int, uint64_t size, int, int) {
  if (size > SIZE_MAX - kAlignment) return nullptr;  // of 32 bits
  size_t whole = (std::max<size_t>(static_cast<size_t>(size), 1) + kAlignment - 1) / kAlignment;
  return workspaces().take(whole * kAlignment);
}

int release(int, int, void* memory) {
  workspaces().give_back(memory);
  return 0;
}

int launch(Task task, void* closure, int) {
  return pool() ? pool()->run(task, closure) : gq::Pool::alone(task, closure);
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
