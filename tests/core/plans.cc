// Bundles whose plans were altered with care, their checksums made right: opened, called and spoken
// to. What is refused is well; what is accepted must do no harm, which the sanitizers watch. What
// led to code that had not run before is altered further.
//
//   plans WORK FIRST LAST BUNDLE    the seeds from FIRST up to LAST, that one left out
//
// The folder WORK is told the seed and the plan of each case.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <new>
#include <sstream>
#include <stdexcept>

#include "chance.h"
#include "coverage.h"
#include "plan/crc32.h"
#include "run/model.h"
#include "speech/speech.h"

namespace {

using Lines = std::vector<std::string>;

constexpr int kSeconds = 60;             // after which a case hangs
constexpr int64_t kMostBytes = 1 << 20;  // of an input
constexpr int kSamples = 4000;

Lines split(const std::string& text, char separator) {
  Lines parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

// Words that mean something in other places, and numbers at which something ends.
const Lines kWords = split(
    "0 1 -1 2 20 63 64 65 160 512 513 1048576 2147483647 4294967296 9223372036854775807 "
    "-9223372036854775808 9223372036854775808 0x10 1e300 nan inf -700 r0 r1 r2 r99 - =r0 =5 >1 >30 "
    "x input weight constant temporary output view float32 float64 int8 uint8 int64 bool lstm "
    "_library_ctx",
    ' ');
const std::vector<unsigned long long> kSteps = {1, 64, 1ull << 36, -1ull, -64ull};
const Lines kOperators = {"add", "sub", "mul", "div", "mod", "min", "max", "lt", "eq", "select"};

std::string joined(const Lines& parts, char separator) {
  std::string text;
  for (const auto& part : parts) text += (text.empty() ? "" : std::string(1, separator)) + part;
  return text;
}

// As gq_tvm.plan.text seals it.
std::string sealed(const std::string& text) {
  char line[32];
  std::snprintf(line, sizeof line, "checksum %08x\n",
                static_cast<unsigned>(gq::crc32(text.data(), text.size())));
  return text + line;
}

// What another line of the same kind says in that place: seldom right, often plausible.
std::string borrowed(const Lines& lines, const Lines& words, size_t place, Chance& chance) {
  Lines found;
  for (const auto& line : lines) {
    Lines others = split(line, ' ');
    if (others[0] == words[0] && place < others.size()) found.push_back(others[place]);
  }
  return found.empty() ? words[place] : chance.of(found);
}

void alter_word(Lines& lines, size_t number, Chance& chance) {
  Lines words = split(lines[number], ' ');
  auto place = static_cast<std::ptrdiff_t>(chance.below(words.size()));
  std::string& word = words[static_cast<size_t>(place)];
  switch (chance.below(9)) {
    case 8:  // a letter: percent-encodings, numbers that begin well
      if (!word.empty()) word[chance.below(word.size())] = static_cast<char>(chance.below(256));
      break;
    case 0:
      words.erase(words.begin() + place);
      break;
    case 1:
      words.insert(words.begin() + place, chance.of(kWords));
      break;
    case 2:
      std::swap(word, words[chance.below(words.size())]);
      break;
    case 3: {
      auto value = static_cast<unsigned long long>(std::strtoll(word.c_str(), nullptr, 10));
      word = std::to_string(static_cast<long long>(value + chance.of(kSteps)));
      break;
    }
    case 4:
      word = chance.of(kWords);
      break;
    default:
      word = borrowed(lines, words, static_cast<size_t>(place), chance);
  }
  if (words.empty()) words.push_back("x");
  lines[number] = joined(words, ' ');
}

// One more size that a function computes, of which its line is told.
void compute_size(Lines& lines, size_t number, Chance& chance) {
  Lines words = split(lines[number], ' ');
  if (words[0] != "function" || words.size() != 4) return alter_word(lines, number, chance);
  int64_t registers = std::strtoll(words[2].c_str(), nullptr, 10);
  words[2] = std::to_string(registers + 1);
  lines[number] = joined(words, ' ');
  auto behind = std::clamp<int64_t>(static_cast<int64_t>(number) + 1 + registers, 1,
                                    static_cast<int64_t>(lines.size()));
  Lines let = {"let", std::to_string(registers), chance.of(kOperators), chance.of(kWords),
               chance.of(kWords)};
  if (let[2] == "select") let.push_back(chance.of(kWords));
  lines.insert(lines.begin() + behind, joined(let, ' '));
}

// A line of any kind, each as often as another; the first is none, it says the version.
size_t any_line(const Lines& lines, Chance& chance) {
  std::map<std::string, std::vector<size_t>> numbers;
  for (size_t i = 1; i < lines.size(); ++i) numbers[split(lines[i], ' ')[0]].push_back(i);
  auto kind = numbers.begin();
  std::advance(kind, chance.below(numbers.size()));
  return chance.of(kind->second);
}

void alter(Lines& lines, Chance& chance) {
  auto any = [&] { return 1 + chance.below(lines.size() - 1); };
  auto at = [&](size_t number) { return lines.begin() + static_cast<std::ptrdiff_t>(number); };
  size_t number = chance.below(2) ? any() : any_line(lines, chance);
  switch (chance.below(10)) {
    case 0:
      lines.erase(at(number));
      break;
    case 1:
      lines.insert(at(any()), std::string(lines[number]));
      break;
    case 2:
      std::swap(lines[number], lines[any()]);
      break;
    case 3: {
      auto function = std::find_if(at(number), lines.end(), [](const std::string& line) {
        return line.compare(0, 9, "function ") == 0;
      });
      if (function != lines.end()) number = static_cast<size_t>(function - lines.begin());
      compute_size(lines, number, chance);
      break;
    }
    default:
      alter_word(lines, number, chance);
  }
}

struct Counts {
  long refused = 0, answered = 0, heard = 0;
};

// Thrown are what a caller of gq.h is told in a sentence, and nothing else.
template <class Body>
void tried(Counts& counts, Body body) {
  try {
    body();
  } catch (const gq::Error&) {
    ++counts.refused;
  } catch (const std::bad_alloc&) {
    ++counts.refused;
  } catch (const std::length_error&) {
    ++counts.refused;
  }
}

// Inputs of the sizes that the plan asks for, if they are not too large.
bool make_inputs(const gq::Function& plan, Chance& chance, std::vector<std::vector<char>>& data,
                 std::vector<gq::Tensor>& tensors) {
  std::vector<int64_t> registers(plan.lets.size(), 1);
  for (size_t i = 0; i < plan.lets.size(); ++i)
    if (plan.lets[i].kind == gq::Let::kInput)
      registers[i] =
          std::max<int64_t>(plan.lets[i].least, 1 + static_cast<int64_t>(chance.below(4)));
  for (size_t i = 0; i < plan.inputs.size(); ++i) {
    const gq::Value& value = plan.input(i);
    gq::Tensor tensor{value.type, {}, nullptr};
    int64_t bytes = value.type.bytes();
    for (const gq::Size& size : value.shape) {
      tensor.shape.push_back(size.of(registers));
      if (__builtin_mul_overflow(bytes, tensor.shape.back(), &bytes) || bytes > kMostBytes)
        return false;
    }
    std::vector<char>& one = data.emplace_back(static_cast<size_t>(bytes));
    for (char& byte : one) byte = static_cast<char>(chance.below(60));
    for (size_t at = 0; value.type.name == "float32" && at < one.size(); at += sizeof(float)) {
      float number = static_cast<float>(chance.below(100)) / 100;
      std::memcpy(&one[at], &number, sizeof number);
    }
    tensor.data = one.data();
    tensors.push_back(tensor);
  }
  return true;
}

// Look at every byte, so that a sanitizer sees where it lies.
void look(const gq::Tensor& tensor) {
  int64_t bytes = tensor.type.bytes();
  for (int64_t size : tensor.shape) bytes *= size;
  volatile char seen = 0;
  for (int64_t i = 0; i < bytes; ++i) seen = static_cast<const char*>(tensor.data)[i];
  static_cast<void>(seen);
}

void call(gq::Model& model, const gq::Function& plan, Chance& chance, Counts& counts) {
  for (int round = 0; round < 2; ++round) {  // memory is kept from call to call
    std::vector<std::vector<char>> data;
    std::vector<gq::Tensor> inputs;
    gq::Callable& callable = model.function(plan.name);
    if (!make_inputs(plan, chance, data, inputs)) return;
    for (const gq::Tensor& output : callable(inputs)) look(output);
    ++counts.answered;
  }
}

void speak(gq::Model& model, Counts& counts) {
  gq::Recogniser recogniser(model);
  gq::Stream stream(recogniser);
  std::vector<float> samples;
  for (int i = 0; i < kSamples; ++i)
    samples.push_back(0.3f * std::sin(0.05f * static_cast<float>(i)));
  stream.accept(samples.data(), kSamples);
  stream.finish();
  ++counts.heard;
}

void use(const std::string& work, const Lines& lines, Chance& chance, Counts& counts) {
  write(work + "/plan.txt", sealed(joined(lines, '\n') + "\n"));
  alarm(kSeconds);
  tried(counts, [&] {
    gq::Model model(work, 1);
    for (const auto& [_, plan] : model.plan().functions)
      tried(counts, [&, &plan = plan] { call(model, plan, chance, counts); });
    tried(counts, [&] { speak(model, counts); });
  });
}

}  // namespace

int main(int, char** words) {
  std::string work = words[1], bundle = words[4];
  long first = std::atol(words[2]), last = std::atol(words[3]);
  write(work + "/seed", words[2]);
  for (const char* name : {"/kernels.so", "/weights.safetensors"})
    if (symlink((bundle + name).c_str(), (work + name).c_str()))
      return std::perror("a file of the bundle cannot be linked"), 2;
  Lines whole = split(content(bundle + "/plan.txt"), '\n');
  whole.pop_back();  // the checksum
  Counts counts;
  Chance any(0);
  use(work, whole, any, counts);
  if (counts.refused) return std::puts("the plan as it was is refused"), 2;
  std::vector<Lines> pool = {whole};
  coverage::news();
  for (long seed = first; seed < last; ++seed) {
    write(work + "/seed", std::to_string(seed));
    Chance chance(static_cast<uint64_t>(seed));
    Lines lines = chance.below(2) ? whole : chance.of(pool);
    for (size_t i = 0, changes = 1 + chance.below(3); i < changes; ++i) alter(lines, chance);
    use(work, lines, chance, counts);
    if (coverage::news()) pool.push_back(lines);
  }
  std::printf(
      "%ld plans: %ld refusals, %ld calls and %ld recordings answered; %zu led to new code\n",
      last - first, counts.refused, counts.answered, counts.heard, pool.size() - 1);
}
