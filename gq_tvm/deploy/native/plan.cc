#include "plan.h"

#include <cstdio>
#include <fstream>
#include <sstream>

namespace gq {
namespace {

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
      {"input", Value::kInput},         {"weight", Value::kWeight},
      {"constant", Value::kConstant},   {"temporary", Value::kTemporary},
      {"output", Value::kOutput},       {"view", Value::kView}};
  auto number = static_cast<size_t>(words.number());
  if (function.values.size() <= number) function.values.resize(number + 1);
  Value& value = function.values[number];
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
    Let let{Let::kInput, words.number(), {}, {}};
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
    function->lets.push_back({operation, target, left, right});
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

}  // namespace

Type Type::of(const std::string& name) {
  if (name == "bool") return {name, 6, 8};
  size_t digits = name.find_first_of("0123456789");
  std::string kind = name.substr(0, digits);
  int code = kind == "int" ? 0 : kind == "uint" ? 1 : kind == "float" ? 2 : -1;
  if (code < 0 || digits == std::string::npos) throw Error("nobody knows the dtype " + name);
  return {name, static_cast<uint8_t>(code), static_cast<uint8_t>(std::stoi(name.substr(digits)))};
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
  } catch (const std::exception& problem) {
    throw Error(path + " cannot be understood (" + problem.what() + "); bundle the model again");
  }
  return plan;
}

}  // namespace gq
