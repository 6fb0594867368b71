"""Whisper tiny.en beside other engines: errors, memory, speed and size on the same clips."""
