// A loaded bundle.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "callable.h"
#include "mapped.h"

namespace gq {

class Model {
 public:
  Model(const std::string& folder, int threads);
  Model(const Model&) = delete;

  const Plan& plan() const { return plan_; }
  Callable& function(const std::string& name);
  const std::vector<std::string>& metadata(const std::string& name) const;

 private:
  // The kernels, loaded; closed again where a constructor fails.
  struct Library {
    explicit Library(const std::string& path);
    ~Library();
    Library(const Library&) = delete;
    void* handle;
  };

  Plan plan_;
  MappedFile weights_;
  Library library_;
  Threads threads_;
  std::map<std::string, std::unique_ptr<Callable>> functions_;
};

}  // namespace gq
