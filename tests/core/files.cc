// Recordings and arrays whose files were damaged: read, resampled, written again, under sanitizers.
// What led to code that had not run before is damaged further.
//
//   files WORK FIRST LAST SAMPLE...    the seeds from FIRST up to LAST, that one left out
//
// The folder WORK is told the seed and the file of each case.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "audio/resample.h"
#include "audio/wav.h"
#include "chance.h"
#include "coverage.h"
#include "program/npy.h"

namespace {

constexpr int kSeconds = 60;     // after which a case hangs
constexpr size_t kHeader = 200;  // bytes at the start, where damage tells
constexpr size_t kMost = 8192;   // bytes of what is damaged further
constexpr int kRate = 8000;      // Hz

const std::vector<uint32_t> kNumbers = {0,      1,          8,          16,        1000,
                                        768000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF};

void alter(std::string& data, Chance& chance) {
  size_t at = chance.below(std::min(data.size(), kHeader)), few = 1 + chance.below(8);
  switch (chance.below(8)) {
    case 0:
      data[at] = static_cast<char>(chance.below(256));
      break;
    case 6:  // a piece again, elsewhere: a chunk twice, a key twice
      data.insert(at, data.substr(chance.below(data.size()), 8 * few));
      break;
    case 7:
      if (at + 8 <= data.size()) {
        uint64_t wide = chance.of(kNumbers) * uint64_t{0x100000001};
        std::memcpy(&data[at], &wide, 8);
      }
      break;
    case 1:
      data[at] = static_cast<char>(data[at] ^ 1 << chance.below(8));
      break;
    case 2:
      data.erase(at, few);
      break;
    case 3:
      data.insert(at, few, static_cast<char>(chance.below(256)));
      break;
    case 4:
      data.resize(at + 1);
      break;
    default:
      at -= at % 2;  // chunks of WAV files lie at even places
      if (at + 4 <= data.size()) std::memcpy(&data[at], &chance.of(kNumbers), 4);
  }
  if (data.empty()) data = "R";
}

void read_array(const std::string& path) {
  gq::Array array = gq::read_npy(path);
  gq::write_npy(path + ".again", array.tensor);
}

void read_recording(const std::string& path) {
  gq::Wav wav(path);
  gq::Resampler resampler(wav.rate(), kRate);
  std::vector<float> samples;
  for (;;) {
    const std::vector<float>& read = wav.read();
    if (read.empty()) break;
    resampler.accept(read.data(), read.size(), samples);
  }
  resampler.finish(samples);
}

}  // namespace

int main(int count, char** words) {
  std::string work = words[1], path = work + "/damaged";
  std::vector<std::string> samples;
  for (int i = 4; i < count; ++i) samples.push_back(content(words[i]));
  long read = 0, refused = 0, first = std::atol(words[2]), last = std::atol(words[3]);
  for (long seed = first; seed < last; ++seed) {
    write(work + "/seed", std::to_string(seed));
    Chance chance(static_cast<uint64_t>(seed));
    std::string data = chance.of(samples);
    bool array = data[0] == '\x93';
    for (size_t i = 0, changes = 1 + chance.below(4); i < changes; ++i) alter(data, chance);
    write(path, data);
    alarm(kSeconds);
    try {
      if (array) read_array(path);
      else read_recording(path);
      ++read;
    } catch (const gq::Error&) {
      ++refused;
    }
    if (coverage::news() && data.size() <= kMost) samples.push_back(data);
  }
  std::printf("%ld files: %ld refused, %ld read; %zu led to new code\n", last - first, refused,
              read, samples.size() - static_cast<size_t>(count - 4));
}
