#include "speech.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace gq {
namespace {

constexpr double kMost = 1e6;  // of a setting that counts something

Error damaged(const std::string& name) {
  return Error("the plan's " + name + " is damaged; bundle the model again");
}

std::vector<float> numbers(const Model& model, const char* name) {
  std::vector<float> found;
  for (const auto& word : model.metadata(name)) {
    char* end = nullptr;
    found.push_back(std::strtof(word.c_str(), &end));
    if (*end || !std::isfinite(found.back())) throw damaged(name);
  }
  return found;
}

double number(const Model& model, const char* name) {
  const std::string& word = model.metadata(name).front();
  char* end = nullptr;
  double value = std::strtod(word.c_str(), &end);
  if (*end || !std::isfinite(value)) throw damaged(name);
  return value;
}

int whole(const Model& model, const char* name) {
  double value = number(model, name);
  if (value < 1 || value > kMost) throw damaged(name);
  return static_cast<int>(value);
}

// Tokens are written with everything but letters and digits as %XX, an empty one as %.
std::string unquoted(const std::string& word) {
  if (word == "%") return "";
  std::string text;
  for (size_t i = 0; i < word.size(); ++i)
    if (word[i] == '%' && i + 2 < word.size()) {
      text += static_cast<char>(std::strtol(word.substr(i + 1, 2).c_str(), nullptr, 16));
      i += 2;
    } else {
      text += word[i];
    }
  return text;
}

}  // namespace

Recogniser::Recogniser(Model& given) : model(given) {
  task = model.metadata("task").front();
  Decoder::check(task);
  features.sample_rate = whole(model, "sample_rate");
  features.bins = whole(model, "num_mel_bins");
  features.stack = whole(model, "stack");
  features.frame_length_ms = number(model, "frame_length_ms");
  features.frame_shift_ms = number(model, "frame_shift_ms");
  features.low_hz = number(model, "low_hz");
  features.high_hz = number(model, "high_hz");
  features.quietest = number(model, "quietest");
  features.release = number(model, "release");
  features.mean = numbers(model, "mean");
  features.deviation = numbers(model, "deviation");
  chunk_frames = whole(model, "chunk_frames");
  auto bins = static_cast<size_t>(features.bins);
  if (features.mean.size() != bins || features.deviation.size() != bins) throw damaged("mean");
  double longest = kMost / features.sample_rate * 1000;
  if (!(features.frame_length_ms <= longest &&
        features.frame_shift_ms <= features.frame_length_ms) ||
      features.frame_length() < 2 || features.frame_shift() < 1)
    throw damaged("frame_length_ms");
  for (const auto& word : model.metadata("tokens")) tokens.push_back(unquoted(word));
  auto silence = [&](const char* name) {
    double ms = number(model, name);
    if (ms < 0 || ms > 60000) throw damaged(name);
    return std::vector<float>(static_cast<size_t>(std::lround(features.sample_rate * ms / 1000)));
  };
  lead = silence("lead_ms");
  tail = silence("tail_ms");
}

Stream::Stream(Recogniser& recogniser) : recogniser_(recogniser) { restart(); }

void Stream::restart() {
  features_ = std::make_unique<FeatureStream>(recogniser_.features);
  waiting_.clear();
  text_.clear();
  decoder_ = Decoder::of(recogniser_.task, recogniser_.model, recogniser_.tokens.size());
  accept(recogniser_.lead.data(), static_cast<int64_t>(recogniser_.lead.size()));
}

const std::string& Stream::accept(const float* samples, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    if (!std::isfinite(samples[i]))
      throw Error("the samples hold NaN or infinity; check the recording");
  features_->accept(samples, count, waiting_);
  decode(false);
  size_t first = text_.find_first_not_of(' '), last = text_.find_last_not_of(' ');
  shown_ = first == std::string::npos ? "" : text_.substr(first, last - first + 1);
  return shown_;
}

const std::string& Stream::finish() {
  features_->accept(recogniser_.tail.data(), static_cast<int64_t>(recogniser_.tail.size()),
                    waiting_);
  decode(true);
  accept(nullptr, 0);  // brings the text up to date
  std::string whole = shown_;
  restart();
  shown_ = whole;
  return shown_;
}

// Hand whole chunks to the encoder, at the end what is left too.
void Stream::decode(bool all) {
  int64_t size = recogniser_.features.size(), chunk = recogniser_.chunk_frames, at = 0,
          frames = static_cast<int64_t>(waiting_.size()) / size;
  std::vector<size_t> tokens;
  for (; at + chunk <= frames; at += chunk)
    decoder_->accept(waiting_.data() + at * size, chunk, size, tokens);
  if (all) {
    decoder_->accept(waiting_.data() + at * size, frames - at, size, tokens);
    at = frames;
  }
  waiting_.erase(waiting_.begin(), waiting_.begin() + static_cast<std::ptrdiff_t>(at * size));
  for (size_t token : tokens) text_ += recogniser_.tokens[token];
}

}  // namespace gq
