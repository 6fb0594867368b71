#include "speech.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace gq {
namespace {

constexpr int64_t kBlank = 0;
constexpr int64_t kMostFrames = 512;  // MAX_ENCODER_FRAMES of gq_tvm.speech.decoding
constexpr int kMostTokens = 10;       // a frame; a model that never says blank must not hang

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

std::vector<std::vector<float>> zeros(const Callable& function) {
  std::vector<std::vector<float>> state;
  const Function& plan = function.plan();
  for (size_t i = 1; i < plan.inputs.size(); ++i) {
    size_t size = 1;
    const Value& value = plan.values[static_cast<size_t>(plan.inputs[i])];
    for (const Size& one : value.shape) {
      if (one.in_register)
        throw Error("the state " + value.name + " of " + plan.name +
                    " has no fixed shape; export the model with a batch of 1");
      size *= static_cast<size_t>(one.value);
    }
    state.emplace_back(size);
  }
  return state;
}

}  // namespace

Recogniser::Recogniser(Model& given) : model(given) {
  if (given.metadata("task").front() != "rnnt")
    throw Error("the model's task is " + given.metadata("task").front() +
                ", only RNN transducers can transcribe");
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
  auto size = static_cast<size_t>(recogniser_.features.size());
  size_t frames = waiting_.size() / size, chunk = static_cast<size_t>(recogniser_.chunk_frames),
         at = 0;
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
    if (outputs[0].shape[1] != now || width != static_cast<int64_t>(prediction_.size()))
      throw Error("encoder and predictor do not fit each other; bundle the model again");
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
  if (outputs.size() <= state.size() || outputs[0].shape.size() != 3 ||
      outputs[0].type.name != "float32")
    throw Error(std::string(name) +
                " does not answer as an RNN transducer's; bundle the model again");
  for (size_t i = 0; i < state.size(); ++i) {
    if (outputs[i + 1].shape != inputs[i + 1].shape || outputs[i + 1].type.name != "float32")
      throw Error(std::string(name) + " changes the shape of its state; bundle the model again");
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
