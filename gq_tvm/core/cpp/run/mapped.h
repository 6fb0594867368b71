// A file of the bundle in memory, checked when it is opened.
#pragma once

#include <string>

#include "plan/plan.h"

namespace gq {

class MappedFile {
 public:
  // Throws Error unless the file can be mapped and holds what the plan says.
  MappedFile(const std::string& path, const Content& content);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;

  const char* data() const { return data_; }

 private:
  char* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace gq
