// gq-run: recordings to text, or arrays to arrays, with the bundle this program lies in.
#include <libgen.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <new>
#include <stdexcept>

#include "program/npy.h"
#include "program/profile.h"
#include "program/transcribe.h"
#include "run/model.h"

namespace {

const char* const kUsage =
    "usage: gq-run [--threads N] [--profile] [--bundle FOLDER] WAV...\n"
    "       gq-run [options] --function NAME [--repeat N] [--input NAME=FILE.npy]...\n"
    "              [--output FILE.npy]...\n"
    "\n"
    "Transcribes recordings (a line each, an empty one for a recording that cannot be read), or\n"
    "calls a function of the model on arrays; outputs are written in their order. The model is "
    "the\n"
    "one in this program's folder unless told otherwise. --profile adds times and memory on\n"
    "standard error, --list names functions and kernels. The exit code is 2 if anything failed.\n";

double seconds() {
  auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

struct Options {
  std::string bundle, function;
  int threads = 1, repeat = 1;
  bool profile = false, list = false, help = false;
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
    else if (word == "--help" || word == "-h") options.help = true;
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
  if (options.function.empty() == options.recordings.empty() && !options.list && !options.help)
    throw Misuse("give either recordings or --function");
  return options;
}

// Write a text at once; throws where it cannot be, lest it is lost without a word.
void print(const std::string& text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && !std::fflush(stdout))
    return;
  throw gq::Error(std::string("standard output cannot be written (") + std::strerror(errno) +
                  "); send it elsewhere");
}

void complain(const std::string& problem) { std::fprintf(stderr, "error: %s\n", problem.c_str()); }

void report(const std::string& path, const gq::Transcript& result) {
  std::fprintf(stderr,
               "%s: %.2f s of audio in %.1f ms (reading and sample rate %.1f ms), real-time factor "
               "%.4f; slowest chunk %.2f ms\n",
               path.c_str(), result.audio, 1e3 * result.taken, 1e3 * result.reading,
               result.taken / result.audio, 1e3 * result.slowest);
}

// A recording that cannot be read costs only itself. Returns the exit code.
int transcribe(gq::Model& model, const Options& options) {
  gq::Recogniser recogniser(model);
  gq::Stream stream(recogniser);
  int code = 0;
  for (const auto& path : options.recordings) {
    gq::Transcript result;
    try {
      result = gq::transcribe(path, recogniser, stream);
      if (result.channels_cancel)
        std::fprintf(stderr, "note: the channels of %s cancel each other; give one of them\n",
                     path.c_str());
      if (options.profile) report(path, result);
    } catch (const gq::Error& problem) {
      complain(problem.what());
      code = 2;
    }
    print(result.text + "\n");
  }
  return code;
}

int call(gq::Model& model, const Options& options) {
  gq::Callable& function = model.function(options.function);
  const gq::Function& plan = function.plan();
  std::map<std::string, std::string> left = options.inputs;
  std::vector<gq::Array> arrays;
  std::vector<gq::Tensor> inputs;
  for (size_t i = 0; i < plan.inputs.size(); ++i) {
    const std::string& name = plan.input(i).name;
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
  return 0;
}

int list(const gq::Model& model) {
  std::string text;
  for (const auto& [name, function] : model.plan().functions) {
    text += name + "\n";
    for (size_t i = 0; i < function.inputs.size(); ++i)
      text += "  input " + function.input(i).name + " " + function.input(i).type.name + "\n";
    for (const auto& call : function.calls) text += "  kernel " + call.kernel + "\n";
  }
  print(text);
  return 0;
}

int run(const Options& options) {
  if (options.help) {
    print(kUsage);
    return 0;
  }
  double begin = seconds();
  gq::Model model(options.bundle, options.threads);
  if (options.profile) {
    for (const auto& [name, _] : model.plan().functions) model.function(name).profile(true);
    std::fprintf(stderr, "ready after %.1f ms\n", 1e3 * (seconds() - begin));
  }
  int code = options.list               ? list(model)
             : options.function.empty() ? transcribe(model, options)
                                        : call(model, options);
  if (options.profile) std::fputs(gq::profile(model).c_str(), stderr);
  return code;
}

}  // namespace

int main(int count, char** arguments) {
  try {
    return run(parse(count, arguments));
  } catch (const Misuse& problem) {
    complain(problem.what());
    std::fputs(kUsage, stderr);
  } catch (const std::bad_alloc&) {
    complain("there is not enough memory");
  } catch (const std::length_error&) {
    complain("there is not enough memory");
  } catch (const std::exception& problem) {
    complain(problem.what());
  }
  return 2;
}
