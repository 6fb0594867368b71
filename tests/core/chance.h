// Chance that a seed decides, on every machine alike.
#pragma once

#include <cstdint>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

class Chance {
 public:
  explicit Chance(uint64_t seed) : engine_(seed) {}

  // A number from 0 up to `end`, that one left out.
  size_t below(size_t end) { return static_cast<size_t>(engine_() % end); }

  template <class T>
  const T& of(const std::vector<T>& choices) {
    return choices[below(choices.size())];
  }

 private:
  std::mt19937_64 engine_;
};

inline std::string content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

inline void write(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}
