// Where the time of a bundle goes.
#pragma once

#include <string>

#include "run/model.h"

namespace gq {

// A line for each layer of each function that was called, and kernel that is of no layer: how often
// it ran, the median of its times, and its share of all time if each run took the median. Then what
// memory the process took.
std::string profile(Model& model);

}  // namespace gq
