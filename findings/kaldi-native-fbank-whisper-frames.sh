#!/bin/bash
# kaldi-native-fbank 1.23.0: frame t of OnlineWhisperFbank is centred on sample 160 t + 80. Whisper's
# own features (a centred STFT with a hop of 160) centre it on sample 160 t: half a hop, 5 ms, earlier.
# Seen: of all places of a single impulse, sample 8080 gives frame 50 the most energy, not 8000.
# A recogniser trained on the one and fed by the other sees every edge half a frame late.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check kaldi-native-fbank==1.23.0 numpy==2.4.6
cd "$folder" && venv/bin/python - <<'PYTHON'
import kaldi_native_fbank
import numpy as np


def energy(place, frame=50):
    """Of one frame of a second of silence with an impulse at a place."""
    stream = kaldi_native_fbank.OnlineWhisperFbank(kaldi_native_fbank.WhisperFeatureOptions())
    samples = np.zeros(16000, np.float32)
    samples[place] = 1
    stream.accept_waveform(16000, samples.tolist())
    stream.input_finished()
    return stream.get_frame(frame).sum()


centre = max(range(7800, 8300, 10), key=energy)
print("frame 50 is centred on sample", centre)
assert centre == 160 * 50 + 80
PYTHON
