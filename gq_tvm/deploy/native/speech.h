// Speech recognition: features, greedy decoding, text.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "decoding.h"
#include "log_mel.h"
#include "model.h"

namespace gq {

// What a recogniser is, from its plan's metadata; throws Error if the model is none.
struct Recogniser {
  explicit Recogniser(Model& model);

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
  const std::string& accept(const float* samples, int64_t count);
  const std::string& finish();

 private:
  void restart();
  void decode(bool all);

  Recogniser& recogniser_;
  std::unique_ptr<FeatureStream> features_;
  std::unique_ptr<Decoder> decoder_;
  std::vector<float> waiting_;
  std::string text_, shown_;
};

}  // namespace gq
