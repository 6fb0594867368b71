// A loaded bundle, and calls of its functions.
#pragma once

#include <dlpack/dlpack.h>
#include <tvm/ffi/c_api.h>

#include <memory>
#include <string>
#include <vector>

#include "backend.h"
#include "plan.h"

namespace gq {

// What a caller passes and is given.
struct Tensor {
  Type type;
  std::vector<int64_t> shape;
  void* data = nullptr;
};

// Memory whose start is aligned as kernels want it; it only grows.
class Memory {
 public:
  ~Memory();
  Memory() = default;
  Memory(const Memory&) = delete;
  void* of(size_t size);

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

struct Timing {
  std::string kernel;
  int64_t calls = 0;
  double seconds = 0;
};

// A function made ready: kernels found, memory kept from call to call.
class Callable {
 public:
  Callable(const Function& plan, void* library, const char* weights, const Threads& threads);

  // Outputs live until the next call, whose inputs they may be.
  std::vector<Tensor> operator()(const std::vector<Tensor>& inputs);

  const Function& plan() const { return plan_; }
  void profile(bool on) { profiling_ = on; }
  const std::vector<Timing>& timings() const { return timings_; }

 private:
  using Kernel = int (*)(void*, const TVMFFIAny*, int32_t, TVMFFIAny*);

  void check(const std::vector<Tensor>& inputs);
  void resize();
  void run();

  const Function& plan_;
  const Threads& threads_;
  std::vector<Kernel> kernels_;
  std::vector<int64_t> registers_, sizes_seen_;
  std::vector<std::vector<int64_t>> shapes_;
  std::vector<DLTensor> tensors_;
  std::vector<std::vector<TVMFFIAny>> arguments_;
  std::vector<std::unique_ptr<Memory>> memory_;  // of slots, then of inputs and outputs by value
  const char* weights_;
  bool laid_out_ = false, profiling_ = false;
  std::vector<Timing> timings_;
};

class Model {
 public:
  Model(const std::string& folder, int threads);
  Model(const Model&) = delete;

  const Plan& plan() const { return plan_; }
  bool has(const std::string& function) const { return plan_.functions.count(function) > 0; }
  Callable& function(const std::string& name);
  const std::vector<std::string>& metadata(const std::string& name) const;

 private:
  // What a failing constructor has opened is closed by these.
  struct Mapping {
    char* data = nullptr;
    size_t size = 0;
    ~Mapping();
  };
  struct Library {
    void* handle = nullptr;
    ~Library();
  };

  Plan plan_;
  Mapping weights_;
  Library library_;
  Threads threads_;
  std::map<std::string, std::unique_ptr<Callable>> functions_;
};

}  // namespace gq
