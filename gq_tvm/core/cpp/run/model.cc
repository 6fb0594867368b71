#include "run/model.h"

#include <dlfcn.h>
#include <sys/stat.h>

#include <algorithm>
#include <system_error>

#include "run/cpu.h"

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
  if (!plan.runtime.empty())
    throw Error("the kernels in " + folder + " call " + plan.runtime[0] +
                " of TVM's; run the model in Python, where TVM is installed");
  for (const std::string& feature : plan.features)
    if (!cpu_has(feature))
      throw Error("this CPU lacks " + feature + ", which the kernels in " + folder +
                  " use; compile the model for this CPU (--target)");
  return plan;
}

// The path of a file whose content was checked, spelled by its inode. The dynamic linker takes a
// path it has met for the library it loaded from there, even where another has its place since.
std::string spelled_anew(const std::string& folder, const std::string& name,
                         const Content& content) {
  std::string path = folder + "/" + name;
  MappedFile(path, content);
  struct stat about = {};
  if (stat(path.c_str(), &about))
    throw Error(path + " cannot be read; copy the whole folder again");
  std::string way = folder;
  for (auto rest = static_cast<uint64_t>(about.st_ino); rest; rest /= 2)
    way += rest % 2 ? "/." : "//.";
  return way + "/" + name;
}

}  // namespace

Model::Library::Library(const std::string& path)
    : handle(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {
  if (!handle)
    throw Error(std::string("the kernels cannot be loaded (") + dlerror() +
                "); copy the whole folder again");
}

Model::Library::~Library() { dlclose(handle); }

Model::Model(const std::string& folder, int threads)
    : plan_(usable_plan(folder)),
      weights_(folder + "/weights.safetensors", plan_.weights),
      library_(spelled_anew(folder, "kernels.so", plan_.kernels)),
      threads_(pool(threads)) {
  give_hooks(library_.handle);
}

const Threads& Model::pool(int threads) {
  threads = std::min(threads, usable_cpus());
  auto made = pools_.find(threads);
  if (made != pools_.end()) return made->second;
  try {
    return pools_.emplace(threads, make_threads(threads)).first->second;
  } catch (const std::system_error&) {
    throw Error(std::to_string(threads) + " threads cannot be started; ask for fewer");
  }
}

const Function& Model::planned(const std::string& name) const {
  auto found = plan_.functions.find(name);
  if (found != plan_.functions.end()) return found->second;
  std::string names;
  for (const auto& [known, _] : plan_.functions) names += (names.empty() ? "" : ", ") + known;
  throw Error("there is no function " + name + "; the model has " + names);
}

Callable& Model::function(const std::string& name) {
  auto made = functions_.find(name);
  if (made != functions_.end()) return *made->second;
  auto callable =
      std::make_unique<Callable>(planned(name), library_.handle, weights_.data(), threads_);
  return *functions_.emplace(name, std::move(callable)).first->second;
}

std::unique_ptr<Bound> Model::bind(const Function& function, const std::vector<Tensor>& inputs,
                                   std::vector<Tensor>& outputs, int threads) {
  return std::make_unique<Bound>(function, library_.handle, weights_.data(), pool(threads), inputs,
                                 outputs);
}

const std::vector<std::string>& Model::metadata(const std::string& name) const {
  auto found = plan_.metadata.find(name);
  if (found == plan_.metadata.end() || found->second.empty())
    throw Error("the model is no speech recogniser (its plan lacks " + name + ")");
  return found->second;
}

}  // namespace gq
