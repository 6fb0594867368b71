#include "audio/resample.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace gq {
namespace {

constexpr double kPi = 3.14159265358979323846;
constexpr int kCrossings = 24;          // of the sinc on either side
constexpr int64_t kMostValues = 65536;  // of a table with every place in it
constexpr int64_t kPlaces = 1024;       // between two crossings, where a line is drawn
constexpr size_t kLanes = 16;           // sums at a time, for vector instructions

double windowed_sinc(double t, double cut) {
  double reach = kCrossings / cut, u = kPi * t * cut;
  if (std::abs(t) > reach) return 0;
  double sinc = std::abs(u) < 1e-9 ? 1.0 : std::sin(u) / u;
  return cut * sinc * (0.5 + 0.5 * std::cos(kPi * t / reach));
}

// `count` is a multiple of kLanes.
float dot(const float* a, const float* b, size_t count) {
  float sums[kLanes] = {};
  for (size_t i = 0; i < count; i += kLanes)
    for (size_t lane = 0; lane < kLanes; ++lane) sums[lane] += a[i + lane] * b[i + lane];
  return std::accumulate(sums, sums + kLanes, 0.0f);
}

}  // namespace

Resampler::Resampler(int rate, int new_rate) {
  int64_t common = std::gcd(rate, new_rate);
  up_ = new_rate / common;
  down_ = rate / common;
  double cut = std::min(1.0, static_cast<double>(new_rate) / rate);
  auto half = static_cast<int64_t>(kCrossings / cut) + 1;
  taps_ = (static_cast<size_t>(2 * half) + kLanes - 1) / kLanes * kLanes;
  bool every = (up_ + 1) * static_cast<int64_t>(taps_) <= kMostValues;
  places_ = every ? up_ : static_cast<int64_t>(std::ceil(kPlaces * cut));
  for (int64_t place = 0; place <= places_; ++place)
    for (size_t tap = 0; tap < taps_; ++tap)
      sinc_.push_back(static_cast<float>(
          windowed_sinc(static_cast<double>(place) / static_cast<double>(places_) +
                            static_cast<double>(half - 1) - static_cast<double>(tap),
                        cut)));
  waiting_.resize(static_cast<size_t>(half - 1));  // silence before the first
}

void Resampler::accept(const float* samples, size_t count, std::vector<float>& out) {
  waiting_.insert(waiting_.end(), samples, samples + count);
  taken_ += static_cast<int64_t>(count);
  emit(out, INT64_MAX);
}

void Resampler::finish(std::vector<float>& out) {
  waiting_.resize(waiting_.size() + taps_);
  emit(out, (2 * taken_ * up_ + down_) / (2 * down_));
}

void Resampler::emit(std::vector<float>& out, int64_t most) {
  for (; made_ < most && first_ + taps_ <= waiting_.size(); ++made_) {
    const float* samples = &waiting_[first_];
    int64_t row = place_ * places_ / up_, over = place_ * places_ % up_;
    const float* sinc = &sinc_[static_cast<size_t>(row) * taps_];
    float value = dot(samples, sinc, taps_);
    if (over) {
      float share = static_cast<float>(over) / static_cast<float>(up_);
      value += share * (dot(samples, sinc + taps_, taps_) - value);
    }
    out.push_back(value);
    place_ += down_;
    first_ += static_cast<size_t>(place_ / up_);
    place_ %= up_;
  }
  auto done = static_cast<std::ptrdiff_t>(std::min(first_, waiting_.size()));
  waiting_.erase(waiting_.begin(), waiting_.begin() + done);
  first_ -= static_cast<size_t>(done);
}

}  // namespace gq
