#!/bin/bash
# soundfile 0.14.0 (libsndfile 1.2.2): a WAV file of GSM 6.10 or Microsoft ADPCM comes back longer than it
# was written. Both store whole blocks; the writer puts the true length into the `fact` chunk, and
# the reader passes over it and gives the padding of the last block as sound.
# Seen: 10001 samples written, 10240 (GSM 6.10) and 10500 (Microsoft ADPCM) read, 10001 in `fact`.
# Frame counts and times taken from `info().frames` are off by up to two blocks; trim to `fact` (but not
# for IMA ADPCM, where the same writer puts the padded length there, and for two channels half of it).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check soundfile==0.14.0 numpy==2.4.6
cd "$folder" && venv/bin/python - <<'PYTHON'
import struct

import numpy as np
import soundfile

assert soundfile.__libsndfile_version__ == "1.2.2", soundfile.__libsndfile_version__
samples = np.sin(np.arange(10001) / 10).astype(np.float32) / 2
for subtype, read in {"GSM610": 10240, "MS_ADPCM": 10500}.items():
    soundfile.write("a.wav", samples, 8000, subtype=subtype)
    data = open("a.wav", "rb").read()
    (fact,) = struct.unpack_from("<I", data, data.index(b"fact") + 8)
    frames = len(soundfile.read("a.wav")[0])
    print(f"{subtype}: {len(samples)} written, {fact} in fact, {frames} read")
    assert fact == len(samples) and frames == read == soundfile.info("a.wav").frames
PYTHON
