// What calls rely on; see Function::check.
#include <algorithm>

#include "plan/plan.h"

namespace gq {
namespace {

constexpr size_t kMostDimensions = 64;
constexpr int64_t kAlignment = 64;  // of weights; ALIGNMENT of gq_tvm.runtime.artefact.weights

class Checker {
 public:
  Checker(const Function& function, int64_t weights_size, size_t layers)
      : function_(function),
        weights_size_(weights_size),
        layers_(static_cast<int64_t>(layers)),
        roots_(function.values.size()),
        written_(function.values.size()),
        owner_(static_cast<size_t>(function.slots), -1) {}

  void all() {
    registers();
    inputs();
    for (size_t i = 0; i < function_.values.size(); ++i) value(i);
    for (size_t i = 0; i < function_.calls.size(); ++i) call(i);
    outputs();
  }

 private:
  void require(bool holds, const std::string& what) const {
    if (!holds) throw Error("in function " + function_.name + " " + what);
  }

  const Value& value_of(int64_t number, const std::string& who) const {
    require(number < static_cast<int64_t>(function_.values.size()),
            who + " names value " + std::to_string(number) + ", which is not there");
    return function_.values[static_cast<size_t>(number)];
  }

  // Whether a size is a number, or a register that has one by then.
  bool known(const Size& size, size_t registers) const {
    return !size.in_register || size.value < static_cast<int64_t>(registers);
  }

  void registers() const {
    require(function_.registers == static_cast<int64_t>(function_.lets.size()),
            "not as many sizes are computed as it has registers");
    for (size_t i = 0; i < function_.lets.size(); ++i) {
      const Let& let = function_.lets[i];
      std::string who = "register " + std::to_string(i);
      require(known(let.left, i) && known(let.right, i) && known(let.otherwise, i),
              who + " is computed from a later one");
      if (let.kind != Let::kInput) continue;
      require(let.input < static_cast<int64_t>(function_.inputs.size()),
              who + " is told by an input that is not there");
      const Value& input =
          value_of(function_.inputs[static_cast<size_t>(let.input)], "the line inputs");
      require(let.axis < static_cast<int64_t>(input.shape.size()),
              who + " is told by a dimension that is not there");
    }
  }

  // Each value that is an input is listed, once and in its place.
  void inputs() const {
    for (size_t i = 0; i < function_.inputs.size(); ++i) {
      const Value& value = value_of(function_.inputs[i], "the line inputs");
      require(value.kind == Value::kInput && value.where == static_cast<int64_t>(i),
              "the line inputs names what is not its input " + std::to_string(i));
    }
    auto is_input = [](const Value& value) { return value.kind == Value::kInput; };
    require(std::count_if(function_.values.begin(), function_.values.end(), is_input) ==
                static_cast<int64_t>(function_.inputs.size()),
            "the line inputs does not name every input");
  }

  void value(size_t number) {
    const Value& value = function_.values[number];
    std::string who = "value " + std::to_string(number);
    require(value.shape.size() <= kMostDimensions, who + " has too many dimensions");
    bool fixed = true;
    int64_t bytes = value.type.bytes();
    for (const Size& size : value.shape) {
      require(known(size, function_.lets.size()), who + " has the size of an unknown register");
      fixed = fixed && !size.in_register;
      if (fixed)
        require(!__builtin_mul_overflow(bytes, size.value, &bytes) && bytes <= PTRDIFF_MAX,
                who + " has more bytes than memory can hold");
    }
    if (value.kind == Value::kTemporary)
      require(value.where < function_.slots, who + " lies in a slot that is not there");
    bool view = value.kind == Value::kView;
    if (view) require(value.where < static_cast<int64_t>(number), who + " views a later one");
    roots_[number] = view ? roots_[static_cast<size_t>(value.where)] : number;
    if (value.kind == Value::kConstant)
      require(fixed && bytes == static_cast<int64_t>(value.bytes.size()),
              who + " has not as many bytes as its shape wants");
    if (value.kind == Value::kWeight)
      require(fixed && bytes <= weights_size_ && value.where <= weights_size_ - bytes &&
                  value.where % kAlignment == 0,
              who + " lies outside of the weights, or not at a multiple of 64 bytes");
  }

  size_t root(int64_t number) const { return roots_[static_cast<size_t>(number)]; }

  // Whether what the memory of a value held has not been written over.
  bool alive(size_t number) const {
    const Value& value = function_.values[number];
    return value.kind != Value::kTemporary ||
           owner_[static_cast<size_t>(value.where)] == static_cast<int64_t>(number);
  }

  bool has_content(size_t number) const {
    Value::Kind kind = function_.values[number].kind;
    return (kind != Value::kTemporary && kind != Value::kOutput) || written_[number];
  }

  void call(size_t number) {
    const Call& call = function_.calls[number];
    std::string who = "call " + std::to_string(number) + " (" + call.kernel + ")";
    // names of the library's own begin with _
    require(!call.kernel.empty() && call.kernel[0] != '_', who + " names no kernel");
    for (int64_t one : call.layers)
      require(one < layers_,
              who + " computes layer " + std::to_string(one) + ", which is not there");
    for (const Argument& one : call.arguments) {
      if (one.kind == Argument::kSize)
        require(known(one.size, function_.lets.size()), who + " takes an unknown register");
      else value_of(one.value, who);
      if (one.kind == Argument::kRead)
        require(has_content(root(one.value)), who + " reads what nothing has written");
    }
    for (const Argument& one : call.arguments) {
      if (one.kind != Argument::kWritten) continue;
      auto target = static_cast<size_t>(one.value);
      const Value& value = function_.values[target];
      require(
          (value.kind == Value::kTemporary || value.kind == Value::kOutput) && !written_[target],
          who + " writes what is no result, or written already");
      written_[target] = true;
      if (value.kind == Value::kTemporary) owner_[static_cast<size_t>(value.where)] = one.value;
    }
    for (const Argument& one : call.arguments)
      require(one.kind == Argument::kSize || alive(root(one.value)),
              who + " uses memory that holds something else by then");
  }

  void outputs() const {
    require(!function_.outputs.empty(), "the line outputs is missing");
    for (int64_t number : function_.outputs) {
      value_of(number, "the line outputs");
      size_t from = root(number);
      require(function_.values[from].kind != Value::kTemporary && has_content(from),
              "the line outputs names value " + std::to_string(number) +
                  ", which does not outlive a call or is never written");
    }
  }

  const Function& function_;
  int64_t weights_size_, layers_;
  std::vector<size_t> roots_;  // by value: the one in whose memory it lies
  std::vector<bool> written_;
  std::vector<int64_t> owner_;  // by slot: the value in it
};

}  // namespace

void Function::check(int64_t weights_size, size_t layers) const {
  Checker(*this, weights_size, layers).all();
}

}  // namespace gq
