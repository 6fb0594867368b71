// Speech recognition with an RNN transducer: features, greedy decoding, text.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "log_mel.h"
#include "model.h"

namespace gq {

// What a recogniser is, from its plan's metadata; throws Error if the model is none.
struct Recogniser {
  explicit Recogniser(Model& model);

  Model& model;
  FeatureSettings features;
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
  using State = std::vector<std::vector<float>>;

  void restart();
  void decode(bool all);
  void encode(const float* features, int64_t frames);
  void predict(int64_t token);
  void emit(const float* frame);
  std::vector<Tensor> call(const char* name, Tensor first, State& state);

  Recogniser& recogniser_;
  std::unique_ptr<FeatureStream> features_;
  std::vector<float> waiting_, prediction_;
  State encoder_state_, predictor_state_;
  std::string text_, shown_;
};

}  // namespace gq
