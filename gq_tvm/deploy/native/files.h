// Recordings (WAV) and arrays (NPY) on disk.
#pragma once

#include <string>
#include <vector>

#include "model.h"

namespace gq {

// Samples in [-1, 1] at `rate`, channels averaged. PCM of 8 to 32 bits and 32-bit floats.
std::vector<float> read_wav(const std::string& path, int rate);

struct Array {
  Tensor tensor;
  std::vector<char> data;
};

// NumPy's format, version 1 to 3, C order, little-endian.
Array read_npy(const std::string& path);
void write_npy(const std::string& path, const Tensor& tensor);

}  // namespace gq
