// CRC-32 as zlib computes it (ISO 3309), eight bytes at a time (Kounavis and Berry 2005).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace gq {

using Crc32Tables = std::array<std::array<uint32_t, 256>, 8>;

constexpr Crc32Tables crc32_tables() {
  Crc32Tables tables{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = value >> 1 ^ (value & 1 ? 0xEDB88320 : 0);
    tables[0][i] = value;
  }
  for (size_t row = 1; row < 8; ++row)
    for (size_t i = 0; i < 256; ++i) {
      uint32_t before = tables[row - 1][i];
      tables[row][i] = before >> 8 ^ tables[0][before & 255];
    }
  return tables;
}

inline uint32_t crc32(const char* data, size_t size) {
  static constexpr Crc32Tables tables = crc32_tables();
  const auto* at = reinterpret_cast<const unsigned char*>(data);
  uint32_t crc = ~0u;
  for (; size >= 8; size -= 8, at += 8) {
    uint32_t low = crc ^ (at[0] | at[1] << 8 | at[2] << 16 | static_cast<uint32_t>(at[3]) << 24);
    crc = tables[7][low & 255] ^ tables[6][low >> 8 & 255] ^ tables[5][low >> 16 & 255] ^
          tables[4][low >> 24] ^ tables[3][at[4]] ^ tables[2][at[5]] ^ tables[1][at[6]] ^
          tables[0][at[7]];
  }
  for (; size > 0; --size, ++at) crc = crc >> 8 ^ tables[0][(crc ^ *at) & 255];
  return ~crc;
}

}  // namespace gq
