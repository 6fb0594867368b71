#!/bin/bash
# jiwer 4.0.0: only a blank parts words; a tab, a line feed or a no-break space does not, so texts
# that read alike have a word error rate of 1. Doubled blanks cost nothing in wer, but count in cer.
# Seen: wer 1.0 for a tab, 1.0 for a line feed, 1.0 for a no-break space, 0.0 for two blanks; cer 1/7.
# A scorer therefore splits on white space itself and joins by one blank before it calls either.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check jiwer==4.0.0 RapidFuzz==3.14.6
cd "$folder" && venv/bin/python - <<'PYTHON'
import jiwer

for name, gap in {"tab": "\t", "line feed": "\n", "no-break space": "\xa0"}.items():
    rate = jiwer.wer("one two", f"one{gap}two")
    print(f"wer, {name}: {rate}")
    assert rate == 1.0
words, characters = jiwer.wer("one two", "one  two"), jiwer.cer("one two", "one  two")
print(f"two blanks: wer {words}, cer {characters:.3f}")
assert words == 0 and abs(characters - 1 / 7) < 1e-9
PYTHON
