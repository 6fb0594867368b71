// A function of the plan tied to memory of the caller's, for calls that cost no more than kernels.
#pragma once

#include "run/callable.h"

namespace gq {

class Bound : public Callable {
 public:
  // Inputs are read and outputs are written where they lie, or copied at each run where that is
  // not aligned, or an output shares the memory of an input. An output without memory gets some.
  // Throws Error unless all are what the plan wants.
  Bound(const Function& plan, void* library, const char* weights, const Threads& threads,
        const std::vector<Tensor>& inputs, std::vector<Tensor>& outputs);

  void operator()();
  // The same so many times; notes the seconds of each run, and of each kernel in it unless null.
  void time(int runs, double* seconds, double* kernels);

 private:
  struct Copy {
    void* to;
    const void* from;
    size_t size;
  };

  void accept(std::vector<Tensor>& outputs) const;
  void take(const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs);
  void give(std::vector<Tensor>& outputs);
  size_t root(int64_t value) const;

  std::vector<Copy> before_, after_;
};

}  // namespace gq
