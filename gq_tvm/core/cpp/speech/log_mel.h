// Log-mel features of a growing signal: what gq_tvm.speech.features computes, chunk by chunk.
#pragma once

#include <complex>
#include <cstdint>
#include <vector>

namespace gq {

struct FeatureSettings {
  int sample_rate = 0, bins = 0, stack = 1;
  double frame_length_ms = 0, frame_shift_ms = 0, low_hz = 0, high_hz = 0;
  double quietest = 0, release = 0;
  std::vector<float> mean, deviation;

  int frame_length() const { return static_cast<int>(sample_rate * 0.001 * frame_length_ms); }
  int frame_shift() const { return static_cast<int>(sample_rate * 0.001 * frame_shift_ms); }
  int size() const { return bins * stack; }
};

// Kaldi's filter bank without dither (feature-fbank.cc, feature-window.cc, mel-computations.cc):
// each frame loses its mean, is pre-emphasised, windowed ("povey"), and its power spectrum is
// weighted by triangles on the mel scale.
class LogMel {
 public:
  explicit LogMel(const FeatureSettings& settings);
  // One frame [frame_length] of samples on the scale of 16-bit integers -> [bins].
  void frame(const float* samples, float* energies);

 private:
  struct Triangle {
    size_t first;
    std::vector<float> weights;
  };

  std::vector<float> window_;
  std::vector<Triangle> triangles_;
  std::vector<std::complex<double>> spectrum_, roots_;
};

class FeatureStream {
 public:
  explicit FeatureStream(const FeatureSettings& settings);
  // Samples in [-1, 1] -> whole features [n * size()], appended.
  void accept(const float* samples, int64_t count, std::vector<float>& features);

 private:
  void normalise(float* frame);

  FeatureSettings settings_;
  LogMel log_mel_;
  double level_;
  std::vector<float> samples_, frames_;
};

}  // namespace gq
