// A loaded bundle.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "run/bound.h"
#include "run/mapped.h"

namespace gq {

class Model {
 public:
  Model(const std::string& folder, int threads);
  Model(const Model&) = delete;

  const Plan& plan() const { return plan_; }
  Callable& function(const std::string& name);
  const Function& planned(const std::string& name) const;
  // Tie a function of the plan to memory, on so many threads; see Bound.
  std::unique_ptr<Bound> bind(const Function& function, const std::vector<Tensor>& inputs,
                              std::vector<Tensor>& outputs, int threads);
  const std::vector<std::string>& metadata(const std::string& name) const;

 private:
  // The kernels, loaded; closed again where a constructor fails.
  struct Library {
    explicit Library(const std::string& path);
    ~Library();
    Library(const Library&) = delete;
    void* handle;
  };

  const Threads& pool(int threads);

  Plan plan_;
  MappedFile weights_;
  Library library_;
  std::map<int, Threads> pools_;  // by number of threads
  const Threads& threads_;
  std::map<std::string, std::unique_ptr<Callable>> functions_;
};

}  // namespace gq
