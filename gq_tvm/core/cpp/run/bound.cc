#include "run/bound.h"

#include <algorithm>
#include <chrono>
#include <cstring>

namespace gq {
namespace {

bool aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % kAlignment == 0; }

bool overlap(const Tensor& one, const Tensor& other) {
  const auto *a = static_cast<const char*>(one.data), *b = static_cast<const char*>(other.data);
  return a && b && a < b + bytes_of(other.type, other.shape) &&
         b < a + bytes_of(one.type, one.shape);
}

}  // namespace

Bound::Bound(const Function& plan, void* library, const char* weights, const Threads& threads,
             const std::vector<Tensor>& inputs, std::vector<Tensor>& outputs)
    : Callable(plan, library, weights, threads) {
  check(inputs);
  describe_values();
  accept(outputs);
  take(inputs, outputs);
  for (size_t i = 0; i < outputs.size(); ++i) {
    size_t from = root(plan.outputs[i]);
    if (plan.values[from].kind == Value::kOutput && !given_[from] && aligned(outputs[i].data))
      given_[from] = outputs[i].data;
  }
  place_values();
  prepare_arguments();
  for (size_t i = 0; i < inputs.size(); ++i) {
    void* data = tensors_[static_cast<size_t>(plan.inputs[i])].data;
    size_t size = bytes_of(inputs[i].type, inputs[i].shape);
    if (size && data != inputs[i].data) before_.push_back({data, inputs[i].data, size});
  }
  give(outputs);
}

// Compare outputs with what is going to be written; of those without memory note what they are.
void Bound::accept(std::vector<Tensor>& outputs) const {
  if (outputs.size() != plan_.outputs.size())
    throw Error(plan_.name + " has " + std::to_string(plan_.outputs.size()) + " outputs, got " +
                std::to_string(outputs.size()));
  for (size_t i = 0; i < outputs.size(); ++i) {
    const Type& type = plan_.output(i).type;
    const std::vector<int64_t>& shape = shapes_[static_cast<size_t>(plan_.outputs[i])];
    bytes_of(type, shape);  // throws where a size is negative
    if (outputs[i].data && (outputs[i].type.name != type.name || outputs[i].shape != shape))
      throw Error("output " + std::to_string(i) + " of " + plan_.name + " is " + type.name + " " +
                  spelled(shape) + ", got memory for " + outputs[i].type.name + " " +
                  spelled(outputs[i].shape));
    outputs[i].type = type;
    outputs[i].shape = shape;
  }
}

// Read inputs where they lie, unless they would be written over.
void Bound::take(const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs) {
  for (size_t i = 0; i < inputs.size(); ++i) {
    auto shared = [&](const Tensor& output) { return overlap(inputs[i], output); };
    if (aligned(inputs[i].data) && std::none_of(outputs.begin(), outputs.end(), shared))
      given_[static_cast<size_t>(plan_.inputs[i])] = inputs[i].data;
  }
}

// Say where outputs without memory come to lie, and copy those written elsewhere.
void Bound::give(std::vector<Tensor>& outputs) {
  for (size_t i = 0; i < outputs.size(); ++i) {
    void* data = tensors_[static_cast<size_t>(plan_.outputs[i])].data;
    size_t size = bytes_of(outputs[i].type, outputs[i].shape);
    if (!outputs[i].data) outputs[i].data = data;
    else if (size && outputs[i].data != data) after_.push_back({outputs[i].data, data, size});
  }
}

// The value in whose memory a value lies.
size_t Bound::root(int64_t value) const {
  auto number = static_cast<size_t>(value);
  while (plan_.values[number].kind == Value::kView)
    number = static_cast<size_t>(plan_.values[number].where);
  return number;
}

void Bound::operator()() {
  for (const Copy& one : before_) std::memcpy(one.to, one.from, one.size);
  run();
  for (const Copy& one : after_) std::memcpy(one.to, one.from, one.size);
}

void Bound::time(int runs, double* seconds, double* kernels) {
  using Clock = std::chrono::steady_clock;
  size_t calls = plan_.calls.size();
  for (int i = 0; i < runs; ++i) {
    auto begin = Clock::now();
    if (kernels) run(kernels + static_cast<size_t>(i) * calls);
    else (*this)();
    seconds[i] = std::chrono::duration<double>(Clock::now() - begin).count();
  }
}

}  // namespace gq
