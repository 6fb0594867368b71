"""One corpus of a configuration: where its recordings are, who speaks, and what they serve."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gq_tvm import reading
from gq_tvm.errors import Error
from gq_tvm.models.configuration.config_table import Table
from gq_tvm.models.data.voices import synthetic_phrases, synthetic_texts, synthetic_words
from gq_tvm.speech import corpora, tokens
from gq_tvm.speech.corpora import DIGITS, Utterance

ROLES = ("train", "development", "test")
KINDS = ("fsdd", "librispeech", "manifest", "synthetic")


@dataclass(frozen=True)
class Corpus:
    """Recordings of one kind and one role.

    ``joined`` ones are isolated words, to be put in a row. A corpus of kind ``synthetic`` speaks
    every word in each of ``voices`` voices if joined; if not, ``count`` texts or strings of words.
    Voices that are trained on are not heard in evaluation.
    """

    kind: str
    role: str
    name: str
    share: float
    joined: bool
    source: Path | None = None  # folder, file, or file of texts
    speakers: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    count: int = 0
    cache: Path | None = None

    def check(self) -> None:
        """Raise Error, naming this corpus, when its folder or file is not there."""
        if self.source and not os.path.exists(self.source):
            what = "file" if self.kind in ("manifest", "synthetic") else "folder"
            raise Error(
                f"corpus {self.name}: {self.source}: there is no such {what}; check the path, or "
                "give another with --set"
            )

    def utterances(self, seed: int, number: int = 0) -> list[Utterance]:
        """All recordings, synthetic ones spoken first; raises Error naming this corpus.

        Args:
            seed: of what is drawn for synthetic ones.
            number: of this corpus in its configuration: no two for evaluation are alike.
        """
        try:
            found = self._found(seed, number)
            if self.speakers:
                found = corpora.by_speaker(found, self.speakers)
            for utterance in found:
                tokens.encode(utterance.text)
        except Error as error:
            raise Error(f"corpus {self.name}: {error}") from None
        return found

    def _found(self, seed: int, number: int) -> list[Utterance]:
        if self.kind == "synthetic":
            drawn = [seed, self.count, int(self.joined)]
            if self.role != "train":
                drawn += [ROLES.index(self.role), number]
            return self._spoken(np.random.default_rng(drawn))
        assert self.source is not None
        readers = {
            "fsdd": corpora.spoken_digits,
            "librispeech": corpora.librispeech,
            "manifest": corpora.manifest,
        }
        return readers[self.kind](self.source)

    def _spoken(self, rng: np.random.Generator) -> list[Utterance]:
        assert self.cache is not None
        held_out = self.role != "train"
        if self.joined:
            return synthetic_words(rng, self.count, self.cache, self.words, held_out)
        if self.source is None:
            return synthetic_phrases(rng, self.count, self.cache, self.words, held_out)
        return synthetic_texts(rng, self.count, self.cache, self.texts(), held_out)

    def texts(self) -> list[str]:
        """The lines to be spoken."""
        assert self.source is not None
        lines = reading.lines(self.source)
        found = [tokens.normalise(line) for line in lines if line.strip()]
        if not found:
            raise Error(f"{self.source} holds no text; write a line for each")
        return found


def read(table: Table, folders: Mapping[str, Path], cache: Path) -> Corpus:
    """A corpus from its table.

    Args:
        table: ``[[corpus]]``.
        folders: by kind, where the folders of corpora start.
        cache: where synthetic speech is kept, if the table does not say.

    Raises:
        Error: a key is missing, odd or means nothing for this kind.
    """
    kind = table.text("kind", choices=KINDS)
    role = table.text("role", "train", choices=ROLES)
    name = table.text("name", role if role != "train" else f"{kind} of {table.name}")
    joined = table.flag("joined", False)
    share = table.number("share", 1.0)
    corpus = Corpus(kind, role, name, share, joined)
    if kind == "synthetic":
        corpus = _synthetic(table, corpus, cache)
    else:
        source = _source(table, kind, folders)
        corpus = replace(corpus, source=source, speakers=table.texts("speakers", ()))
    table.finish()
    return corpus


def _source(table: Table, kind: str, folders: Mapping[str, Path]) -> Path:
    if kind == "manifest":
        return table.path("file")
    if start := folders.get(kind):
        return start / table.text("folder", "")
    folder = table.path("folder", None)
    if folder is None:
        raise Error(
            f"the configuration's {table.name} has no folder of {kind} recordings; give it with "
            f"--set folders.{kind}=FOLDER, or as folders.{kind} in a copy of the file"
        )
    return folder


def _synthetic(table: Table, corpus: Corpus, cache: Path) -> Corpus:
    texts = None if corpus.joined else table.path("texts", None)
    return replace(
        corpus,
        source=texts,
        words=() if texts else _words(table),
        count=table.whole("voices" if corpus.joined else "count", low=1),
        cache=table.path("cache", cache),
    )


def _words(table: Table) -> tuple[str, ...]:
    if table.take("words", "digits") == "digits":
        return DIGITS
    return tuple(map(tokens.normalise, table.texts("words")))
