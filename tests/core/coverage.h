// Which steps the code under test has taken: what leads to a new one is worth altering further.
//
// GCC calls __sanitizer_cov_trace_pc in each basic block of what is compiled with
// -fsanitize-coverage=trace-pc; the program that includes this once is compiled without.
#pragma once

#include <bitset>
#include <cstddef>

namespace coverage {

inline std::bitset<1 << 18> seen;  // pairs of blocks, one behind the other
inline size_t before = 0;
inline bool is_new = false;

// Whether a step was new since this was last asked.
inline bool news() {
  bool found = is_new;
  is_new = false;
  before = 0;
  return found;
}

}  // namespace coverage

extern "C" void __sanitizer_cov_trace_pc() {
  // From a place in the program, so that it is the same wherever that is loaded.
  size_t here = reinterpret_cast<size_t>(__builtin_return_address(0)) -
                reinterpret_cast<size_t>(&__sanitizer_cov_trace_pc);
  size_t step = (here ^ (coverage::before << 5)) % coverage::seen.size();
  coverage::is_new |= !coverage::seen[step];
  coverage::seen[step] = true;
  coverage::before = here;
}
