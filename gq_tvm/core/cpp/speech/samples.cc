#include "speech/samples.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace gq {

int64_t first_damaged(const float* samples, int64_t count) {
  auto good = [](float sample) { return std::abs(sample) <= kLoudest; };  // false for NaN
  constexpr int64_t kPiece = 256;  // at a time, without a branch for each
  int64_t at = 0;
  for (; at + kPiece <= count; at += kPiece) {
    bool all = true;
    for (int64_t i = at; i < at + kPiece; ++i) all &= good(samples[i]);
    if (!all) break;
  }
  return std::find_if_not(samples + at, samples + count, good) - samples;
}

std::string spelled_sample(float sample) {
  if (std::isnan(sample)) return "NaN";
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", static_cast<double>(sample));
  return text;
}

}  // namespace gq
