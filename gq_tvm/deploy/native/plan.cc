#include "plan.h"

#include <cstdio>
#include <fstream>
#include <sstream>

namespace gq {
namespace {

constexpr int kMost = 1 << 20;  // registers, slots
const std::string kFirstLine = "gq-plan 1\n";
const std::string kChecksum = "checksum ";

// Of the bytes before `end`: FNV-1a of 64 bits (Fowler, Noll, Vo), in hexadecimal.
std::string checksum(const std::string& text, size_t end) {
  uint64_t hash = 0xcbf29ce484222325;
  for (size_t i = 0; i < end; ++i)
    hash = (hash ^ static_cast<unsigned char>(text[i])) * 0x100000001b3;
  char word[17];
  std::snprintf(word, sizeof word, "%016llx", static_cast<unsigned long long>(hash));
  return word;
}

Size parse_size(const std::string& word) {
  if (word.at(0) == 'r') return {true, std::stoll(word.substr(1))};
  return {false, std::stoll(word)};
}

Let::Kind parse_operation(const std::string& word) {
  static const std::map<std::string, Let::Kind> kinds = {
      {"add", Let::kAdd}, {"sub", Let::kSub}, {"mul", Let::kMul}, {"div", Let::kDiv},
      {"mod", Let::kMod}, {"min", Let::kMin}, {"max", Let::kMax}};
  return kinds.at(word);
}

// The words of a line, each of which must be there.
class Words {
 public:
  explicit Words(const std::string& line) : stream_(line) {}

  std::string word() {
    std::string found;
    if (!(stream_ >> found)) throw Error("a line ends early");
    return found;
  }
  int number() { return std::stoi(word()); }
  int64_t large() { return std::stoll(word()); }
  Size size() { return parse_size(word()); }
  std::vector<std::string> rest() {
    std::vector<std::string> words;
    for (std::string next; stream_ >> next;) words.push_back(next);
    return words;
  }

 private:
  std::istringstream stream_;
};

std::vector<uint8_t> parse_hex(const std::string& text) {
  std::vector<uint8_t> bytes;
  for (size_t i = 0; i + 1 < text.size(); i += 2)
    bytes.push_back(static_cast<uint8_t>(std::stoi(text.substr(i, 2), nullptr, 16)));
  return bytes;
}

void parse_value(Function& function, Words& words) {
  static const std::map<std::string, Value::Kind> kinds = {
      {"input", Value::kInput},         {"weight", Value::kWeight}, {"constant", Value::kConstant},
      {"temporary", Value::kTemporary}, {"output", Value::kOutput}, {"view", Value::kView}};
  if (words.number() != static_cast<int>(function.values.size())) throw Error("a value is missing");
  Value& value = function.values.emplace_back();
  value.kind = kinds.at(words.word());
  value.type = Type::of(words.word());
  if (value.kind == Value::kConstant) value.bytes = parse_hex(words.word());
  else value.where = words.large();
  value.name = words.word();
  for (const auto& word : words.rest()) value.shape.push_back(parse_size(word));
}

void parse_line(Plan& plan, Function*& function, const std::string& line) {
  Words words(line);
  std::string kind = words.word();
  if (kind == "machine") plan.machine = words.word();
  else if (kind == "features") plan.features = words.rest();
  else if (kind == "weights") plan.weights_size = words.large();
  else if (kind == "metadata") {
    std::string name = words.word();
    plan.metadata[name] = words.rest();
  } else if (kind == "function") {
    std::string name = words.word();
    function = &plan.functions[name];
    function->name = name;
    function->registers = words.number();
    function->slots = words.number();
  } else if (!function) throw Error("a line stands outside of a function");
  else if (kind == "size") {
    Let let;
    let.target = words.number();
    let.input = words.number();
    let.axis = words.number();
    let.least = words.large();
    let.most = words.large();
    let.name = words.word();
    function->lets.push_back(let);
  } else if (kind == "let") {
    int target = words.number();
    Let::Kind operation = parse_operation(words.word());
    Size left = words.size(), right = words.size();
    Let let;
    let.kind = operation;
    let.target = target;
    let.left = left;
    let.right = right;
    function->lets.push_back(let);
  } else if (kind == "value") parse_value(*function, words);
  else if (kind == "inputs")
    for (const auto& word : words.rest()) function->inputs.push_back(std::stoi(word));
  else if (kind == "outputs")
    for (const auto& word : words.rest()) function->outputs.push_back(std::stoi(word));
  else if (kind == "call") {
    Call call;
    call.kernel = words.word();
    for (const auto& word : words.rest()) {
      bool is_size = word.at(0) == '=';
      if (is_size) call.arguments.push_back({true, 0, parse_size(word.substr(1))});
      else call.arguments.push_back({false, std::stoi(word), {}});
    }
    function->calls.push_back(call);
  } else throw Error("nobody knows a line of kind " + kind);
}

void require(bool holds) {
  if (!holds) throw Error("a number is out of range");
}

// What a call relies on: no number leads out of the plan's lists or the weights.
void check(const Function& function, int64_t weights_size) {
  auto is_value = [&](int64_t i) {
    return i >= 0 && i < static_cast<int64_t>(function.values.size());
  };
  auto is_register = [&](int64_t i) { return i >= 0 && i < function.registers; };
  auto fits = [&](const Size& size) { return !size.in_register || is_register(size.value); };
  require(function.registers >= 0 && function.registers <= kMost && function.slots >= 0 &&
          function.slots <= kMost);
  for (int number : function.inputs) {
    require(is_value(number));
    require(function.values[static_cast<size_t>(number)].kind == Value::kInput);
  }
  for (int number : function.outputs) require(is_value(number));
  for (const Let& let : function.lets) {
    require(is_register(let.target) && fits(let.left) && fits(let.right));
    if (let.kind != Let::kInput) continue;
    require(let.input >= 0 && let.input < static_cast<int>(function.inputs.size()));
    const Value& input =
        function.values[static_cast<size_t>(function.inputs[static_cast<size_t>(let.input)])];
    require(let.axis >= 0 && let.axis < static_cast<int>(input.shape.size()));
  }
  for (size_t i = 0; i < function.values.size(); ++i) {
    const Value& value = function.values[i];
    bool known = true;
    int64_t bytes = value.type.bytes();
    for (const Size& size : value.shape) {
      require(fits(size) && (size.in_register || size.value >= 0));
      known = known && !size.in_register;
      if (known) require(!__builtin_mul_overflow(bytes, size.value, &bytes));
    }
    require(value.where >= 0);
    if (value.kind == Value::kTemporary) require(value.where < function.slots);
    if (value.kind == Value::kView) require(value.where < static_cast<int64_t>(i));
    if (value.kind == Value::kConstant)
      require(known && bytes == static_cast<int64_t>(value.bytes.size()));
    if (value.kind == Value::kWeight)
      require(known && bytes <= weights_size && value.where <= weights_size - bytes);
  }
  for (const Call& call : function.calls)
    for (const Argument& one : call.arguments)
      require(one.is_size ? fits(one.size) : is_value(one.value));
}

}  // namespace

Type Type::of(const std::string& name) {
  if (name == "bool") return {name, 6, 8};
  size_t digits = name.find_first_of("0123456789");
  std::string kind = name.substr(0, digits);
  int code = kind == "int" ? 0 : kind == "uint" ? 1 : kind == "float" ? 2 : -1;
  for (int bits : {8, 16, 32, 64})
    if (code >= 0 && digits != std::string::npos && name.substr(digits) == std::to_string(bits))
      return {name, static_cast<uint8_t>(code), static_cast<uint8_t>(bits)};
  throw Error("nobody knows the dtype " + name);
}

Plan Plan::read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(path + " cannot be read; give the folder that compile --bundle wrote");
  std::ostringstream whole;
  whole << file.rdbuf();
  std::string text = whole.str();
  if (text.compare(0, kFirstLine.size(), kFirstLine) != 0)
    throw Error(path + " is not a plan of this version; bundle the model again");
  size_t end = text.rfind(kChecksum);
  if (end == std::string::npos || text.substr(end + kChecksum.size()) != checksum(text, end) + "\n")
    throw Error(path + " is damaged; copy the whole bundle again");
  Plan plan;
  Function* function = nullptr;
  std::istringstream lines(text.substr(kFirstLine.size(), end - kFirstLine.size()));
  try {
    for (std::string line; std::getline(lines, line);)
      if (!line.empty()) parse_line(plan, function, line);
    for (const auto& [_, one] : plan.functions) check(one, plan.weights_size);
  } catch (const std::exception& problem) {
    throw Error(path + " cannot be understood (" + problem.what() + "); bundle the model again");
  }
  return plan;
}

}  // namespace gq
