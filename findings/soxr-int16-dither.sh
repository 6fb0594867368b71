#!/bin/bash
# soxr 1.0.0 (python-soxr; libsoxr 0.1.3): resampling int16 adds noise, also where nothing is resampled.
# libsoxr dithers whatever it rounds to integers, and the Python interface has no switch for it.
# Seen: a second of int16 zeros, 48 kHz to 16 kHz, comes out with 23% of its samples -1 or 1, at every
# quality; so does 16 kHz to 16 kHz. A tone cut into chunks (ResampleStream) differs by up to 2 from the
# same tone in one piece. The same signals in float32: zeros stay zeros, chunks and whole are equal.
# Who gates on silence or wants answers that do not depend on chunks resamples float32.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check soxr==1.0.0 numpy==2.4.6
cd "$folder" && venv/bin/python - <<'PYTHON'
import numpy as np
import soxr

silence = np.zeros(48000, np.int16)
for quality in ("QQ", "LQ", "MQ", "HQ", "VHQ"):
    noise = soxr.resample(silence, 48000, 16000, quality=quality)
    print(f"{quality}: {(noise != 0).mean():.1%} of silence is {sorted(set(noise.tolist()))}")
    assert set(noise.tolist()) == {-1, 0, 1} and 0.2 < (noise != 0).mean() < 0.3
same = soxr.resample(silence, 16000, 16000)
assert set(same.tolist()) == {-1, 0, 1}
assert not soxr.resample(silence.astype(np.float32), 48000, 16000).any()

tone = (3000 * np.sin(np.arange(48000) / 10)).astype(np.int16)
for dtype in ("int16", "float32"):
    samples = tone.astype(dtype)
    whole = soxr.resample(samples, 48000, 16000)
    stream = soxr.ResampleStream(48000, 16000, 1, dtype=dtype)
    starts = range(0, len(samples), 480)
    chunks = [stream.resample_chunk(samples[i : i + 480], last=i == starts[-1]) for i in starts]
    off = np.abs(np.concatenate(chunks).astype(float) - whole).max()
    print(f"{dtype}: chunks differ from the whole by up to {off:g}")
    assert (0 < off <= 2) if dtype == "int16" else off == 0
PYTHON
