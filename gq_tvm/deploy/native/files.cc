#include "files.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>

namespace gq {
namespace {

constexpr double kPi = 3.14159265358979323846;
constexpr int kCrossings = 24;                        // of the sinc on either side
constexpr int kLeastRate = 1000, kMostRate = 768000;  // Hz; others are damage

std::vector<char> read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(path + " cannot be read; check the path");
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

template <class T>
T little(const char* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

float sample(const char* at, int format, int bits) {
  if (format == 3) return little<float>(at);
  switch (bits) {
    case 8:
      return (static_cast<float>(static_cast<uint8_t>(*at)) - 128.0f) / 128.0f;
    case 16:
      return static_cast<float>(little<int16_t>(at)) / 32768.0f;
    case 24: {
      auto high = static_cast<int32_t>(static_cast<int8_t>(at[2]));
      int32_t value = high * 65536 + little<uint16_t>(at);
      return static_cast<float>(value) / 8388608.0f;
    }
    default:
      return static_cast<float>(little<int32_t>(at) / 2147483648.0);
  }
}

// A windowed sinc, cut off below half of the lower rate (Smith, "Digital Audio Resampling").
std::vector<float> resample(const std::vector<float>& x, int rate, int new_rate) {
  double ratio = static_cast<double>(new_rate) / rate, cut = std::min(1.0, ratio);
  auto count = static_cast<int64_t>(std::llround(static_cast<double>(x.size()) * ratio));
  double reach = kCrossings / cut;
  std::vector<float> y;
  for (int64_t i = 0; i < count; ++i) {
    double at = static_cast<double>(i) / ratio, sum = 0;
    auto first = std::max<int64_t>(0, static_cast<int64_t>(std::ceil(at - reach)));
    auto last = std::min<int64_t>(static_cast<int64_t>(x.size()) - 1,
                                  static_cast<int64_t>(std::floor(at + reach)));
    for (int64_t j = first; j <= last; ++j) {
      double t = at - static_cast<double>(j), u = kPi * t * cut;
      double sinc = std::abs(u) < 1e-9 ? 1.0 : std::sin(u) / u;
      sum += x[static_cast<size_t>(j)] * cut * sinc * (0.5 + 0.5 * std::cos(kPi * t / reach));
    }
    y.push_back(static_cast<float>(sum));
  }
  return y;
}

struct Format {
  int code = 0, channels = 0, rate = 0, bits = 0;
};

}  // namespace

std::vector<float> read_wav(const std::string& path, int rate) {
  std::vector<char> file = read(path);
  if (file.size() < 12 || std::memcmp(file.data(), "RIFF", 4) || std::memcmp(&file[8], "WAVE", 4))
    throw Error(path + " is no WAV file; convert it, for example with ffmpeg");
  Format format;
  std::vector<float> samples;
  for (size_t at = 12; at + 8 <= file.size();) {
    const char* chunk = &file[at];
    size_t size = std::min<size_t>(little<uint32_t>(chunk + 4), file.size() - at - 8);
    if (!std::memcmp(chunk, "fmt ", 4) && size >= 16) {
      format = {little<uint16_t>(chunk + 8), little<uint16_t>(chunk + 10),
                static_cast<int>(little<uint32_t>(chunk + 12)), little<uint16_t>(chunk + 22)};
      if (format.code == 0xFFFE && size >= 26) format.code = little<uint16_t>(chunk + 32);
    } else if (!std::memcmp(chunk, "data", 4)) {
      bool whole =
          format.code == 1 && format.bits % 8 == 0 && format.bits >= 8 && format.bits <= 32;
      if (!(whole || (format.code == 3 && format.bits == 32)) || !format.channels ||
          format.rate <= 0)
        throw Error(path +
                    " is a WAV file of a kind that is not known here; convert it to 16-bit PCM");
      if (format.rate < kLeastRate || format.rate > kMostRate)
        throw Error(path + " says it has " + std::to_string(format.rate) +
                    " samples a second, which is damage; record it again");
      auto width = static_cast<size_t>(format.bits / 8),
           channels = static_cast<size_t>(format.channels);
      const char* frame = chunk + 8;
      for (size_t left = size / (width * channels); left > 0; --left, frame += width * channels) {
        float sum = 0;
        for (size_t c = 0; c < channels; ++c)
          sum += sample(frame + c * width, format.code, format.bits);
        samples.push_back(sum / static_cast<float>(channels));
      }
      break;
    }
    at += 8 + size + size % 2;
  }
  if (samples.empty()) throw Error(path + " holds no samples; record it again");
  return format.rate == rate ? samples : resample(samples, format.rate, rate);
}

namespace {

const char* const kMagic = "\x93NUMPY";

// The text behind a key of the header, a Python dictionary.
std::string behind(const std::string& header, const std::string& key) {
  size_t at = header.find("'" + key + "'");
  return at == std::string::npos ? "" : header.substr(header.find(':', at) + 1);
}

std::string name_of(const std::string& descr) {
  size_t quote = descr.find('\'');
  std::string code = descr.substr(quote + 1, descr.find('\'', quote + 1) - quote - 1);
  if (code.size() != 3 || code[0] == '>' || !std::strchr("1248", code[2])) return "";
  std::string bits = std::to_string(8 * (code[2] - '0'));
  switch (code[1]) {
    case 'f':
      return "float" + bits;
    case 'i':
      return "int" + bits;
    case 'u':
      return "uint" + bits;
    case 'b':
      return "bool";
    default:
      return "";
  }
}

}  // namespace

Array read_npy(const std::string& path) {
  Array array;
  array.data = read(path);
  const auto& data = array.data;
  if (data.size() < 12 || std::memcmp(data.data(), kMagic, 6))
    throw Error(path + " is no .npy file; write it with numpy.save");
  size_t start = data[6] == 1 ? 10 : 12;
  size_t length = data[6] == 1 ? little<uint16_t>(&data[8]) : little<uint32_t>(&data[8]);
  if (length > data.size() - start) throw Error(path + " is cut short; write it again");
  std::string header(&data[start], length), type = name_of(behind(header, "descr"));
  if (type.empty() || behind(header, "fortran_order").find("False") > 2)
    throw Error(path + " must hold little-endian numbers in C order; use numpy.ascontiguousarray");
  array.tensor.type = Type::of(type);
  std::string shape = behind(header, "shape");
  shape = shape.substr(shape.find('(') + 1, shape.find(')') - shape.find('(') - 1);
  size_t size = static_cast<size_t>(array.tensor.type.bytes()), room = data.size() - start - length;
  bool fits = true;
  for (size_t at = 0; (at = shape.find_first_of("0123456789", at)) != std::string::npos;) {
    size_t end = std::min(shape.find_first_not_of("0123456789", at), shape.size());
    fits = fits && end - at <= 18;  // digits of an int64
    if (!fits) break;
    array.tensor.shape.push_back(std::stoll(shape.substr(at, end - at)));
    fits = !__builtin_mul_overflow(size, array.tensor.shape.back(), &size);
    at = end;
  }
  if (!fits || size > room) throw Error(path + " is cut short; write it again");
  array.tensor.data = array.data.data() + start + length;
  return array;
}

void write_npy(const std::string& path, const Tensor& tensor) {
  std::string kind = tensor.type.name == "bool" ? "|b" : tensor.type.bits == 8 ? "|" : "<";
  if (tensor.type.name != "bool") kind += tensor.type.name[0];
  std::string header = "{'descr': '" + kind + std::to_string(tensor.type.bytes()) +
                       "', 'fortran_order': False, 'shape': (";
  size_t size = static_cast<size_t>(tensor.type.bytes());
  for (int64_t one : tensor.shape) {
    header += std::to_string(one) + ",";
    size *= static_cast<size_t>(one);
  }
  header += ")}";
  header += std::string(63 - (10 + header.size()) % 64, ' ') + "\n";
  std::string temporary = path + ".part";
  std::ofstream file(temporary, std::ios::binary);
  auto length = static_cast<uint16_t>(header.size());
  file.write(kMagic, 6).write("\x01\x00", 2).write(reinterpret_cast<const char*>(&length), 2);
  file.write(header.data(), length)
      .write(static_cast<const char*>(tensor.data), static_cast<std::streamsize>(size));
  file.close();
  if (!file || std::rename(temporary.c_str(), path.c_str())) {
    std::remove(temporary.c_str());
    throw Error(path + " cannot be written; choose another place");
  }
}

}  // namespace gq
