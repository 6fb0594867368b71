#include "run/callable.h"

#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>

namespace gq {
namespace {

// Rounded down, as in Python; for y = -1 the least x has no quotient.
int64_t floor_div(int64_t x, int64_t y) { return x / y - (x % y != 0 && (x < 0) != (y < 0)); }

int64_t floor_mod(int64_t x, int64_t y) {
  int64_t left = x % y;
  return left && (left < 0) != (y < 0) ? left + y : left;
}

int64_t compute(const Let& let, const std::vector<int64_t>& registers) {
  int64_t a = let.left.of(registers), b = let.right.of(registers), result = 0;
  if ((let.kind == Let::kDiv || let.kind == Let::kMod) && b == 0)
    throw Error("the plan divides a size by zero; compile the model again");
  bool fits = true;
  switch (let.kind) {
    case Let::kAdd:
      fits = !__builtin_add_overflow(a, b, &result);
      break;
    case Let::kSub:
      fits = !__builtin_sub_overflow(a, b, &result);
      break;
    case Let::kMul:
      fits = !__builtin_mul_overflow(a, b, &result);
      break;
    case Let::kDiv:
      if (b == -1) fits = !__builtin_sub_overflow(int64_t{0}, a, &result);
      else result = floor_div(a, b);
      break;
    case Let::kMod:
      result = b == -1 ? 0 : floor_mod(a, b);
      break;
    case Let::kMin:
      result = std::min(a, b);
      break;
    case Let::kMax:
      result = std::max(a, b);
      break;
    case Let::kLess:
      result = a < b;
      break;
    case Let::kEqual:
      result = a == b;
      break;
    case Let::kSelect:
      result = a ? b : let.otherwise.of(registers);
      break;
    case Let::kInput:
      throw Error("the plan computes an unknown size; compile the model again");
  }
  if (!fits) throw Error("a size is beyond 64 bits; give smaller inputs");
  return result;
}

}  // namespace

size_t bytes_of(const Type& type, const std::vector<int64_t>& shape) {
  auto size = static_cast<size_t>(type.bytes());
  for (int64_t one : shape)
    if (one < 0 || __builtin_mul_overflow(size, one, &size))
      throw Error("a tensor has more bytes than memory can hold; give smaller inputs");
  return size;
}

std::string spelled(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

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
    if (!kernel) throw Error("kernels.so lacks " + call.kernel + "; compile the model again");
    kernels_.push_back(kernel);
    arguments_.emplace_back(call.arguments.size());
  }
  timings_.resize(plan.calls.size());
  registers_.resize(plan.lets.size());
  shapes_.resize(plan.values.size());
  tensors_.resize(plan.values.size());
  given_.resize(plan.values.size());
  for (size_t i = 0; i < static_cast<size_t>(plan.slots) + plan.values.size(); ++i)
    memory_.push_back(std::make_unique<Memory>());
}

void Callable::check(const std::vector<Tensor>& inputs) {
  if (inputs.size() != plan_.inputs.size())
    throw Error(plan_.name + " takes " + std::to_string(plan_.inputs.size()) + " inputs, got " +
                std::to_string(inputs.size()));
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Value& value = plan_.input(i);
    if (inputs[i].type.name != value.type.name)
      throw Error("input " + value.name + " of " + plan_.name + " has the dtype " +
                  inputs[i].type.name + ", give " + value.type.name);
    if (inputs[i].shape.size() != value.shape.size())
      throw Error("input " + value.name + " of " + plan_.name + " has the shape " +
                  spelled(inputs[i].shape) + ", give one of " + std::to_string(value.shape.size()) +
                  " dimensions");
  }
  compute_sizes(inputs);
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Value& value = plan_.input(i);
    std::vector<int64_t> wanted;
    for (const Size& size : value.shape) wanted.push_back(size.of(registers_));
    if (wanted != inputs[i].shape)
      throw Error("input " + value.name + " of " + plan_.name + " has the shape " +
                  spelled(inputs[i].shape) + ", give " + spelled(wanted));
    if (!inputs[i].data && bytes_of(inputs[i].type, inputs[i].shape))
      throw Error("input " + value.name + " of " + plan_.name + " has no data; give its address");
  }
}

void Callable::compute_sizes(const std::vector<Tensor>& inputs) {
  for (size_t i = 0; i < plan_.lets.size(); ++i) {
    const Let& let = plan_.lets[i];
    if (let.kind != Let::kInput) {
      registers_[i] = compute(let, registers_);
      continue;
    }
    int64_t size = inputs[static_cast<size_t>(let.input)].shape[static_cast<size_t>(let.axis)];
    if (size < let.least || (let.most >= 0 && size > let.most))
      throw Error("the size " + let.name + " of " + plan_.name + " is " + std::to_string(size) +
                  ", it must be at least " + std::to_string(let.least) +
                  (let.most >= 0 ? " and at most " + std::to_string(let.most) : ""));
    registers_[i] = size;
  }
}

// Lay memory out for the sizes in the registers.
void Callable::resize() {
  laid_out_ = false;  // till the end: memory may run out
  describe_values();
  place_values();
  prepare_arguments();
  sizes_seen_ = registers_;
  laid_out_ = true;
}

void Callable::describe_values() {
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
}

void Callable::place_values() {
  auto slots = static_cast<size_t>(plan_.slots);
  std::vector<size_t> sizes, largest(slots);  // by value, by slot
  for (size_t i = 0; i < plan_.values.size(); ++i) {
    const Value& value = plan_.values[i];
    auto where = static_cast<size_t>(value.where);
    sizes.push_back(bytes_of(value.type, shapes_[i]));
    if (value.kind == Value::kTemporary) largest[where] = std::max(largest[where], sizes[i]);
    if (value.kind == Value::kView && sizes[i] != sizes[where])
      throw Error("in function " + plan_.name + " value " + std::to_string(i) + " of " +
                  spelled(shapes_[i]) + " views value " + std::to_string(where) + " of " +
                  spelled(shapes_[where]) + "; if the inputs are right, compile the model again");
  }
  for (size_t i = 0; i < plan_.values.size(); ++i) {
    const Value& value = plan_.values[i];
    void*& data = tensors_[i].data;
    switch (value.kind) {
      case Value::kWeight:
        data = const_cast<char*>(weights_) + value.where;
        break;
      case Value::kTemporary:
        data = memory_[static_cast<size_t>(value.where)]->of(
            largest[static_cast<size_t>(value.where)]);
        break;
      case Value::kView:
        data = tensors_[static_cast<size_t>(value.where)].data;
        break;
      case Value::kConstant:
        data = memory_[slots + i]->of(sizes[i]);
        if (sizes[i]) std::memcpy(data, value.bytes.data(), sizes[i]);
        break;
      case Value::kInput:
      case Value::kOutput:
        data = given_[i] ? given_[i] : memory_[slots + i]->of(sizes[i]);
    }
  }
}

void Callable::prepare_arguments() {
  for (size_t i = 0; i < plan_.calls.size(); ++i)
    for (size_t j = 0; j < arguments_[i].size(); ++j) {
      const Argument& argument = plan_.calls[i].arguments[j];
      bool is_size = argument.kind == Argument::kSize;
      TVMFFIAny& value = arguments_[i][j];
      value = TVMFFIAny{};
      value.type_index = is_size ? kTVMFFIInt : kTVMFFIDLTensorPtr;
      if (is_size) value.v_int64 = argument.size.of(registers_);
      else value.v_ptr = &tensors_[static_cast<size_t>(argument.value)];
    }
}

// Lay memory out if sizes have changed, and copy the inputs into it.
void Callable::take(const std::vector<Tensor>& inputs) {
  // An input may be an output of the last call, whose memory is about to move, or lie in that of
  // another input (where a function returns an input as it is).
  std::vector<std::vector<char>> copies(inputs.size());
  bool moves = !laid_out_ || sizes_seen_ != registers_;
  for (size_t i = 0; laid_out_ && i < inputs.size(); ++i) {
    bool shared = false;
    for (size_t j = 0; j < inputs.size(); ++j)
      shared = shared ||
               (j != i && inputs[i].data == tensors_[static_cast<size_t>(plan_.inputs[j])].data);
    if (!moves && !shared) continue;
    const auto* data = static_cast<const char*>(inputs[i].data);
    copies[i].assign(data, data + bytes_of(inputs[i].type, inputs[i].shape));
  }
  if (moves) resize();
  for (size_t i = 0; i < inputs.size(); ++i) {
    const void* data = copies[i].empty() ? inputs[i].data : copies[i].data();
    if (size_t size = bytes_of(inputs[i].type, inputs[i].shape))
      std::memmove(tensors_[static_cast<size_t>(plan_.inputs[i])].data, data, size);
  }
}

void Callable::run(double* seconds) {
  using Clock = std::chrono::steady_clock;
  UseThreads use(threads_);
  for (size_t i = 0; i < kernels_.size(); ++i) {
    TVMFFIAny result = {};
    auto begin = seconds ? Clock::now() : Clock::time_point();
    if (kernels_[i](nullptr, arguments_[i].data(), static_cast<int32_t>(arguments_[i].size()),
                    &result))
      throw Error("the kernel " + plan_.calls[i].kernel + " failed: " + kernel_error());
    if (seconds) seconds[i] = std::chrono::duration<double>(Clock::now() - begin).count();
  }
}

std::vector<Tensor> Callable::operator()(const std::vector<Tensor>& inputs) {
  check(inputs);
  take(inputs);
  std::vector<double> seconds(profiling_ ? plan_.calls.size() : 0);
  run(profiling_ ? seconds.data() : nullptr);
  for (size_t i = 0; i < seconds.size(); ++i) timings_[i].push_back(static_cast<float>(seconds[i]));
  std::vector<Tensor> outputs;
  for (size_t i = 0; i < plan_.outputs.size(); ++i) {
    auto number = static_cast<size_t>(plan_.outputs[i]);
    outputs.push_back({plan_.output(i).type, shapes_[number], tensors_[number].data});
  }
  return outputs;
}

}  // namespace gq
