#include "model.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <system_error>

#include "cpu.h"

namespace gq {
namespace {

constexpr size_t kAlignment = 64;

#if defined(__aarch64__)
constexpr const char* kMachine = "aarch64";
#elif defined(__arm__)
constexpr const char* kMachine = "arm";
#else
constexpr const char* kMachine = "x86_64";
#endif

std::string spelled(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

int64_t compute(const Let& let, const std::vector<int64_t>& registers) {
  int64_t a = let.left.of(registers), b = let.right.of(registers);
  if ((let.kind == Let::kDiv || let.kind == Let::kMod) && b == 0)
    throw Error("the plan divides a size by zero; bundle the model again");
  auto floor_div = [](int64_t x, int64_t y) { return x / y - (x % y != 0 && (x < 0) != (y < 0)); };
  switch (let.kind) {
    case Let::kAdd:
      return a + b;
    case Let::kSub:
      return a - b;
    case Let::kMul:
      return a * b;
    case Let::kDiv:
      return floor_div(a, b);
    case Let::kMod:
      return a - floor_div(a, b) * b;
    case Let::kMin:
      return std::min(a, b);
    case Let::kMax:
      return std::max(a, b);
    case Let::kInput:
      break;
  }
  throw Error("the plan computes an unknown size; bundle the model again");
}

size_t bytes_of(const DLTensor& tensor) {
  size_t size = (static_cast<size_t>(tensor.dtype.bits) + 7) / 8;
  for (int i = 0; i < tensor.ndim; ++i)
    if (tensor.shape[i] < 0 || __builtin_mul_overflow(size, tensor.shape[i], &size))
      throw Error("a tensor has more bytes than memory can hold; give smaller inputs");
  return size;
}

size_t bytes_of(const Tensor& tensor) {
  auto size = static_cast<size_t>(tensor.type.bytes());
  for (int64_t one : tensor.shape) size *= static_cast<size_t>(one);
  return size;
}

}  // namespace

Memory::~Memory() { free(data_); }

void* Memory::of(size_t size) {
  if (size > PTRDIFF_MAX - kAlignment) throw std::bad_alloc();
  size = (std::max<size_t>(size, 1) + kAlignment - 1) / kAlignment * kAlignment;
  if (size > size_) {
    free(data_);
    size_ = 0;
    data_ = aligned_alloc(kAlignment, size);
    if (!data_) throw std::bad_alloc();
    size_ = size;
  }
  return data_;
}

Callable::Callable(const Function& plan, void* library, const char* weights, const Threads& threads)
    : plan_(plan), threads_(threads), weights_(weights) {
  for (const Call& call : plan.calls) {
    auto* kernel = reinterpret_cast<Kernel>(dlsym(library, ("__tvm_ffi_" + call.kernel).c_str()));
    if (!kernel) throw Error("kernels.so lacks " + call.kernel + "; bundle the model again");
    kernels_.push_back(kernel);
    timings_.push_back({call.kernel, 0, 0});
    std::vector<TVMFFIAny> arguments(call.arguments.size());
    arguments_.push_back(arguments);
  }
  registers_.resize(static_cast<size_t>(plan.registers));
  shapes_.resize(plan.values.size());
  tensors_.resize(plan.values.size());
  for (size_t i = 0; i < static_cast<size_t>(plan.slots) + plan.values.size(); ++i)
    memory_.push_back(std::make_unique<Memory>());
}

void Callable::check(const std::vector<Tensor>& inputs) {
  if (inputs.size() != plan_.inputs.size())
    throw Error(plan_.name + " takes " + std::to_string(plan_.inputs.size()) + " inputs, got " +
                std::to_string(inputs.size()));
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Value& value = plan_.values[static_cast<size_t>(plan_.inputs[i])];
    if (inputs[i].type.name != value.type.name)
      throw Error("input " + value.name + " of " + plan_.name + " has the dtype " +
                  inputs[i].type.name + ", give " + value.type.name);
    if (inputs[i].shape.size() != value.shape.size())
      throw Error("input " + value.name + " of " + plan_.name + " has the shape " +
                  spelled(inputs[i].shape) + ", give one of " + std::to_string(value.shape.size()) +
                  " dimensions");
  }
  for (const Let& let : plan_.lets) {
    int64_t& target = registers_[static_cast<size_t>(let.target)];
    if (let.kind != Let::kInput) {
      target = compute(let, registers_);
      continue;
    }
    target = inputs[static_cast<size_t>(let.input)].shape[static_cast<size_t>(let.axis)];
    if (target < let.least || (let.most >= 0 && target > let.most))
      throw Error("the size " + let.name + " of " + plan_.name + " is " + std::to_string(target) +
                  ", it must be at least " + std::to_string(let.least) +
                  (let.most >= 0 ? " and at most " + std::to_string(let.most) : ""));
  }
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Value& value = plan_.values[static_cast<size_t>(plan_.inputs[i])];
    std::vector<int64_t> wanted;
    for (const Size& size : value.shape) wanted.push_back(size.of(registers_));
    if (wanted != inputs[i].shape)
      throw Error("input " + value.name + " of " + plan_.name + " has the shape " +
                  spelled(inputs[i].shape) + ", give " + spelled(wanted));
  }
}

// Lay memory out for the sizes in the registers.
void Callable::resize() {
  laid_out_ = false;  // till the end: memory may run out
  for (size_t i = 0; i < plan_.values.size(); ++i) {
    const Value& value = plan_.values[i];
    shapes_[i].clear();
    for (const Size& size : value.shape) shapes_[i].push_back(size.of(registers_));
    DLTensor& tensor = tensors_[i];
    tensor = DLTensor{};
    tensor.device = {kDLCPU, 0};
    tensor.dtype = {value.type.code, value.type.bits, 1};
    tensor.ndim = static_cast<int32_t>(shapes_[i].size());
    tensor.shape = shapes_[i].data();
  }
  auto slots = static_cast<size_t>(plan_.slots);
  std::vector<size_t> largest(slots);
  for (size_t i = 0; i < plan_.values.size(); ++i)
    if (plan_.values[i].kind == Value::kTemporary) {
      size_t& size = largest[static_cast<size_t>(plan_.values[i].where)];
      size = std::max(size, bytes_of(tensors_[i]));
    }
  for (size_t i = 0; i < plan_.values.size(); ++i) {
    const Value& value = plan_.values[i];
    auto where = static_cast<size_t>(value.where);
    void*& data = tensors_[i].data;
    switch (value.kind) {
      case Value::kWeight:
        data = const_cast<char*>(weights_) + where;
        break;
      case Value::kTemporary:
        data = memory_[where]->of(largest[where]);
        break;
      case Value::kView:
        data = tensors_[where].data;
        break;  // of an earlier value
      case Value::kConstant:
        data = memory_[slots + i]->of(value.bytes.size());
        std::memcpy(data, value.bytes.data(), value.bytes.size());
        break;
      default:
        data = memory_[slots + i]->of(bytes_of(tensors_[i]));
    }
  }
  for (size_t i = 0; i < plan_.calls.size(); ++i)
    for (size_t j = 0; j < arguments_[i].size(); ++j) {
      const Argument& argument = plan_.calls[i].arguments[j];
      TVMFFIAny& value = arguments_[i][j];
      value = TVMFFIAny{};
      value.type_index = argument.is_size ? kTVMFFIInt : kTVMFFIDLTensorPtr;
      if (argument.is_size) value.v_int64 = argument.size.of(registers_);
      else value.v_ptr = &tensors_[static_cast<size_t>(argument.value)];
    }
  sizes_seen_ = registers_;
  laid_out_ = true;
}

void Callable::run() {
  UseThreads use(threads_);
  for (size_t i = 0; i < kernels_.size(); ++i) {
    TVMFFIAny result = {};
    auto begin =
        profiling_ ? std::chrono::steady_clock::now() : std::chrono::steady_clock::time_point();
    if (kernels_[i](nullptr, arguments_[i].data(), static_cast<int32_t>(arguments_[i].size()),
                    &result))
      throw Error("the kernel " + plan_.calls[i].kernel + " failed: " + kernel_error());
    if (profiling_) {
      timings_[i].seconds +=
          std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      ++timings_[i].calls;
    }
  }
}

std::vector<Tensor> Callable::operator()(const std::vector<Tensor>& inputs) {
  check(inputs);
  std::vector<std::vector<char>> copies(inputs.size());
  bool resized = !laid_out_ || sizes_seen_ != registers_;
  if (resized) {
    // An input may be an output of the last call, whose memory is about to move.
    for (size_t i = 0; laid_out_ && i < inputs.size(); ++i) {
      const auto* data = static_cast<const char*>(inputs[i].data);
      copies[i].assign(data, data + bytes_of(inputs[i]));
    }
    resize();
  }
  for (size_t i = 0; i < inputs.size(); ++i) {
    DLTensor& tensor = tensors_[static_cast<size_t>(plan_.inputs[i])];
    const void* data = copies[i].empty() ? inputs[i].data : copies[i].data();
    if (size_t size = bytes_of(tensor)) std::memmove(tensor.data, data, size);
  }
  run();
  std::vector<Tensor> outputs;
  for (int number : plan_.outputs) {
    auto i = static_cast<size_t>(number);
    outputs.push_back({plan_.values[i].type, shapes_[i], tensors_[i].data});
  }
  return outputs;
}

Model::Model(const std::string& folder, int threads) : plan_(Plan::read(folder + "/plan.txt")) {
  if (plan_.machine != kMachine)
    throw Error(folder + " is for " + plan_.machine + ", this program is for " + kMachine +
                "; bundle the model for this machine");
  for (const std::string& feature : plan_.features)
    if (!cpu_has(feature))
      throw Error("this CPU lacks " + feature + ", which the kernels in " + folder +
                  " use; compile the model for this CPU (--target)");
  std::string path = folder + "/weights.safetensors";
  int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat about{};
  if (file >= 0 && fstat(file, &about)) {
    close(file);
    file = -1;
  }
  if (file < 0) throw Error(path + " cannot be read; copy the whole bundle");
  if (about.st_size != plan_.weights_size) {
    close(file);
    throw Error(path + " has the wrong size; copy the whole bundle again");
  }
  if (about.st_size > PTRDIFF_MAX) {
    close(file);
    throw Error(path + " is larger than a 32-bit program can map; use a 64-bit system");
  }
  auto size = static_cast<size_t>(about.st_size);
  void* mapped = mmap(nullptr, size, PROT_READ, MAP_SHARED, file, 0);
  close(file);
  if (mapped == MAP_FAILED) throw Error(path + " cannot be mapped; is there memory for it?");
  weights_.data = static_cast<char*>(mapped);
  weights_.size = size;
  library_.handle = dlopen((folder + "/kernels.so").c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library_.handle)
    throw Error(std::string("the kernels cannot be loaded (") + dlerror() +
                "); copy the whole bundle again");
  give_hooks(library_.handle);
  try {
    threads_ = make_threads(threads);
  } catch (const std::system_error&) {
    throw Error(std::to_string(threads) + " threads cannot be started; ask for fewer");
  }
}

Model::Mapping::~Mapping() {
  if (data) munmap(data, size);
}

Model::Library::~Library() {
  if (handle) dlclose(handle);
}

Callable& Model::function(const std::string& name) {
  auto& made = functions_[name];
  if (!made) {
    auto found = plan_.functions.find(name);
    if (found == plan_.functions.end()) {
      functions_.erase(name);
      std::string names;
      for (const auto& [known, _] : plan_.functions) names += (names.empty() ? "" : ", ") + known;
      throw Error("there is no function " + name + "; the model has " + names);
    }
    made = std::make_unique<Callable>(found->second, library_.handle, weights_.data, threads_);
  }
  return *made;
}

const std::vector<std::string>& Model::metadata(const std::string& name) const {
  auto found = plan_.metadata.find(name);
  if (found == plan_.metadata.end() || found->second.empty())
    throw Error("the model is no speech recogniser (its plan lacks " + name + ")");
  return found->second;
}

}  // namespace gq
