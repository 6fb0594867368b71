#include "speech/metadata.h"

#include <cmath>
#include <cstdlib>

namespace gq {
namespace {

constexpr int kLongestFrame = 32768;  // samples
constexpr size_t kMostShown = 40;     // characters of a word in a sentence

// Without an exponent: 0.000001.
std::string spelled(double bound) {
  std::string text = std::to_string(bound);
  text.erase(text.find_last_not_of('0') + 1);
  if (text.back() == '.') text.pop_back();
  return text;
}

std::string range(double least, double most) {
  return " from " + spelled(least) + " to " + spelled(most);
}

// NaN, which lies in no range, unless the word is a number.
double parsed(const std::string& word) {
  char* end = nullptr;
  double value = std::strtod(word.c_str(), &end);
  return *end ? NAN : value;
}

Error refusal(const std::string& name, const std::string& value, const std::string& rule) {
  return Error("the model's " + name + " is " + value.substr(0, kMostShown) + ", it must be " +
               rule + "; export it again");
}

}  // namespace

FeatureSettings Metadata::features() const {
  FeatureSettings features;
  features.sample_rate = whole("sample_rate", 1000, 768000);
  features.bins = whole("num_mel_bins", 1, 1024);
  features.stack = whole("stack", 1, 64);
  features.frame_length_ms = number("frame_length_ms", 1, 1000);
  features.frame_shift_ms = number("frame_shift_ms", 1, 1000);
  features.low_hz = number("low_hz", 0, 384000);
  features.high_hz = number("high_hz", -384000, 384000);
  features.quietest = number("quietest", -100, 100);
  features.release = number("release", 0, 1000);
  features.mean = numbers("mean", -1000, 1000);
  features.deviation = numbers("deviation", 0.000001, 1000);
  check_together(features);
  return features;
}

int Metadata::chunk_frames() const { return whole("chunk_frames", 1, 512); }

double Metadata::silence_ms(const char* name) const { return number(name, 0, 60000); }

std::vector<std::string> Metadata::tokens() const { return model_.metadata("tokens"); }

double Metadata::number(const char* name, double least, double most) const {
  const std::string& word = model_.metadata(name).front();
  double value = parsed(word);
  if (!(value >= least && value <= most))
    throw refusal(name, word, "a number" + range(least, most));
  return value;
}

int Metadata::whole(const char* name, int least, int most) const {
  const std::string& word = model_.metadata(name).front();
  double value = parsed(word);
  if (!(value >= least && value <= most) || value != std::floor(value))
    throw refusal(name, word, "a whole number" + range(least, most));
  return static_cast<int>(value);
}

std::vector<float> Metadata::numbers(const char* name, double least, double most) const {
  std::vector<float> found;
  for (const auto& word : model_.metadata(name)) {
    double value = parsed(word);
    if (!(value >= least && value <= most))
      throw Error("the model's " + std::string(name) + " holds " + word.substr(0, kMostShown) +
                  ", it must hold numbers" + range(least, most) + "; export it again");
    found.push_back(static_cast<float>(value));
  }
  return found;
}

void Metadata::check_together(const FeatureSettings& features) const {
  auto bins = static_cast<size_t>(features.bins);
  if (features.mean.size() != bins || features.deviation.size() != bins)
    throw Error("the model's feature description has " + std::to_string(features.mean.size()) +
                " means and " + std::to_string(features.deviation.size()) + " deviations for " +
                std::to_string(bins) + " mel bins; export it again");
  auto word = [&](const char* name) { return model_.metadata(name).front(); };
  double length = features.frame_length_ms, shift = features.frame_shift_ms;
  if (shift > length || length > 32 * shift)  // a sample is looked at so often
    throw refusal("frame_shift_ms", word("frame_shift_ms"),
                  "from frame_length_ms / 32 to frame_length_ms");
  int samples = features.frame_length();
  if (samples < 2 || samples > kLongestFrame || features.frame_shift() < 1)
    throw refusal("frame_length_ms", word("frame_length_ms"),
                  "2 to " + std::to_string(kLongestFrame) + " samples");
  double half = features.sample_rate / 2.0;
  double high = features.high_hz > 0 ? features.high_hz : features.high_hz + half;
  if (features.low_hz >= high || high > half)
    throw refusal("high_hz", word("high_hz"), "above low_hz and at most half the sample rate");
}

}  // namespace gq
