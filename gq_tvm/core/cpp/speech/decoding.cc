#include "speech/decoding.h"

#include <algorithm>

namespace gq {
namespace {

constexpr size_t kBlank = 0;
constexpr int64_t kMostFrames = 512;        // MAX_ENCODER_FRAMES of gq_tvm.speech.decoding
constexpr int64_t kLargestState = 1 << 26;  // floats
constexpr int kMostTokens = 10;             // a frame; a model that never says blank must not hang

void check_frames(const Tensor& answer, int64_t frames, const std::string& name) {
  if (answer.shape.size() != 3 || answer.shape[0] != 1 || answer.shape[1] != frames ||
      answer.type.name != "float32")
    throw Error(name + " does not answer frame by frame; compile the model again");
}

// The likeliest token at each node of the lattice, until it is a blank (Graves 2012).
class TransducerDecoder : public Decoder {
 public:
  TransducerDecoder(Model& model, size_t tokens)
      : Decoder(model, tokens), predictor_(model, "predictor"), joint_(model.function("joint")) {
    predict(kBlank);  // blank stands for the start
  }

 protected:
  void emit(const float* frame, int64_t width, std::vector<size_t>& tokens) override {
    if (width != static_cast<int64_t>(prediction_.size()))
      throw Error("encoder and predictor do not fit each other; compile the model again");
    for (int i = 0; i < kMostTokens; ++i) {
      auto outputs = joint_({{Type::of("float32"), {1, 1, width}, const_cast<float*>(frame)},
                             {Type::of("float32"), {1, 1, width}, prediction_.data()}});
      check_frames(outputs[0], 1, "joint");
      size_t token = likeliest(static_cast<const float*>(outputs[0].data), outputs[0].shape[2]);
      if (token == kBlank) return;
      tokens.push_back(token);
      predict(token);
    }
  }

 private:
  void predict(size_t token) {
    auto number = static_cast<int64_t>(token);
    Tensor answer = predictor_({Type::of("int64"), {1, 1}, &number}, 1);
    const auto* data = static_cast<const float*>(answer.data);
    prediction_.assign(data, data + answer.shape[2]);
  }

  Network predictor_;
  Callable& joint_;
  std::vector<float> prediction_;
};

// The likeliest token at each frame; repeats count once, blanks not (Graves et al. 2006).
class CTCDecoder : public Decoder {
 public:
  CTCDecoder(Model& model, size_t tokens) : Decoder(model, tokens) {}

 protected:
  void emit(const float* frame, int64_t width, std::vector<size_t>& tokens) override {
    size_t token = likeliest(frame, width);
    if (token != kBlank && token != last_) tokens.push_back(token);
    last_ = token;
  }

 private:
  size_t last_ = kBlank;
};

}  // namespace

Network::Network(Model& model, const char* name) : function_(model.function(name)) {
  const Function& plan = function_.plan();
  if (plan.outputs.size() < plan.inputs.size())
    throw Error(plan.name + " does not answer with its state; compile the model again");
  for (size_t i = 1; i < plan.inputs.size(); ++i) {
    const Value& value = plan.input(i);
    State state;
    int64_t size = 1;
    for (const Size& one : value.shape) {
      if (one.in_register)
        throw Error("the state " + value.name + " of " + plan.name +
                    " has no fixed shape; export the model with a batch of 1");
      state.shape.push_back(one.value);
      if (__builtin_mul_overflow(size, one.value, &size) || size > kLargestState)
        throw Error("the state " + value.name + " of " + plan.name +
                    " is larger than any; compile the model again");
    }
    state.data.resize(static_cast<size_t>(size));
    states_.push_back(std::move(state));
  }
}

Tensor Network::operator()(const Tensor& first, int64_t frames) {
  const std::string& name = function_.plan().name;
  std::vector<Tensor> inputs = {first};
  for (auto& state : states_)
    inputs.push_back({Type::of("float32"), state.shape, state.data.data()});
  auto outputs = function_(inputs);
  check_frames(outputs[0], frames, name);
  for (size_t i = 0; i < states_.size(); ++i) {
    const Tensor& now = outputs[i + 1];
    if (now.shape != states_[i].shape || now.type.name != "float32")
      throw Error(name + " changes the shape of its state; compile the model again");
    const auto* data = static_cast<const float*>(now.data);
    std::copy(data, data + states_[i].data.size(), states_[i].data.begin());
  }
  return outputs[0];
}

std::unique_ptr<Decoder> Decoder::of(const std::string& task, Model& model, size_t tokens) {
  check(task);
  if (task == "ctc") return std::make_unique<CTCDecoder>(model, tokens);
  return std::make_unique<TransducerDecoder>(model, tokens);
}

void Decoder::check(const std::string& task) {
  if (task != "rnnt" && task != "ctc")
    throw Error("the model's task is " + task +
                "; only RNN transducers (rnnt) and CTC (ctc) can transcribe");
}

void Decoder::accept(const float* features, int64_t frames, int64_t size,
                     std::vector<size_t>& tokens) {
  for (int64_t done = 0; done < frames; done += kMostFrames) {
    int64_t now = std::min(kMostFrames, frames - done);
    Tensor answer = encoder_(
        {Type::of("float32"), {1, now, size}, const_cast<float*>(features + done * size)}, now);
    const auto* projection = static_cast<const float*>(answer.data);
    int64_t width = answer.shape[2];
    for (int64_t i = 0; i < now; ++i) emit(projection + i * width, width, tokens);
  }
}

size_t Decoder::likeliest(const float* scores, int64_t count) const {
  if (count != static_cast<int64_t>(tokens_))
    throw Error("the model scores " + std::to_string(count) + " tokens and names " +
                std::to_string(tokens_) + "; compile the model again");
  return static_cast<size_t>(std::max_element(scores, scores + count) - scores);
}

}  // namespace gq
