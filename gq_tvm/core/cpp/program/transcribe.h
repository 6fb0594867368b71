// Recordings on disk to text.
#pragma once

#include <string>

#include "speech/speech.h"

namespace gq {

struct Transcript {
  std::string text;
  double audio = 0;               // seconds
  double taken = 0, reading = 0;  // seconds: in all, and of these for reading and the sample rate
  double slowest = 0;             // seconds of the chunk that took longest to recognise
  bool channels_cancel = false;
};

// Read a recording piece by piece and hand it to a stream that has heard nothing yet. Throws Error
// where it cannot be read; the stream then has heard nothing again.
Transcript transcribe(const std::string& path, const Recogniser& recogniser, Stream& stream);

}  // namespace gq
