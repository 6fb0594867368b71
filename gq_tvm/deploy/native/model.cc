#include "model.h"

#include <dlfcn.h>

#include <system_error>

#include "cpu.h"

namespace gq {
namespace {

#if defined(__aarch64__)
constexpr const char* kMachine = "aarch64";
#elif defined(__arm__)
constexpr const char* kMachine = "armhf";
#else
constexpr const char* kMachine = "x86_64";
#endif

// The plan of a folder whose code is for this CPU.
Plan usable_plan(const std::string& folder) {
  Plan plan = Plan::read(folder + "/plan.txt");
  if (plan.machine != kMachine)
    throw Error(folder + " is for " + plan.machine + ", this program is for " + kMachine +
                "; bundle the model for this machine");
  for (const std::string& feature : plan.features)
    if (!cpu_has(feature))
      throw Error("this CPU lacks " + feature + ", which the kernels in " + folder +
                  " use; compile the model for this CPU (--target)");
  return plan;
}

std::string checked(const std::string& path, const Content& content) {
  MappedFile(path, content);
  return path;
}

}  // namespace

Model::Library::Library(const std::string& path)
    : handle(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {
  if (!handle)
    throw Error(std::string("the kernels cannot be loaded (") + dlerror() +
                "); copy the whole bundle again");
}

Model::Library::~Library() { dlclose(handle); }

Model::Model(const std::string& folder, int threads)
    : plan_(usable_plan(folder)),
      weights_(folder + "/weights.safetensors", plan_.weights),
      library_(checked(folder + "/kernels.so", plan_.kernels)) {
  give_hooks(library_.handle);
  try {
    threads_ = make_threads(threads);
  } catch (const std::system_error&) {
    throw Error(std::to_string(threads) + " threads cannot be started; ask for fewer");
  }
}

Callable& Model::function(const std::string& name) {
  auto made = functions_.find(name);
  if (made != functions_.end()) return *made->second;
  auto found = plan_.functions.find(name);
  if (found == plan_.functions.end()) {
    std::string names;
    for (const auto& [known, _] : plan_.functions) names += (names.empty() ? "" : ", ") + known;
    throw Error("there is no function " + name + "; the model has " + names);
  }
  auto callable =
      std::make_unique<Callable>(found->second, library_.handle, weights_.data(), threads_);
  return *functions_.emplace(name, std::move(callable)).first->second;
}

const std::vector<std::string>& Model::metadata(const std::string& name) const {
  auto found = plan_.metadata.find(name);
  if (found == plan_.metadata.end() || found->second.empty())
    throw Error("the model is no speech recogniser (its plan lacks " + name + ")");
  return found->second;
}

}  // namespace gq
