#include "speech/log_mel.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

namespace gq {
namespace {

constexpr float kFullScale = 32768.0f;  // Kaldi's levels are those of 16-bit integers
constexpr double kFloor = 3.0;          // FLOOR of gq_tvm.speech.features
constexpr float kPreemphasis = 0.97f;
constexpr double kPi = 3.14159265358979323846;

float mel(float hertz) { return 1127.0f * std::log(1.0f + hertz / 700.0f); }

double log_add(double a, double b) {
  double high = std::max(a, b), low = std::min(a, b);
  return high + std::log1p(std::exp(low - high));
}

size_t power_of_two(size_t least) {
  size_t size = 1;
  while (size < least) size *= 2;
  return size;
}

// In place, decimation in time (Cooley and Tukey 1965).
void transform(std::vector<std::complex<double>>& x,
               const std::vector<std::complex<double>>& roots) {
  size_t size = x.size();
  for (size_t i = 1, j = 0; i < size; ++i) {
    size_t bit = size / 2;
    for (; j & bit; bit /= 2) j ^= bit;
    j ^= bit;
    if (i < j) std::swap(x[i], x[j]);
  }
  for (size_t half = 1; half < size; half *= 2)
    for (size_t start = 0; start < size; start += 2 * half)
      for (size_t k = 0; k < half; ++k) {
        auto odd = x[start + half + k] * roots[k * (size / 2 / half)];
        x[start + half + k] = x[start + k] - odd;
        x[start + k] += odd;
      }
}

}  // namespace

LogMel::LogMel(const FeatureSettings& settings) {
  auto length = static_cast<size_t>(settings.frame_length());
  for (size_t i = 0; i < length; ++i) {
    double hann =
        0.5 - 0.5 * std::cos(2 * kPi * static_cast<double>(i) / static_cast<double>(length - 1));
    window_.push_back(static_cast<float>(std::pow(hann, 0.85)));
  }
  size_t size = power_of_two(length);
  spectrum_.resize(size);
  for (size_t k = 0; k < size / 2; ++k)
    roots_.push_back(
        std::polar(1.0, -2 * kPi * static_cast<double>(k) / static_cast<double>(size)));
  auto rate = static_cast<float>(settings.sample_rate);
  auto high_hz = static_cast<float>(settings.high_hz);
  if (high_hz <= 0) high_hz += rate / 2;
  float low = mel(static_cast<float>(settings.low_hz)), width = rate / static_cast<float>(size);
  float step = (mel(high_hz) - low) / static_cast<float>(settings.bins + 1);
  for (int bin = 0; bin < settings.bins; ++bin) {
    float left = low + static_cast<float>(bin) * step, centre = left + step, right = centre + step;
    Triangle triangle{0, {}};
    for (size_t i = 0; i < size / 2; ++i) {
      float at = mel(width * static_cast<float>(i));
      if (at <= left || at >= right) continue;
      if (triangle.weights.empty()) triangle.first = i;
      triangle.weights.push_back(at <= centre ? (at - left) / (centre - left)
                                              : (right - at) / (right - centre));
    }
    triangles_.push_back(triangle);
  }
}

void LogMel::frame(const float* samples, float* energies) {
  size_t length = window_.size();
  double sum = 0;
  for (size_t i = 0; i < length; ++i) sum += samples[i];
  auto mean = static_cast<float>(sum / static_cast<double>(length));
  std::fill(spectrum_.begin(), spectrum_.end(), 0);
  float before = samples[0] - mean;
  for (size_t i = 0; i < length; ++i) {
    float now = samples[i] - mean;
    spectrum_[i] = (now - kPreemphasis * before) * window_[i];
    before = now;
  }
  transform(spectrum_, roots_);
  for (size_t bin = 0; bin < triangles_.size(); ++bin) {
    const Triangle& triangle = triangles_[bin];
    double energy = 0;
    for (size_t i = 0; i < triangle.weights.size(); ++i)
      energy += triangle.weights[i] * std::norm(spectrum_[triangle.first + i]);
    energies[bin] = std::log(std::max(static_cast<float>(energy), FLT_EPSILON));
  }
}

FeatureStream::FeatureStream(const FeatureSettings& settings)
    : settings_(settings), log_mel_(settings), level_(settings.quietest) {}

void FeatureStream::accept(const float* samples, int64_t count, std::vector<float>& features) {
  for (int64_t i = 0; i < count; ++i) samples_.push_back(samples[i] * kFullScale);
  auto length = static_cast<size_t>(settings_.frame_length());
  auto shift = static_cast<size_t>(settings_.frame_shift());
  auto bins = static_cast<size_t>(settings_.bins), size = static_cast<size_t>(settings_.size());
  size_t at = 0;
  for (; at + length <= samples_.size(); at += shift) {
    frames_.resize(frames_.size() + bins);
    float* frame = &frames_[frames_.size() - bins];
    log_mel_.frame(&samples_[at], frame);
    normalise(frame);
  }
  samples_.erase(samples_.begin(), samples_.begin() + static_cast<std::ptrdiff_t>(at));
  auto whole = frames_.begin() + static_cast<std::ptrdiff_t>(frames_.size() / size * size);
  features.insert(features.end(), frames_.begin(), whole);
  frames_.erase(frames_.begin(), whole);
}

// Relative to the level: at once up with the signal, slowly down.
void FeatureStream::normalise(float* frame) {
  double energy = -INFINITY;
  for (int i = 0; i < settings_.bins; ++i) {
    frame[i] = static_cast<float>(log_add(frame[i], kFloor));
    energy = i ? log_add(energy, frame[i]) : frame[i];
  }
  double fall = settings_.release * settings_.frame_shift_ms / 1000;
  level_ = std::max({energy, level_ - fall, settings_.quietest});
  for (int i = 0; i < settings_.bins; ++i) {
    auto number = static_cast<size_t>(i);
    auto relative = static_cast<float>(frame[i] - level_);
    frame[i] = (relative - settings_.mean[number]) * (1 / settings_.deviation[number]);
  }
}

}  // namespace gq
