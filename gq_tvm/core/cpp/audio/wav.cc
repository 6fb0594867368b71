#include "audio/wav.h"

#include <sys/stat.h>

#include <algorithm>
#include <cctype>
#include <cfloat>
#include <cmath>
#include <cstring>

#include "speech/samples.h"

namespace gq {
namespace {

constexpr int64_t kLeastRate = 1000, kMostRate = 768000;  // Hz; others are damage
constexpr uint32_t kUnknown = 0xFFFFFFFF;                 // a size that its writer did not know
constexpr size_t kPiece = 1 << 16;                        // bytes read at a time

enum { kInteger = 1, kFloat = 3, kALaw = 6, kMuLaw = 7, kExtensible = 0xFFFE };

template <class T>
T little(const char* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

float from_8_bits(const char* at) {
  return (static_cast<float>(static_cast<uint8_t>(*at)) - 128.0f) / 128.0f;
}

float from_16_bits(const char* at) { return static_cast<float>(little<int16_t>(at)) / 32768.0f; }

float from_24_bits(const char* at) {
  int32_t high = static_cast<int8_t>(at[2]);
  return static_cast<float>(high * 65536 + little<uint16_t>(at)) / 8388608.0f;
}

float from_32_bits(const char* at) {
  return static_cast<float>(little<int32_t>(at) / 2147483648.0);
}

float from_float(const char* at) { return little<float>(at); }

float from_double(const char* at) {
  auto value = little<double>(at);
  bool beyond = std::abs(value) > static_cast<double>(FLT_MAX);
  if (beyond) return value > 0 ? INFINITY : -INFINITY;
  return static_cast<float>(value);
}

// ITU-T G.711: a sign, three bits of exponent, four of fraction; A-law flips every other bit.
float from_a_law(const char* at) {
  int code = static_cast<uint8_t>(*at) ^ 0x55, exponent = code >> 4 & 7;
  int size = ((code & 15) << 4) + 8;
  if (exponent) size = (size + 256) << (exponent - 1);
  return static_cast<float>(code & 128 ? size : -size) / 32768.0f;
}

// As A-law but with all bits flipped, and 132 added before the exponent is taken.
float from_mu_law(const char* at) {
  int code = ~static_cast<uint8_t>(*at) & 255;
  int size = (((code & 15) << 3) + 132) << (code >> 4 & 7);
  return static_cast<float>(code & 128 ? 132 - size : size - 132) / 32768.0f;
}

using Decode = float (*)(const char*);

Decode decoder(int code, int bits) {
  if (code == kFloat) return bits == 32 ? from_float : bits == 64 ? from_double : nullptr;
  if (code == kALaw && bits == 8) return from_a_law;
  if (code == kMuLaw && bits == 8) return from_mu_law;
  if (code != kInteger) return nullptr;
  switch (bits) {
    case 8:
      return from_8_bits;
    case 16:
      return from_16_bits;
    case 24:
      return from_24_bits;
    case 32:
      return from_32_bits;
    default:
      return nullptr;
  }
}

std::string kind_of(int code, int bits) {
  switch (code) {
    case kInteger:
      return "integers of " + std::to_string(bits) + " bits";
    case kFloat:
      return "floats of " + std::to_string(bits) + " bits";
    case 2:
      return "ADPCM of Microsoft's kind";
    case 17:
      return "ADPCM of the IMA's kind";
    case 49:
      return "GSM 6.10";
    case 85:
      return "MP3";
    default:
      return "format " + std::to_string(code);
  }
}

}  // namespace

Wav::Wav(const std::string& path) : path_(path) {
  struct stat about{};
  if (stat(path.c_str(), &about)) throw Error(path + ": there is no such file; check the path");
  if (S_ISDIR(about.st_mode)) throw Error(path + " is a folder; name a recording inside it");
  file_.open(path, std::ios::binary);
  if (!file_) throw Error(path + " cannot be read; check the path");
  read_header();
}

bool Wav::take(char* to, size_t size) {
  file_.read(to, static_cast<std::streamsize>(size));
  return static_cast<size_t>(file_.gcount()) == size;
}

// Go to the samples.
void Wav::read_header() {
  char head[12];
  bool long_sizes = false;
  if (take(head, sizeof head)) long_sizes = !std::memcmp(head, "RF64", 4);
  if (file_.gcount() < 12 || (!long_sizes && std::memcmp(head, "RIFF", 4)) ||
      std::memcmp(head + 8, "WAVE", 4))
    throw Error(path_ + " is no WAV file; convert it, for example with ffmpeg");
  int64_t long_size = INT64_MAX;
  for (char chunk[8]; take(chunk, sizeof chunk);) {
    auto size = little<uint32_t>(chunk + 4);
    if (!std::memcmp(chunk, "data", 4)) {
      check_format();
      begin_samples(size == kUnknown && long_sizes ? long_size : size);
      return;
    }
    int64_t left = int64_t{size} + size % 2;
    char facts[26];
    auto known = std::min<size_t>(size, sizeof facts);
    if (!take(facts, known)) break;
    if (!std::memcmp(chunk, "fmt ", 4) && known >= 16) {
      format_ = {little<uint16_t>(facts), little<uint16_t>(facts + 2), little<uint32_t>(facts + 4),
                 little<uint16_t>(facts + 14)};
      if (format_.code == kExtensible && known == sizeof facts)
        format_.code = little<uint16_t>(facts + 24);
    } else if (!std::memcmp(chunk, "ds64", 4) && known >= 16) {
      long_size = std::max<int64_t>(0, little<int64_t>(facts + 8));
    }
    file_.ignore(left - static_cast<int64_t>(known));
  }
  throw none();
}

Error Wav::none() const { return Error(path_ + " holds no samples; record it again"); }

void Wav::check_format() {
  // Fewer bits are the upper ones of whole bytes.
  if (format_.code == kInteger) format_.bits = (format_.bits + 7) / 8 * 8;
  decode_ = decoder(format_.code, format_.bits);
  if (!decode_ || !format_.channels)
    throw Error(path_ + " is a WAV file of " +
                (decode_ ? "no channels" : kind_of(format_.code, format_.bits)) +
                ", which is not known here; convert it to 16-bit PCM, for example with ffmpeg");
  if (format_.rate < kLeastRate || format_.rate > kMostRate)
    throw Error(path_ + " says it has " + std::to_string(format_.rate) +
                " samples a second, which is damage; record it again");
}

void Wav::begin_samples(int64_t size) {
  left_ = size;
  // A recorder that was killed has not come to write the size.
  if (!size && !only_chunks_follow()) left_ = INT64_MAX;
}

// Whether what follows is a list of chunks up to the end of the file, or nothing.
bool Wav::only_chunks_follow() {
  auto start = file_.tellg();
  file_.seekg(0, std::ios::end);
  int64_t at = start, end = file_.tellg();
  bool whole = start >= 0 && end >= at;
  while (whole && at < end) {
    char chunk[8];
    file_.seekg(at);
    whole = take(chunk, sizeof chunk) &&
            std::all_of(chunk, chunk + 4, [](unsigned char c) { return std::isprint(c); });
    auto size = little<uint32_t>(chunk + 4);
    at += whole ? 8 + int64_t{size} + size % 2 : 0;
    whole = whole && at <= end + 1;  // the last one's padding is often left out
  }
  file_.clear();
  file_.seekg(start);
  file_.clear();  // what cannot be sought, a pipe, is read on
  return whole;
}

void Wav::check(const float* samples, size_t count) const {
  auto number = first_damaged(samples, static_cast<int64_t>(count));
  if (number == static_cast<int64_t>(count)) return;
  char at[32];
  std::snprintf(
      at, sizeof at, "%.3f",
      static_cast<double>(frames_ + number / format_.channels) / static_cast<double>(format_.rate));
  throw Error(path_ + " holds a sample of " + spelled_sample(samples[number]) + " at " + at +
              " s, audio lies in [-1, 1]; record or convert it again");
}

const std::vector<float>& Wav::read() {
  auto width = static_cast<size_t>(format_.bits / 8),
       channels = static_cast<size_t>(format_.channels), frame = width * channels;
  samples_.clear();
  if (left_ > 0) {
    bytes_.resize(std::max<size_t>(1, kPiece / frame) * frame);
    auto wanted = std::min<int64_t>(left_, static_cast<int64_t>(bytes_.size()));
    file_.read(bytes_.data(), static_cast<std::streamsize>(wanted));
    left_ -= wanted;
    size_t frames = static_cast<size_t>(file_.gcount()) / frame;
    channels_.resize(frames * channels);
    for (size_t i = 0; i < channels_.size(); ++i) channels_[i] = decode_(&bytes_[i * width]);
    check(channels_.data(), channels_.size());
    mix(frames);
  }
  if (!frames_ && samples_.empty()) throw none();
  frames_ += static_cast<int64_t>(samples_.size());
  return samples_;
}

void Wav::mix(size_t frames) {
  auto channels = static_cast<size_t>(format_.channels);
  if (channels == 1) {
    samples_.swap(channels_);
    return;
  }
  for (size_t i = 0; i < frames; ++i) {
    float sum = 0;
    for (size_t c = 0; c < channels; ++c) {
      float sample = channels_[i * channels + c];
      sum += sample;
      apart_ += static_cast<double>(sample) * sample / static_cast<double>(channels);
    }
    samples_.push_back(sum / static_cast<float>(channels));
    mixed_ += static_cast<double>(samples_.back()) * samples_.back();
  }
}

}  // namespace gq
