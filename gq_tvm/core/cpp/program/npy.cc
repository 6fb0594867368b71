#include "program/npy.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>

namespace gq {
namespace {

template <class T>
T little(const char* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

std::vector<char> read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(path + " cannot be read; check the path");
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

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
