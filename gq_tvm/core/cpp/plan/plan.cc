#include "plan/plan.h"

#include <charconv>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string_view>

#include "plan/crc32.h"

namespace gq {
namespace {

constexpr int64_t kMost = 1 << 20;  // registers, slots
constexpr size_t kMostShown = 40;   // characters of a word in a sentence
const std::string kFirstLine = "gq-plan 3\n";
const std::string kChecksum = "checksum ";

// Of the bytes before `end`: CRC-32, in hexadecimal.
std::string checksum(const std::string& text, size_t end) {
  char word[9];
  std::snprintf(word, sizeof word, "%08x", static_cast<unsigned>(crc32(text.data(), end)));
  return word;
}

[[noreturn]] void misplaced(std::string_view word, const std::string& wanted) {
  throw Error("says " + std::string(word.substr(0, kMostShown)) + " where " + wanted + " belongs");
}

template <class Number>
Number parse_number(std::string_view word, const char* wanted, int base = 10) {
  Number value = 0;
  auto [end, problem] = std::from_chars(word.data(), word.data() + word.size(), value, base);
  if (problem != std::errc() || end != word.data() + word.size()) misplaced(word, wanted);
  return value;
}

int64_t parse_whole(std::string_view word, int64_t least = INT64_MIN, int64_t most = INT64_MAX) {
  auto value = parse_number<int64_t>(word, "a whole number of 64 bits");
  if (value < least) misplaced(word, "a number from " + std::to_string(least) + " up");
  if (value > most) misplaced(word, "a number up to " + std::to_string(most));
  return value;
}

Size parse_size(std::string_view word, int64_t least) {
  if (!word.empty() && word[0] == 'r') return {true, parse_whole(word.substr(1), 0, kMost)};
  return {false, parse_whole(word, least)};
}

template <class Kind>
Kind parse_kind(const std::map<std::string_view, Kind>& kinds, std::string_view word) {
  auto found = kinds.find(word);
  if (found == kinds.end()) {
    std::string names;
    for (const auto& [name, _] : kinds) names += (names.empty() ? "" : ", ") + std::string(name);
    misplaced(word, "one of " + names);
  }
  return found->second;
}

std::vector<uint8_t> parse_hex(std::string_view text) {
  std::vector<uint8_t> bytes;
  if (text == "-") return bytes;
  for (size_t i = 0; i < text.size(); i += 2)
    bytes.push_back(parse_number<uint8_t>(text.substr(i, 2), "two hexadecimal digits a byte", 16));
  if (text.size() % 2) misplaced(text, "two hexadecimal digits a byte");
  return bytes;
}

// Numbers with commas between them.
std::vector<int64_t> parse_numbers(std::string_view word) {
  std::vector<int64_t> numbers;
  if (word == "-") return numbers;
  for (;;) {
    size_t end = std::min(word.find(','), word.size());
    numbers.push_back(parse_whole(word.substr(0, end), 0));
    if (end == word.size()) return numbers;
    word.remove_prefix(end + 1);
  }
}

// The text that a word stands for: %XX is a byte, a lone % the empty text.
std::string unquoted(std::string_view word) {
  std::string text;
  if (word == "%") return text;
  for (size_t i = 0; i < word.size(); ++i) {
    if (word[i] != '%') {
      text += word[i];
      continue;
    }
    if (word.size() - i < 3) misplaced(word, "a text whose every % has two digits");
    text += static_cast<char>(
        parse_number<uint8_t>(word.substr(i + 1, 2), "two hexadecimal digits behind a %", 16));
    i += 2;
  }
  return text;
}

// The words of a line, each of which must be there.
class Words {
 public:
  explicit Words(std::string_view line) : left_(line) {}

  bool more() {
    left_.remove_prefix(std::min(left_.find_first_not_of(' '), left_.size()));
    return !left_.empty();
  }
  std::string_view word() {
    if (!more()) throw Error("ends early");
    std::string_view found = left_.substr(0, left_.find(' '));
    left_.remove_prefix(found.size());
    return found;
  }
  std::string text() { return unquoted(word()); }
  std::string text_or_none() {
    std::string_view found = word();
    return found == "-" ? "" : unquoted(found);
  }
  std::vector<std::string> rest() {
    std::vector<std::string> words;
    while (more()) words.push_back(text());
    return words;
  }

 private:
  std::string_view left_;
};

// Reads line after line; each kind of line has a function.
class Reader {
 public:
  void line(std::string_view text) {
    static const std::map<std::string_view, void (Reader::*)(Words&)> kinds = {
        {"machine", &Reader::machine},   {"features", &Reader::features},
        {"weights", &Reader::weights},   {"kernels", &Reader::kernels},
        {"metadata", &Reader::metadata}, {"function", &Reader::function},
        {"runtime", &Reader::runtime},   {"layer", &Reader::layer},
        {"size", &Reader::size},         {"let", &Reader::let},
        {"value", &Reader::value},       {"inputs", &Reader::inputs},
        {"output", &Reader::output},     {"outputs", &Reader::outputs},
        {"call", &Reader::call}};
    Words words(text);
    (this->*parse_kind(kinds, words.word()))(words);
    if (words.more()) throw Error("holds more than belongs there: " + words.text());
  }

  Plan finish() {
    if (plan_.machine.empty()) throw Error("there is no line machine");
    if (plan_.weights.size < 0 || plan_.kernels.size < 0)
      throw Error("there is no line weights or no line kernels");
    for (const auto& [_, one] : plan_.functions) one.check(plan_.weights.size, plan_.layers.size());
    return std::move(plan_);
  }

 private:
  Function& current() {
    if (!function_) throw Error("stands outside of a function");
    return *function_;
  }
  static void once(bool first) {
    if (!first) throw Error("says again what an earlier line has said");
  }

  void machine(Words& words) {
    once(plan_.machine.empty());
    plan_.machine = words.text();
  }
  void features(Words& words) {
    once(plan_.features.empty());
    plan_.features = words.rest();
  }
  void weights(Words& words) { content(plan_.weights, words); }
  void kernels(Words& words) { content(plan_.kernels, words); }
  static void content(Content& content, Words& words) {
    once(content.size < 0);
    content.size = parse_whole(words.word(), 0);
    content.crc = parse_number<uint32_t>(words.word(), "a checksum of 32 bits", 16);
  }
  void runtime(Words& words) {
    once(plan_.runtime.empty());
    plan_.runtime = words.rest();
  }
  void layer(Words& words) {
    int64_t next = static_cast<int64_t>(plan_.layers.size());
    parse_whole(words.word(), next, next);
    Layer& layer = plan_.layers.emplace_back();
    for (std::string* one : {&layer.name, &layer.kind, &layer.shape, &layer.bits, &layer.activation,
                             &layer.kernel, &layer.schedule, &layer.origin, &layer.use})
      *one = words.text();
    layer.parameters = words.rest();
  }
  void metadata(Words& words) {
    auto [entry, first] = plan_.metadata.try_emplace(words.text());
    once(first);
    entry->second = words.rest();
  }
  void function(Words& words) {
    std::string name = words.text();
    auto [entry, first] = plan_.functions.try_emplace(name);
    once(first);
    function_ = &entry->second;
    function_->name = name;
    function_->registers = parse_whole(words.word(), 0, kMost);
    function_->slots = parse_whole(words.word(), 0, kMost);
  }

  void next_register(Words& words) {
    int64_t next = static_cast<int64_t>(current().lets.size());
    parse_whole(words.word(), next, next);
  }
  void size(Words& words) {
    next_register(words);
    Let& let = current().lets.emplace_back();
    let.input = parse_whole(words.word(), 0);
    let.axis = parse_whole(words.word(), 0);
    let.least = parse_whole(words.word(), 0);
    let.most = parse_whole(words.word(), -1);
    let.name = words.text();
  }
  void let(Words& words) {
    static const std::map<std::string_view, Let::Kind> kinds = {
        {"add", Let::kAdd},  {"sub", Let::kSub},      {"mul", Let::kMul}, {"div", Let::kDiv},
        {"mod", Let::kMod},  {"min", Let::kMin},      {"max", Let::kMax}, {"lt", Let::kLess},
        {"eq", Let::kEqual}, {"select", Let::kSelect}};
    next_register(words);
    Let& let = current().lets.emplace_back();
    let.kind = parse_kind(kinds, words.word());
    let.left = parse_size(words.word(), INT64_MIN);
    let.right = parse_size(words.word(), INT64_MIN);
    if (let.kind == Let::kSelect) let.otherwise = parse_size(words.word(), INT64_MIN);
  }
  void value(Words& words) {
    static const std::map<std::string_view, Value::Kind> kinds = {
        {"input", Value::kInput},       {"weight", Value::kWeight},
        {"constant", Value::kConstant}, {"temporary", Value::kTemporary},
        {"output", Value::kOutput},     {"view", Value::kView}};
    int64_t next = static_cast<int64_t>(current().values.size());
    parse_whole(words.word(), next, next);
    Value& value = current().values.emplace_back();
    value.kind = parse_kind(kinds, words.word());
    value.type = Type::of(words.text());
    if (value.kind == Value::kConstant) value.bytes = parse_hex(words.word());
    else value.where = parse_whole(words.word(), 0);
    value.name = words.text_or_none();
    while (words.more()) value.shape.push_back(parse_size(words.word(), 0));
  }
  void inputs(Words& words) { numbers(current().inputs, words); }
  void output(Words& words) {  // the only one, returned bare
    once(current().outputs.empty());
    current().outputs.push_back(parse_whole(words.word(), 0));
  }
  void outputs(Words& words) { numbers(current().outputs, words); }
  static void numbers(std::vector<int64_t>& numbers, Words& words) {
    once(numbers.empty());
    while (words.more()) numbers.push_back(parse_whole(words.word(), 0));
  }
  void call(Words& words) {
    Call& call = current().calls.emplace_back();
    call.kernel = words.text();
    call.layer = words.text_or_none();
    call.layers = parse_numbers(words.word());
    while (words.more()) call.arguments.push_back(argument(words.word()));
  }
  static Argument argument(std::string_view word) {
    if (word[0] == '=') return {Argument::kSize, 0, parse_size(word.substr(1), INT64_MIN)};
    if (word[0] == '>') return {Argument::kWritten, parse_whole(word.substr(1), 0), {}};
    return {Argument::kRead, parse_whole(word, 0), {}};
  }

  Plan plan_;
  Function* function_ = nullptr;
};

Plan parse(std::string_view text) {
  Reader reader;
  size_t number = 2;  // behind the line with the version
  for (size_t at = 0, end; at < text.size(); at = end + 1, ++number) {
    end = std::min(text.find('\n', at), text.size());
    try {
      if (end > at) reader.line(text.substr(at, end - at));
    } catch (const Error& problem) {
      throw Error("line " + std::to_string(number) + " " + problem.what());
    }
  }
  return reader.finish();
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
  throw Error("has the dtype " + name.substr(0, kMostShown) + ", which nobody knows");
}

Plan Plan::read(const std::string& path) {
  std::error_code problem;
  std::ifstream file;
  if (std::filesystem::is_regular_file(path, problem)) file.open(path, std::ios::binary);
  if (!file.is_open())
    throw Error(path + " cannot be read; give the folder that compile --bundle wrote");
  std::ostringstream whole;
  whole << file.rdbuf();
  std::string text = whole.str();
  if (text.compare(0, kFirstLine.size(), kFirstLine) != 0)
    throw Error(path + " is not a plan of this version; compile the model again");
  size_t end = text.rfind(kChecksum);
  if (end == std::string::npos || text.substr(end + kChecksum.size()) != checksum(text, end) + "\n")
    throw Error(path + " is damaged; copy the whole folder again");
  try {
    return parse(std::string_view(text).substr(kFirstLine.size(), end - kFirstLine.size()));
  } catch (const Error& problem) {
    throw Error(path + " cannot be understood (" + problem.what() + "); compile the model again");
  }
}

}  // namespace gq
