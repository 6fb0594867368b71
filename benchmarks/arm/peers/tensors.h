// Arguments of a function that gq_tvm's kernel runner calls: tensors, contiguous, of known types.
#pragma once

#include <tvm/ffi/c_api.h>

static inline DLTensor* tensor(const TVMFFIAny* arguments, int number) {
  return (DLTensor*)arguments[number].v_ptr;
}

static inline void* data(const TVMFFIAny* arguments, int number) {
  return tensor(arguments, number)->data;
}

static inline int size(const TVMFFIAny* arguments, int number, int dimension) {
  return (int)tensor(arguments, number)->shape[dimension];
}

// Opens a function the runner finds by `name`; it returns 0, or -1 where it refuses.
#define FUNCTION(name)                                         \
  __attribute__((visibility("default"))) int __tvm_ffi_##name( \
      void* self, const TVMFFIAny* arguments, int count, TVMFFIAny* result)
