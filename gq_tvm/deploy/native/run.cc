// gq-run: recordings to text, or arrays to arrays, with the bundle this program lies in.
#include <libgen.h>
#include <unistd.h>
#include <chrono>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <map>
#include <new>

#include "files.h"
#include "model.h"
#include "speech.h"

namespace {

const char* const kUsage =
    "usage: gq-run [--threads N] [--profile] [--bundle FOLDER] WAV...\n"
    "       gq-run [options] --function NAME [--repeat N] [--input NAME=FILE.npy]...\n"
    "              [--output FILE.npy]...\n"
    "\n"
    "Transcribes recordings (a line each), or calls a function of the model on arrays; outputs "
    "are\n"
    "written in their order. The model is the one in this program's folder unless told otherwise.\n"
    "--profile adds times and memory on standard error, --list names functions and kernels.\n";

double seconds() {
  auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

struct Options {
  std::string bundle, function;
  int threads = 1, repeat = 1;
  bool profile = false, list = false;
  std::map<std::string, std::string> inputs;
  std::vector<std::string> outputs, recordings;
};

struct Misuse : std::runtime_error {
  using std::runtime_error::runtime_error;
};

int positive(const std::string& option, const std::string& text) {
  char* end = nullptr;
  long value = std::strtol(text.c_str(), &end, 10);
  if (text.empty() || *end || value < 1 || value > 1000000)
    throw Misuse(option + " takes a whole number from 1 up, got " + text);
  return static_cast<int>(value);
}

std::string own_folder() {
  char path[PATH_MAX] = {};
  if (readlink("/proc/self/exe", path, sizeof path - 1) < 0) return ".";
  return dirname(path);
}

Options parse(int count, char** arguments) {
  Options options;
  for (int i = 1; i < count; ++i) {
    std::string word = arguments[i];
    auto next = [&]() -> std::string {
      if (++i == count) throw Misuse(word + " needs a value");
      return arguments[i];
    };
    if (word == "--threads") options.threads = positive(word, next());
    else if (word == "--repeat") options.repeat = positive(word, next());
    else if (word == "--profile") options.profile = true;
    else if (word == "--list") options.list = true;
    else if (word == "--bundle") options.bundle = next();
    else if (word == "--function") options.function = next();
    else if (word == "--output") options.outputs.push_back(next());
    else if (word == "--input") {
      std::string pair = next();
      size_t equals = pair.find('=');
      if (equals == std::string::npos) throw Misuse("--input takes NAME=FILE.npy, got " + pair);
      options.inputs[pair.substr(0, equals)] = pair.substr(equals + 1);
    } else if (word.size() > 1 && word[0] == '-') throw Misuse("there is no option " + word);
    else options.recordings.push_back(word);
  }
  if (options.bundle.empty()) options.bundle = own_folder();
  if (options.function.empty() == options.recordings.empty() && !options.list)
    throw Misuse("give either recordings or --function");
  return options;
}

void report(gq::Model& model) {
  double all = 0;
  for (const auto& [name, _] : model.plan().functions)
    for (const auto& timing : model.function(name).timings()) all += timing.seconds;
  for (const auto& [name, _] : model.plan().functions)
    for (const auto& timing : model.function(name).timings())
      if (timing.calls)
        std::fprintf(stderr, "%-12s %-32s %8lld calls %10.1f us each %5.1f%%\n", name.c_str(),
                     timing.kernel.c_str(), static_cast<long long>(timing.calls),
                     1e6 * timing.seconds / static_cast<double>(timing.calls),
                     100 * timing.seconds / all);
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.compare(0, 6, "VmHWM:") == 0)
      std::fprintf(stderr, "peak memory %ld kB, weights %lld kB\n", std::atol(&line[6]),
                   static_cast<long long>(model.plan().weights_size / 1024));
}

void transcribe(gq::Model& model, const Options& options) {
  gq::Recogniser recogniser(model);
  gq::Stream stream(recogniser);
  int64_t chunk = int64_t{recogniser.chunk_frames} * recogniser.features.stack *
                  recogniser.features.frame_shift();
  for (const auto& path : options.recordings) {
    std::vector<float> samples = gq::read_wav(path, recogniser.features.sample_rate);
    auto size = static_cast<int64_t>(samples.size());
    double begin = seconds(), slowest = 0;
    for (int64_t at = 0; at < size; at += chunk) {
      double start = seconds();
      stream.accept(&samples[static_cast<size_t>(at)], std::min(chunk, size - at));
      slowest = std::max(slowest, seconds() - start);
    }
    std::cout << stream.finish() << std::endl;
    if (!options.profile) continue;
    double taken = seconds() - begin,
           duration = static_cast<double>(size) / recogniser.features.sample_rate;
    std::fprintf(stderr,
                 "%s: %.2f s of audio in %.1f ms, real-time factor %.4f; slowest chunk %.2f ms\n",
                 path.c_str(), duration, 1e3 * taken, taken / duration, 1e3 * slowest);
  }
}

void call(gq::Model& model, const Options& options) {
  gq::Callable& function = model.function(options.function);
  const gq::Function& plan = function.plan();
  std::map<std::string, std::string> left = options.inputs;
  std::vector<gq::Array> arrays;
  std::vector<gq::Tensor> inputs;
  for (int number : plan.inputs) {
    const std::string& name = plan.values[static_cast<size_t>(number)].name;
    auto found = left.find(name);
    if (found == left.end())
      throw gq::Error("input " + name + " is missing; give --input " + name + "=FILE.npy");
    arrays.push_back(gq::read_npy(found->second));
    inputs.push_back(arrays.back().tensor);
    left.erase(found);
  }
  if (!left.empty()) throw gq::Error(plan.name + " has no input " + left.begin()->first);
  if (options.outputs.size() > plan.outputs.size())
    throw gq::Error(plan.name + " has only " + std::to_string(plan.outputs.size()) + " outputs");
  double begin = seconds();
  std::vector<gq::Tensor> outputs;
  for (int i = 0; i < options.repeat; ++i) outputs = function(inputs);
  if (options.profile)
    std::fprintf(stderr, "%s: %.1f us a call\n", plan.name.c_str(),
                 1e6 * (seconds() - begin) / options.repeat);
  for (size_t i = 0; i < options.outputs.size(); ++i) gq::write_npy(options.outputs[i], outputs[i]);
}

void list(gq::Model& model) {
  for (const auto& [name, function] : model.plan().functions) {
    std::cout << name << "\n";
    for (int number : function.inputs) {
      const auto& value = function.values[static_cast<size_t>(number)];
      std::cout << "  input " << value.name << " " << value.type.name << "\n";
    }
    for (const auto& call : function.calls) std::cout << "  kernel " << call.kernel << "\n";
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count > 1 && (std::string(arguments[1]) == "--help" || std::string(arguments[1]) == "-h")) {
    std::fputs(kUsage, stdout);
    return 0;
  }
  try {
    double begin = seconds();
    Options options = parse(count, arguments);
    gq::Model model(options.bundle, options.threads);
    if (options.profile) {
      for (const auto& [name, _] : model.plan().functions) model.function(name).profile(true);
      std::fprintf(stderr, "ready after %.1f ms\n", 1e3 * (seconds() - begin));
    }
    if (options.list) list(model);
    else if (options.function.empty()) transcribe(model, options);
    else call(model, options);
    if (options.profile) report(model);
    return 0;
  } catch (const Misuse& problem) {
    std::fprintf(stderr, "error: %s\n%s", problem.what(), kUsage);
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "error: there is not enough memory\n");
  } catch (const std::exception& problem) {
    std::fprintf(stderr, "error: %s\n", problem.what());
  }
  return 2;
}
