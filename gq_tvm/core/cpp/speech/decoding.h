// Greedy decoding: features in, tokens out, a class for each kind of network.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "run/model.h"

namespace gq {

// A network that is handed its own state back at each call; zeros before the first.
class Network {
 public:
  Network(Model& model, const char* name);

  // The first output of one call, [1, frames, width]; those behind it have become the state.
  Tensor operator()(const Tensor& first, int64_t frames);

 private:
  struct State {
    std::vector<int64_t> shape;
    std::vector<float> data;
  };

  Callable& function_;
  std::vector<State> states_;
};

// Takes features in pieces and gives tokens; cutting differently changes nothing.
class Decoder {
 public:
  // The decoder of a task that the plan's metadata names; throws Error if there is none.
  static std::unique_ptr<Decoder> of(const std::string& task, Model& model, size_t tokens);
  static void check(const std::string& task);

  virtual ~Decoder() = default;
  // Take frames of `size` features, append the tokens they added.
  void accept(const float* features, int64_t frames, int64_t size, std::vector<size_t>& tokens);

 protected:
  Decoder(Model& model, size_t tokens) : tokens_(tokens), encoder_(model, "encoder") {}
  // What one frame of the encoder's projection says.
  virtual void emit(const float* frame, int64_t width, std::vector<size_t>& tokens) = 0;
  size_t likeliest(const float* scores, int64_t count) const;

 private:
  size_t tokens_;
  Network encoder_;
};

}  // namespace gq
