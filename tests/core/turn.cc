// A kernel of a parallel loop as TVM makes them: what the tasks write before they meet, others of
// them read behind.
#include <dlpack/dlpack.h>
#include <tvm/ffi/c_api.h>

namespace {

// TVMParallelGroupEnv and FTVMParallelLambda of tvm/runtime/c_backend_api.h.
struct Group {
  void* barrier;
  int32_t tasks;
};
using Task = int (*)(int, Group*, void*);

struct Closure {
  const float* x;
  float *twice, *turned;
  int64_t size;
};

float* data(const TVMFFIAny& argument) {
  return static_cast<float*>(static_cast<DLTensor*>(argument.v_ptr)->data);
}

}  // namespace

extern "C" {

int (*__TVMBackendParallelLaunch)(Task, void*, int);
int (*__TVMBackendParallelBarrier)(int, Group*);

// x [n] -> twice [n] = 2 x, turned [n] = twice by one place to the left.
int __tvm_ffi_turn(void*, const TVMFFIAny* arguments, int32_t, TVMFFIAny*) {
  auto task = [](int number, Group* group, void* given) {
    const Closure& all = *static_cast<Closure*>(given);
    for (int64_t i = number; i < all.size; i += group->tasks) all.twice[i] = 2 * all.x[i];
    __TVMBackendParallelBarrier(number, group);
    for (int64_t i = number; i < all.size; i += group->tasks)
      all.turned[i] = all.twice[(i + 1) % all.size];
    return 0;
  };
  Closure all{data(arguments[0]), data(arguments[1]), data(arguments[2]),
              static_cast<DLTensor*>(arguments[0].v_ptr)->shape[0]};
  return __TVMBackendParallelLaunch(task, &all, 0);
}
}
