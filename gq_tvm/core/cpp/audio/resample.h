// Another sample rate for a growing signal.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace gq {

// A windowed sinc, cut off below half of the lower rate (Smith, "Digital Audio Resampling"). Its
// values are computed once: for each place that an output can have between two inputs, or where
// rates have too few divisors in common, for so many places that a line between two will do.
class Resampler {
 public:
  Resampler(int rate, int new_rate);

  // Samples at the one rate -> those at the other that are known by now, appended.
  void accept(const float* samples, size_t count, std::vector<float>& out);
  // The rest, as if silence followed: round(n * new_rate / rate) in all.
  void finish(std::vector<float>& out);

 private:
  void emit(std::vector<float>& out, int64_t most);

  int64_t up_, down_;           // of the rates, without divisors in common
  int64_t places_;              // between two inputs
  size_t taps_;                 // for an output
  std::vector<float> sinc_;     // [places + 1, taps]
  std::vector<float> waiting_;  // inputs that outputs still need
  int64_t taken_ = 0, made_ = 0;
  size_t first_ = 0;   // of waiting: where the next output's taps begin
  int64_t place_ = 0;  // of the next output behind an input, in 1 / up
};

}  // namespace gq
