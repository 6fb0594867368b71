#include "speech/speech.h"

#include <cmath>

#include "speech/metadata.h"
#include "speech/samples.h"

namespace gq {

Recogniser::Recogniser(Model& given) : model(given) {
  task = model.metadata("task").front();
  Decoder::check(task);
  Metadata metadata(model);
  features = metadata.features();
  chunk_frames = metadata.chunk_frames();
  tokens = metadata.tokens();
  auto silence = [&](const char* name) {
    double samples = features.sample_rate * metadata.silence_ms(name) / 1000;
    return std::vector<float>(static_cast<size_t>(std::lround(samples)));
  };
  lead = silence("lead_ms");
  tail = silence("tail_ms");
}

Stream::Stream(Recogniser& recogniser) : recogniser_(recogniser) { restart(); }

void Stream::restart() {
  finished_ = false;
  features_ = std::make_unique<FeatureStream>(recogniser_.features);
  waiting_.clear();
  text_.clear();
  spaces_ = 0;
  decoder_ = Decoder::of(recogniser_.task, recogniser_.model, recogniser_.tokens.size());
  hear(recogniser_.lead.data(), static_cast<int64_t>(recogniser_.lead.size()));
}

const std::string& Stream::accept(const float* samples, int64_t count) {
  int64_t damaged = first_damaged(samples, count);
  if (damaged < count)
    throw Error("the samples hold " + spelled_sample(samples[damaged]) +
                ", audio lies in [-1, 1]; check the recording");
  if (finished_) restart();
  hear(samples, count);
  return text_;
}

const std::string& Stream::finish() {
  if (finished_) restart();
  hear(recogniser_.tail.data(), static_cast<int64_t>(recogniser_.tail.size()));
  decode(true);
  finished_ = true;
  return text_;
}

void Stream::hear(const float* samples, int64_t count) {
  features_->accept(samples, count, waiting_);
  decode(false);
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
  for (size_t token : tokens) append(recogniser_.tokens[token]);
}

// Spaces at either end of a text are not shown, and one at its end may yet come to lie within.
void Stream::append(const std::string& token) {
  size_t first = token.find_first_not_of(' ');
  if (first == std::string::npos) {
    spaces_ += token.size();
    return;
  }
  size_t last = token.find_last_not_of(' ');
  if (!text_.empty()) text_.append(spaces_ + first, ' ');
  text_.append(token, first, last - first + 1);
  spaces_ = token.size() - 1 - last;
}

}  // namespace gq
