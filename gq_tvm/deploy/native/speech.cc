#include "speech.h"

#include <algorithm>
#include <cmath>

namespace gq {
namespace {

constexpr int64_t kBlank = 0;
constexpr int64_t kMostFrames = 512;   // MAX_ENCODER_FRAMES of gq_tvm.speech.decoding
constexpr int kMostTokens = 10;        // a frame; a model that never says blank must not hang

double number(const Model& model, const char* name) {
  return std::stod(model.metadata(name).front());
}

std::vector<float> numbers(const Model& model, const char* name) {
  std::vector<float> found;
  for (const auto& word : model.metadata(name)) found.push_back(std::stof(word));
  return found;
}

// Tokens are written with everything but letters and digits as %XX.
std::string unquoted(const std::string& word) {
  std::string text;
  for (size_t i = 0; i < word.size(); ++i)
    if (word[i] == '%' && i + 2 < word.size()) {
      text += static_cast<char>(std::stoi(word.substr(i + 1, 2), nullptr, 16));
      i += 2;
    } else {
      text += word[i];
    }
  return text;
}

std::vector<std::vector<float>> zeros(const Callable& function) {
  std::vector<std::vector<float>> state;
  const Function& plan = function.plan();
  for (size_t i = 1; i < plan.inputs.size(); ++i) {
    size_t size = 1;
    for (const Size& one : plan.values[static_cast<size_t>(plan.inputs[i])].shape)
      size *= static_cast<size_t>(one.value);
    state.emplace_back(size);
  }
  return state;
}

}  // namespace

Recogniser::Recogniser(Model& given) : model(given) {
  if (given.metadata("task").front() != "rnnt")
    throw Error("the model's task is " + given.metadata("task").front() +
                ", only RNN transducers can transcribe");
  features.sample_rate = static_cast<int>(number(model, "sample_rate"));
  features.bins = static_cast<int>(number(model, "num_mel_bins"));
  features.stack = static_cast<int>(number(model, "stack"));
  features.frame_length_ms = number(model, "frame_length_ms");
  features.frame_shift_ms = number(model, "frame_shift_ms");
  features.low_hz = number(model, "low_hz");
  features.high_hz = number(model, "high_hz");
  features.quietest = number(model, "quietest");
  features.release = number(model, "release");
  features.mean = numbers(model, "mean");
  features.deviation = numbers(model, "deviation");
  chunk_frames = static_cast<int>(number(model, "chunk_frames"));
  for (const auto& word : model.metadata("tokens")) tokens.push_back(unquoted(word));
  auto silence = [&](const char* name) {
    return std::vector<float>(
        static_cast<size_t>(std::lround(features.sample_rate * number(model, name) / 1000)));
  };
  lead = silence("lead_ms");
  tail = silence("tail_ms");
}

Stream::Stream(Recogniser& recogniser) : recogniser_(recogniser) { restart(); }

void Stream::restart() {
  features_ = std::make_unique<FeatureStream>(recogniser_.features);
  waiting_.clear();
  text_.clear();
  encoder_state_ = zeros(recogniser_.model.function("encoder"));
  predictor_state_ = zeros(recogniser_.model.function("predictor"));
  predict(kBlank);  // blank stands for the start
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
  features_->accept(recogniser_.tail.data(), static_cast<int64_t>(recogniser_.tail.size()), waiting_);
  decode(true);
  accept(nullptr, 0);  // brings the text up to date
  std::string whole = shown_;
  restart();
  shown_ = whole;
  return shown_;
}

// Hand whole chunks to the encoder, at the end what is left too.
void Stream::decode(bool all) {
  auto size = static_cast<size_t>(recogniser_.features.size());
  size_t frames = waiting_.size() / size, chunk = static_cast<size_t>(recogniser_.chunk_frames), at = 0;
  for (; at + chunk <= frames; at += chunk)
    encode(&waiting_[at * size], static_cast<int64_t>(chunk));
  if (all && at < frames) {
    encode(&waiting_[at * size], static_cast<int64_t>(frames - at));
    at = frames;
  }
  waiting_.erase(waiting_.begin(), waiting_.begin() + static_cast<std::ptrdiff_t>(at * size));
}

void Stream::encode(const float* features, int64_t frames) {
  for (int64_t done = 0; done < frames; done += kMostFrames) {
    int64_t size = recogniser_.features.size(), now = std::min(kMostFrames, frames - done);
    Tensor piece{Type::of("float32"), {1, now, size}, const_cast<float*>(features + done * size)};
    auto outputs = call("encoder", piece, encoder_state_);
    const auto* projection = static_cast<const float*>(outputs[0].data);
    int64_t width = outputs[0].shape.at(2);
    for (int64_t i = 0; i < now; ++i) emit(projection + i * width);
  }
}

// Call a network; its outputs behind the first become its next state.
std::vector<Tensor> Stream::call(const char* name, Tensor first, State& state) {
  Callable& function = recogniser_.model.function(name);
  std::vector<Tensor> inputs = {first};
  const Function& plan = function.plan();
  for (size_t i = 0; i < state.size(); ++i) {
    std::vector<int64_t> shape;
    for (const Size& size : plan.values[static_cast<size_t>(plan.inputs.at(i + 1))].shape)
      shape.push_back(size.value);
    inputs.push_back({Type::of("float32"), shape, state[i].data()});
  }
  auto outputs = function(inputs);
  for (size_t i = 0; i < state.size(); ++i) {
    const auto* data = static_cast<const float*>(outputs.at(i + 1).data);
    std::copy(data, data + state[i].size(), state[i].begin());
  }
  return outputs;
}

void Stream::predict(int64_t token) {
  auto outputs = call("predictor", {Type::of("int64"), {1, 1}, &token}, predictor_state_);
  const auto* data = static_cast<const float*>(outputs[0].data);
  prediction_.assign(data, data + outputs[0].shape.at(2));
}

void Stream::emit(const float* frame) {
  auto width = static_cast<int64_t>(prediction_.size());
  for (int i = 0; i < kMostTokens; ++i) {
    auto outputs = recogniser_.model.function("joint")(
        {{Type::of("float32"), {1, 1, width}, const_cast<float*>(frame)},
         {Type::of("float32"), {1, 1, width}, prediction_.data()}});
    const auto* logits = static_cast<const float*>(outputs[0].data);
    int64_t token = std::max_element(logits, logits + outputs[0].shape.at(2)) - logits;
    if (token == kBlank) return;
    text_ += recogniser_.tokens.at(static_cast<size_t>(token));
    predict(token);
  }
}

}  // namespace gq
