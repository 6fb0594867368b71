// What compiled functions do: which kernels they call on what memory. See gq_tvm/plan/text.py, the
// writer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace gq {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A number, or a size that is known when the function is called: the value of a register.
struct Size {
  bool in_register = false;
  int64_t value = 0;  // or the number of the register

  int64_t of(const std::vector<int64_t>& registers) const {
    return in_register ? registers[static_cast<size_t>(value)] : value;
  }
};

struct Type {
  std::string name;  // as NumPy calls it
  uint8_t code = 0;  // DLDataTypeCode
  uint8_t bits = 0;

  static Type of(const std::string& name);
  int64_t bytes() const { return (bits + 7) / 8; }
};

// The next register = left op right, a size of an input, or one of two by a condition.
struct Let {
  enum Kind { kInput, kAdd, kSub, kMul, kDiv, kMod, kMin, kMax, kLess, kEqual, kSelect };
  Kind kind = kInput;
  Size left, right, otherwise;   // of kSelect: the condition, and what it chooses from
  int64_t input = 0, axis = 0;   // of kInput
  int64_t least = 0, most = -1;  // of kInput; -1: no bound
  std::string name = {};
};

struct Value {
  enum Kind { kInput, kWeight, kConstant, kTemporary, kOutput, kView } kind = kInput;
  Type type;
  std::vector<Size> shape;
  int64_t where = 0;  // input number, offset in the weights, slot, or value viewed
  std::string name;
  std::vector<uint8_t> bytes;  // of a constant
};

struct Argument {
  enum Kind { kRead, kWritten, kSize } kind = kRead;
  int64_t value = 0;  // its number, unless of kSize
  Size size;
};

struct Call {
  std::string kernel;
  std::string layer;            // which it computes; empty for none
  std::vector<int64_t> layers;  // its weights: numbers of Plan::layers
  std::vector<Argument> arguments;
};

struct Function {
  std::string name;
  int64_t registers = 0, slots = 0;
  std::vector<Let> lets;
  std::vector<Value> values;
  std::vector<int64_t> inputs, outputs;
  std::vector<Call> calls;

  const Value& input(size_t number) const { return values[static_cast<size_t>(inputs[number])]; }
  const Value& output(size_t number) const { return values[static_cast<size_t>(outputs[number])]; }
  // Throws Error unless calls can rely on every number: none leads out of a list, a tensor or the
  // weights, nothing is read before it is written, and no memory is used again too early.
  void check(int64_t weights_size, size_t layers) const;
};

// A weight in a codebook, as a kernel uses it.
struct Layer {
  std::string name, kind, shape, bits, activation, kernel, schedule, origin, use;
  std::vector<std::string> parameters;
};

// What a file of the bundle holds, to notice a copy that was cut, padded or altered.
struct Content {
  int64_t size = -1;
  uint32_t crc = 0;  // crc32.h
};

struct Plan {
  std::string machine;
  std::vector<std::string> features;
  Content weights, kernels;
  std::vector<std::string> runtime;  // functions of TVM's that kernels call
  std::vector<Layer> layers;
  std::map<std::string, Function> functions;
  std::map<std::string, std::vector<std::string>> metadata;

  static Plan read(const std::string& path);
};

}  // namespace gq
