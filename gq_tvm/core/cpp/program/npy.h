// NumPy's arrays on disk.
#pragma once

#include <string>
#include <vector>

#include "run/callable.h"

namespace gq {

struct Array {
  Tensor tensor;
  std::vector<char> data;
};

// NumPy's format, version 1 to 3, C order, little-endian.
Array read_npy(const std::string& path);
void write_npy(const std::string& path, const Tensor& tensor);

}  // namespace gq
