// Speech recognition: features, greedy decoding, text.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "run/model.h"
#include "speech/decoding.h"
#include "speech/log_mel.h"

namespace gq {

// What a recogniser is, from its plan's metadata; throws Error if the model is none.
struct Recogniser {
  explicit Recogniser(Model& model);

  // Samples in the piece a stream hands to the encoder.
  int64_t chunk_samples() const {
    return int64_t{chunk_frames} * features.stack * features.frame_shift();
  }

  Model& model;
  FeatureSettings features;
  std::string task;
  int chunk_frames;
  std::vector<std::string> tokens;
  std::vector<float> lead, tail;  // silence before and after a recording
};

// One recording after the other; the same text however the samples are cut.
class Stream {
 public:
  explicit Stream(Recogniser& recogniser);
  // The text so far; what a call costs does not grow with it.
  const std::string& accept(const float* samples, int64_t count);
  // The whole text; the next samples begin another recording.
  const std::string& finish();
  // Forget what was heard.
  void restart();

 private:
  void hear(const float* samples, int64_t count);
  void decode(bool all);
  void append(const std::string& token);

  Recogniser& recogniser_;
  std::unique_ptr<FeatureStream> features_;
  std::unique_ptr<Decoder> decoder_;
  std::vector<float> waiting_;
  std::string text_;
  size_t spaces_ = 0;  // behind the text, shown once something follows them
  bool finished_ = false;
};

}  // namespace gq
