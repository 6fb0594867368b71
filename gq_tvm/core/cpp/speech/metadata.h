// What the plan's metadata says of a recogniser, each value within its range.
#pragma once

#include <string>
#include <vector>

#include "run/model.h"
#include "speech/log_mel.h"

namespace gq {

// Every function throws Error where a value is missing or out of range. The ranges are those of
// gq_tvm.speech, in the same words.
class Metadata {
 public:
  explicit Metadata(const Model& model) : model_(model) {}

  FeatureSettings features() const;
  int chunk_frames() const;
  double silence_ms(const char* name) const;
  std::vector<std::string> tokens() const;

 private:
  double number(const char* name, double least, double most) const;
  int whole(const char* name, int least, int most) const;
  std::vector<float> numbers(const char* name, double least, double most) const;
  void check_together(const FeatureSettings& features) const;

  const Model& model_;
};

}  // namespace gq
