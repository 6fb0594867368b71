#include "program/transcribe.h"

#include <algorithm>
#include <chrono>
#include <memory>

#include "audio/resample.h"
#include "audio/wav.h"

namespace gq {
namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// A recording at the rate that a recogniser wants.
class Source {
 public:
  Source(const std::string& path, int rate) : wav_(path) {
    if (wav_.rate() != rate) resampler_ = std::make_unique<Resampler>(wav_.rate(), rate);
  }

  // Append the next samples; false at the end.
  bool read(std::vector<float>& samples) {
    const std::vector<float>& read = wav_.read();
    if (!resampler_) samples.insert(samples.end(), read.begin(), read.end());
    else if (!read.empty()) resampler_->accept(read.data(), read.size(), samples);
    else resampler_->finish(samples);
    return !read.empty();
  }

  bool cancels() const { return wav_.cancels(); }

 private:
  Wav wav_;
  std::unique_ptr<Resampler> resampler_;
};

Transcript heard(const std::string& path, const Recogniser& recogniser, Stream& stream) {
  Transcript result;
  auto begin = Clock::now();
  Source source(path, recogniser.features.sample_rate);
  std::vector<float> waiting;
  int64_t chunk = recogniser.chunk_samples(), samples = 0;
  for (bool more = true; more;) {
    auto reading = Clock::now();
    more = source.read(waiting);
    result.reading += since(reading);
    auto count = static_cast<int64_t>(waiting.size());
    int64_t done = 0;
    while (count - done >= chunk || (!more && done < count)) {
      auto start = Clock::now();
      int64_t size = std::min(chunk, count - done);
      stream.accept(waiting.data() + done, size);
      result.slowest = std::max(result.slowest, since(start));
      done += size;
    }
    waiting.erase(waiting.begin(), waiting.begin() + static_cast<std::ptrdiff_t>(done));
    samples += done;
  }
  result.text = stream.finish();
  result.taken = since(begin);
  result.audio = static_cast<double>(samples) / recogniser.features.sample_rate;
  result.channels_cancel = source.cancels();
  return result;
}

}  // namespace

Transcript transcribe(const std::string& path, const Recogniser& recogniser, Stream& stream) {
  try {
    return heard(path, recogniser, stream);
  } catch (...) {
    stream.restart();
    throw;
  }
}

}  // namespace gq
