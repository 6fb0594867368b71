// A function of the plan, made ready to be called.
#pragma once

#include <dlpack/dlpack.h>
#include <tvm/ffi/c_api.h>

#include <memory>
#include <string>
#include <vector>

#include "plan/plan.h"
#include "run/backend.h"

namespace gq {

// What a caller passes and is given.
struct Tensor {
  Type type;
  std::vector<int64_t> shape;
  void* data = nullptr;
};

constexpr size_t kAlignment = 64;  // of what kernels read and write

// Bytes of a tensor; throws Error where memory cannot hold so many.
size_t bytes_of(const Type& type, const std::vector<int64_t>& shape);
std::string spelled(const std::vector<int64_t>& shape);

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

// Kernels found, memory kept from call to call.
class Callable {
 public:
  Callable(const Function& plan, void* library, const char* weights, const Threads& threads);
  Callable(const Callable&) = delete;

  // Outputs live until the next call, whose inputs they may be.
  std::vector<Tensor> operator()(const std::vector<Tensor>& inputs);

  const Function& plan() const { return plan_; }
  void profile(bool on) { profiling_ = on; }
  // Seconds of each run so far, by the plan's call.
  const std::vector<std::vector<float>>& timings() const { return timings_; }

 protected:
  void check(const std::vector<Tensor>& inputs);
  void describe_values();
  void place_values();
  void prepare_arguments();
  // Run the kernels; where there is memory for a number each, note their seconds.
  void run(double* seconds = nullptr);

  const Function& plan_;
  std::vector<std::vector<int64_t>> shapes_;
  std::vector<DLTensor> tensors_;
  std::vector<void*> given_;  // by value: memory of the caller's for an input or output, or null

 private:
  using Kernel = int (*)(void*, const TVMFFIAny*, int32_t, TVMFFIAny*);

  void compute_sizes(const std::vector<Tensor>& inputs);
  void resize();
  void take(const std::vector<Tensor>& inputs);

  const Threads& threads_;
  std::vector<Kernel> kernels_;
  std::vector<int64_t> registers_, sizes_seen_;
  std::vector<std::vector<TVMFFIAny>> arguments_;
  std::vector<std::unique_ptr<Memory>> memory_;  // of slots, then of inputs and outputs by value
  const char* weights_;
  bool laid_out_ = false, profiling_ = false;
  std::vector<std::vector<float>> timings_;
};

}  // namespace gq
