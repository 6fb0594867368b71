/* Calls one kernel of a library, on a device or under an emulator, with no TVM on it.
 *
 *   kernel_runner LIBRARY FUNCTION TENSORS [CALLS]
 *
 * TENSORS is a file of tensors, the kernel's arguments: `struct header` and data, each at a
 * multiple of 64 bytes. It is mapped, so what the kernel writes is in it afterwards.
 * gq_tvm.runtime.devices.kernel_runner writes and reads it.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <tvm/ffi/c_api.h>
#include <unistd.h>

enum { ALIGNMENT = 64, MOST_TENSORS = 64, MOST_DIMENSIONS = 6 };

struct header { /* 64 bytes */
  int32_t code, bits, dimensions, unused;
  int64_t shape[MOST_DIMENSIONS];
};

static void die(const char* what, const char* detail) {
  fprintf(stderr, "kernel_runner: %s: %s\n", what, detail);
  exit(2);
}

/* What kernels ask of a runtime. */

__attribute__((visibility("default"))) void TVMFFIErrorSetRaisedFromCStrParts(const char* kind,
                                                                              const char** parts,
                                                                              int32_t count) {
  fprintf(stderr, "%s: ", kind);
  for (int i = 0; i < count; ++i)
    if (parts[i]) fputs(parts[i], stderr);
  fputc('\n', stderr);
}

static void* allocate(int device, int number, uint64_t size, int code, int bits) {
  return aligned_alloc(ALIGNMENT, (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
}

static int release(int device, int number, void* memory) {
  free(memory);
  return 0;
}

struct group { /* TVMParallelGroupEnv of tvm/runtime/c_backend_api.h */
  void* barrier;
  int32_t tasks;
};

static int launch(int (*task)(int, struct group*, void*), void* closure, int tasks) {
  struct group alone = {NULL, 1};
  return task(0, &alone, closure);
}

static void set_hook(void* library, const char* name, void* function) {
  void** hook = dlsym(library, name);
  if (hook) *hook = function;
}

int main(int count, char** arguments) {
  static DLTensor tensors[MOST_TENSORS];
  static TVMFFIAny values[MOST_TENSORS];
  if (count < 4) die("usage", "kernel_runner LIBRARY FUNCTION TENSORS [CALLS]");
  int calls = count > 4 ? atoi(arguments[4]) : 1, file = open(arguments[3], O_RDWR), used = 0;
  struct stat about;
  if (file < 0 || fstat(file, &about)) die("cannot open", arguments[3]);
  char* data = mmap(NULL, (size_t)about.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (data == MAP_FAILED) die("cannot map", arguments[3]);
  for (char* at = data; at < data + about.st_size; ++used) {
    struct header* header = (struct header*)at;
    size_t size = (size_t)header->bits / 8;
    if (used == MOST_TENSORS) die("too many tensors in", arguments[3]);
    for (int i = 0; i < header->dimensions; ++i) size *= (size_t)header->shape[i];
    tensors[used] = (DLTensor){.data = at + sizeof *header,
                               .device = {kDLCPU, 0},
                               .ndim = header->dimensions,
                               .dtype = {(uint8_t)header->code, (uint8_t)header->bits, 1},
                               .shape = header->shape};
    values[used].type_index = kTVMFFIDLTensorPtr;
    values[used].v_ptr = &tensors[used];
    at += sizeof *header + (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  }
  /* What code calls where a CPU lacks an instruction: rounding, division of integers. */
  dlopen("libm.so.6", RTLD_NOW | RTLD_GLOBAL);
  dlopen("libgcc_s.so.1", RTLD_NOW | RTLD_GLOBAL);
  void* library = dlopen(arguments[1], RTLD_NOW);
  if (!library) die("cannot load", dlerror());
  set_hook(library, "__TVMBackendAllocWorkspace", (void*)allocate);
  set_hook(library, "__TVMBackendFreeWorkspace", (void*)release);
  set_hook(library, "__TVMBackendParallelLaunch", (void*)launch);
  char name[256];
  snprintf(name, sizeof name, "__tvm_ffi_%s", arguments[2]);
  int (*kernel)(void*, const TVMFFIAny*, int32_t, TVMFFIAny*) = dlsym(library, name);
  if (!kernel) die("no such function", arguments[2]);
  for (int i = 0; i < calls; ++i) {
    TVMFFIAny result = {0};
    if (kernel(NULL, values, used, &result)) return 1;
  }
  return 0;
}
