// Recordings on disk.
#pragma once

#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "plan/plan.h"

namespace gq {

// A WAV file (RIFF or RF64), read piece by piece. Integers of 8, 16, 24 and 32 bits, floats of 32
// and 64, A-law and mu-law. Throws Error where there is none, or a sample is no audio.
class Wav {
 public:
  explicit Wav(const std::string& path);

  int rate() const { return static_cast<int>(format_.rate); }
  // The next samples, channels averaged; none at the end.
  const std::vector<float>& read();
  // Whether averaging left next to nothing of channels that do hold sound.
  bool cancels() const { return mixed_ * 1e6 < apart_; }

 private:
  struct Format {
    int code = 0, channels = 0;
    int64_t rate = 0;  // Hz
    int bits = 0;
  };
  using Decode = float (*)(const char*);

  void read_header();
  void begin_samples(int64_t size);
  bool only_chunks_follow();
  void check_format();
  void check(const float* samples, size_t count) const;
  void mix(size_t frames);
  bool take(char* to, size_t size);
  Error none() const;

  std::string path_;
  std::ifstream file_;
  Format format_;
  Decode decode_ = nullptr;
  int64_t left_ = 0;              // bytes of samples
  int64_t frames_ = 0;            // read so far
  double mixed_ = 0, apart_ = 0;  // energies of what channels give together, and alone
  std::vector<char> bytes_;
  std::vector<float> channels_, samples_;
};

}  // namespace gq
