// One bundle opened, spoken to and closed by several threads at once, as gq.h allows.
//
//   threads BUNDLE
#include <cmath>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "gq.h"

namespace {

constexpr int kThreads = 4, kRounds = 4;
constexpr int kSamples = 8000, kPiece = 800;

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

}  // namespace

int main(int, char** words) {
  std::vector<std::string> said(kThreads * kRounds);
  std::vector<std::thread> threads;
  for (int number = 0; number < kThreads; ++number)
    threads.emplace_back([&, number] {
      for (int round = 0; round < kRounds; ++round)
        said[static_cast<size_t>(number * kRounds + round)] = heard(words[1], 1 + number % 2);
    });
  for (auto& thread : threads) thread.join();
  std::string alone = heard(words[1], 1);  // last, so that the first to open are many
  for (const auto& one : said)
    if (one != alone || alone.compare(0, 6, "heard ") != 0) {
      std::printf("one of %d threads %s, a thread alone %s\n", kThreads, one.c_str(),
                  alone.c_str());
      return 1;
    }
  std::printf("%d threads opened, used and closed one bundle %d times each\n", kThreads, kRounds);
}
