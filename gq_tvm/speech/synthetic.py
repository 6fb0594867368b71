"""Synthetic speech from espeak-ng and flite, kept in a cache folder.

Both are programs of their own, found on the PATH; either alone is enough.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from gq_tvm import files
from gq_tvm.errors import Error
from gq_tvm.speech.corpora import Utterance

ESPEAK_ACCENTS = (
    "en-us",
    "en-gb",
    "en-gb-scotland",
    "en-gb-x-gbclan",
    "en-gb-x-rp",
    "en-gb-x-gbcwmd",
)
# Women and children are rare among the variants: these are named to be drawn more often.
ESPEAK_HIGH = ("f1", "f2", "f3", "f4", "f5", "Annie", "Andrea", "Alicia", "belinda", "linda",
               "steph", "steph2", "steph3", "anika", "aunty")  # fmt: skip
ESPEAK_LOW = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "Alex", "Andy", "Denis", "Diogo",
              "Gene", "Gene2", "Henrique", "Hugo", "Jacky", "Lee", "Marco", "Mario", "Michael",
              "Mike", "Storm", "adam", "antonio", "benjamin", "boris", "caleb", "david", "ed",
              "edward", "edward2", "grandma", "grandpa", "iven", "iven2", "iven3", "iven4", "john",
              "klatt", "klatt2", "klatt3", "klatt4", "klatt5", "klatt6", "max", "michel", "norbert",
              "paul", "pedro", "quincy", "rob", "robert", "sandro", "shelby", "travis", "victor",
              "zac")  # fmt: skip
FLITE_VOICES = ("slt", "rms", "awb", "kal16")


@dataclass(frozen=True)
class Voice:
    """A voice of one of the two programs.

    ``pitch`` is a factor on the voice's own fundamental frequency, ``pace`` a factor on its
    speaking rate.
    """

    program: str
    name: str
    pitch: float = 1.0
    pace: float = 1.0

    def __str__(self) -> str:
        return f"{self.program}:{self.name}:{self.pitch:.2f}:{self.pace:.2f}"

    def arguments(self, text: str, path: Path) -> list[str]:
        """The command line that speaks ``text`` into ``path``."""
        if self.program == "espeak-ng":
            pitch = min(99, max(0, round(50 + 50 * (self.pitch - 1))))
            rate = round(165 * self.pace)
            options = ["-v", self.name, "-p", str(pitch), "-s", str(rate), "-w", str(path)]
            return ["espeak-ng", *options, text]
        hertz = round({"slt": 175, "rms": 105, "awb": 130, "kal16": 105}[self.name] * self.pitch)
        settings = {"duration_stretch": f"{1 / self.pace:.3f}", "int_f0_target_mean": str(hertz)}
        options = [word for key, value in settings.items() for word in ("--setf", f"{key}={value}")]
        return ["flite", "-voice", self.name, *options, "-t", text, "-o", str(path)]


def programs() -> list[str]:
    """Which of the two programs are installed; raises Error when neither is."""
    found = [program for program in ("espeak-ng", "flite") if shutil.which(program)]
    if not found:
        raise Error(
            "synthetic speech needs espeak-ng or flite, and neither is installed; "
            "install one (apt-get install espeak-ng flite) or train without synthetic speech"
        )
    return found


def voices() -> tuple[list[Voice], list[Voice]]:
    """The low and the high voices that are really installed here, at natural pitch and pace.

    espeak-ng takes an unknown variant for its plain voice without a word, so its own list is
    asked; variants that only distort (whispers, robots) are not used.
    """
    low, high = [], []
    installed = programs()
    if "espeak-ng" in installed:
        variants = _listed("espeak-ng", "--voices=variant")
        accents = _listed("espeak-ng", "--voices=en")
        for accent in ESPEAK_ACCENTS:
            if not accents & {f"gmw/{accent}", f"gmw/{accent.replace('us', 'US')}", "gmw/en"}:
                continue
            low += [
                Voice("espeak-ng", f"{accent}+{name}")
                for name in ESPEAK_LOW
                if f"!v/{name}" in variants
            ]
            high += [
                Voice("espeak-ng", f"{accent}+{name}")
                for name in ESPEAK_HIGH
                if f"!v/{name}" in variants
            ]
    if "flite" in installed:
        names = _listed("flite", "-lv")
        low += [Voice("flite", name) for name in FLITE_VOICES if name in names and name != "slt"]
        high += [Voice("flite", name) for name in FLITE_VOICES if name in names and name == "slt"]
    return low, high


@lru_cache
def _listed(*command: str) -> frozenset[str]:
    return frozenset(subprocess.run(command, capture_output=True, text=True).stdout.split())


def speak(text: str, voice: Voice, cache: str | Path) -> Utterance:
    """``text`` in a voice, spoken once and then taken from the folder ``cache``.

    Raises Error when the program fails or writes nothing.
    """
    name = hashlib.sha256(f"{voice}\n{text}".encode()).hexdigest()[:20]
    path = Path(cache) / f"{name}.wav"
    if not path.exists():
        with files.whole(path) as temporary:
            temporary.touch()
            outcome = subprocess.run(
                voice.arguments(text, temporary), capture_output=True, text=True
            )
            if outcome.returncode or temporary.stat().st_size <= 44:  # 44: a bare WAV header
                reason = (outcome.stderr.strip().splitlines() or ["it wrote no sound"])[-1]
                raise Error(f"{voice.program} cannot speak with voice {voice.name}: {reason}")
    return Utterance(path, text, str(voice))


def speak_all(texts_and_voices: Iterable[tuple[str, Voice]], cache: str | Path) -> list[Utterance]:
    """:func:`speak` over many; the result keeps the order."""
    return [speak(text, voice, cache) for text, voice in texts_and_voices]
