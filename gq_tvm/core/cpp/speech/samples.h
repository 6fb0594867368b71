// What is audio, and what is damage.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace gq {

// Audio lies in [-1, 1]; a sample beyond this is damage. Floats of the size of 32-bit integers are
// within, and no frame of such samples makes a feature that is not finite.
constexpr float kLoudest = 1e10f;  // LOUDEST of gq_tvm.speech.samples

// The number of the first sample that is NaN or beyond kLoudest; `count` if there is none.
int64_t first_damaged(const float* samples, int64_t count);

// Such a sample in words.
std::string spelled_sample(float sample);

}  // namespace gq
