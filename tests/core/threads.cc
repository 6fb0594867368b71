// Bundles opened, used and closed by several threads at once, as gq.h allows: a recogniser, and one
// of the kernel in turn.cc, which itself runs on several threads.
//
//   threads RECOGNISER TURN
#include <dlfcn.h>

#include <atomic>
#include <cmath>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "interface/gq.h"

namespace {

constexpr int kThreads = 4, kRounds = 4;
constexpr int kSamples = 8000, kPiece = 800;
constexpr int kCalls = 100, kSize = 64;  // of turn

std::vector<float> recording() {
  std::vector<float> samples;
  for (int i = 0; i < kSamples; ++i) {
    auto time = static_cast<float>(i);
    samples.push_back(0.3f * std::sin(0.05f * time) * std::sin(0.001f * time));
  }
  return samples;
}

// What a model of so many threads hears, or why it does not.
std::string heard(const char* bundle, int threads) {
  std::vector<float> samples = recording();
  gq_model* model = gq_open(bundle, threads);
  gq_stream* stream = model ? gq_stream_open(model) : nullptr;
  bool well = stream != nullptr;
  for (int at = 0; well && at < kSamples; at += kPiece)
    well = gq_stream_accept(stream, &samples[static_cast<size_t>(at)], kPiece) != nullptr;
  const char* text = well ? gq_stream_finish(stream) : nullptr;
  std::string said = text ? std::string("heard ") + text : std::string("failed: ") + gq_error();
  gq_stream_close(stream);
  gq_close(model);
  return said;
}

// Whether calls of a model of so many threads give what they should.
bool turns(const char* bundle, int threads) {
  gq_model* model = gq_open(bundle, threads);
  bool right = model != nullptr;
  for (int call = 0; right && call < kCalls; ++call) {
    std::vector<float> x(kSize);
    for (int i = 0; i < kSize; ++i) x[static_cast<size_t>(i)] = static_cast<float>(i + call);
    gq_tensor input{"float32", 1, {kSize}, x.data()}, output{};
    right = gq_call(model, "turn", &input, 1, &output, 1) == 0;
    const auto* turned = static_cast<const float*>(output.data);
    for (size_t i = 0; right && i < kSize; ++i) right = turned[i] == 2 * x[(i + 1) % kSize];
  }
  gq_close(model);
  return right;
}

}  // namespace

int main(int, char** words) {
  const char *recogniser = words[1], *turn = words[2];
  // It stays loaded: in the place of a library that was closed, another is taken for the same.
  dlopen((turn + std::string("/kernels.so")).c_str(), RTLD_NOW | RTLD_NODELETE);
  std::vector<std::string> said(kThreads * kRounds);
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int number = 0; number < kThreads; ++number)
    threads.emplace_back([&, number] {
      for (int round = 0; round < kRounds; ++round) {
        said[static_cast<size_t>(number * kRounds + round)] = heard(recogniser, 1 + number % 2);
        wrong += !turns(turn, 1 + (number + round) % 3);
      }
    });
  for (auto& thread : threads) thread.join();
  std::string alone = heard(recogniser, 1);  // last, so that the first to open are many
  for (const auto& one : said)
    if (one != alone || alone.compare(0, 6, "heard ") != 0) {
      std::printf("one of %d threads %s, a thread alone %s\n", kThreads, one.c_str(),
                  alone.c_str());
      return 1;
    }
  if (wrong) return std::printf("%d models turned wrongly\n", wrong.load()), 1;
  std::printf("%d threads opened, used and closed bundles %d times each\n", kThreads, kRounds);
}
