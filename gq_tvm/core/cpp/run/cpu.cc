#include "run/cpu.h"

#include <sched.h>
#include <sys/auxv.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <sstream>
#include <thread>

namespace gq {

#if defined(__aarch64__) || defined(__arm__)

// Bits of AT_HWCAP and, from 64 on, of AT_HWCAP2 (Linux, asm/hwcap.h).
bool cpu_has(const std::string& feature) {
#if defined(__aarch64__)
  static const std::map<std::string, int> bits = {
      {"neon", 1}, {"fp16", 10}, {"dotprod", 20}, {"i8mm", 64 + 13}};
#else
  static const std::map<std::string, int> bits = {{"neon", 12}, {"vfpv4", 16}};
#endif
  auto found = bits.find(feature);
  if (found == bits.end()) return false;
  int bit = found->second;
  unsigned long word = getauxval(bit < 64 ? AT_HWCAP : AT_HWCAP2);
  return word >> (bit % 64) & 1;
}

#else

bool cpu_has(const std::string& feature) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.compare(0, 5, "flags") != 0) continue;
    std::istringstream words(line);
    for (std::string word; words >> word;)
      if (word == feature) return true;
    return false;
  }
  return false;
}

#endif

int usable_cpus() {
  cpu_set_t cpus;
  if (sched_getaffinity(0, sizeof cpus, &cpus) == 0) return CPU_COUNT(&cpus);
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

}  // namespace gq
