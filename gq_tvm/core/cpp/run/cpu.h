// What the CPU can do, by the names that gq_tvm.targets uses.
#pragma once

#include <string>

namespace gq {

bool cpu_has(const std::string& feature);

// CPUs that this thread may run on.
int usable_cpus();

}  // namespace gq
