"""Tuned schedules: which was best for a product on a target, and how long it took.

That was measured, or modelled where there was no such device (`gq_tvm.modelled`); what was measured
of a product always wins.

A database is a JSON file. Those for common shapes are shipped in the folder ``database``; what a
user tunes is kept in the cache and comes first. A product nobody measured takes the schedule of
the nearest one that was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import inf, log2, sqrt
from pathlib import Path
from typing import Any

from gq_tvm import cache, files
from gq_tvm.errors import Error
from gq_tvm.schedules.family import Family, Product, written
from gq_tvm.schedules.schedule import Schedule
from gq_tvm.targets import TARGETS, Target

FORMAT = "gq-tvm schedules"
VERSION = 1

MODELLED = "modelled "  #: so `Entry.cpu` begins if its times were not measured

SHIPPED = Path(__file__).parent / "database"

# How far, in doublings, a measured product may be from one that takes its schedule.
_FARTHEST_SIDE = 4.0
_FARTHEST_ROWS = 2.0


@dataclass(frozen=True)
class Entry:
    """The best schedule found for a product.

    Attributes:
        family: The kernel family.
        n: Rows of the weight.
        k: Columns of the weight.
        bits: Bits of an index.
        activation: ``"int8"`` or ``"fp32"``.
        rows: Rows of the activations; None if known only at run time.
        threads: Threads the kernel ran on.
        schedule: As ``str(Schedule)`` has it.
        hot: Microseconds of a call with the weights in the cache.
        cold: The same after the caches were flushed; None where that cannot be done.
        default_hot: `hot` of the schedule that was taken before; None if that failed.
        default_cold: `cold` of that.
        cpu: What it was measured on, or `MODELLED` and the target it was modelled for.
        version: Of gq-tvm.
        gates: See `Product`; it is the linear kernel that was timed.
        glu: The same.
        group: The same.
        zero: The same.
        tables: The same.
        scale_type: The same.
        zero_type: The same.
    """

    family: str
    n: int
    k: int
    bits: int
    activation: str
    rows: int | None
    threads: int
    schedule: str
    hot: float
    cold: float | None
    default_hot: float | None
    default_cold: float | None
    cpu: str
    version: str
    gates: int = 0
    glu: bool = False
    group: int = 0
    zero: bool = False
    tables: int = 1
    scale_type: str = "float32"
    zero_type: str = "float32"

    @property
    def key(self) -> tuple[Any, ...]:
        """What was measured: entries of the same key replace each other."""
        return (self.family, self.product, self.threads)

    @property
    def product(self) -> Product:
        """The product."""
        sizes = (self.n, self.k, self.bits, self.activation, self.rows)
        return Product(*sizes, self.gates, self.glu, *_form(self))

    @property
    def modelled(self) -> bool:
        """Whether its times were not measured."""
        return self.cpu.startswith(MODELLED)

    @property
    def cost(self) -> float:
        """The microseconds schedules and families are ranked by."""
        return cost(self.hot, self.cold)


def cost(hot: float, cold: float | None) -> float:
    """Weigh times with the weights in the cache and out of it alike: their geometric mean."""
    return hot if cold is None else sqrt(hot * cold)


@dataclass(frozen=True)
class Found:
    """A schedule out of a database.

    Attributes:
        schedule: It.
        microseconds: What its kernel should cost, scaled by the work where `exact` is false.
        exact: Whether this very product was tuned.
        of: The product that was.
        modelled: Whether its time was not measured.
    """

    schedule: Schedule
    microseconds: float
    exact: bool
    of: Product
    modelled: bool = False


class Database:
    """Entries to look schedules up in.

    Of two equally near the measured one is taken, then that of the same kind of layer, then the
    first.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.entries = list(entries)

    def sources(self) -> list[Database]:
        """The entries by what they were measured on, or modelled for, in the order of the first."""
        by_cpu: dict[str, list[Entry]] = {}
        for one in self.entries:
            by_cpu.setdefault(one.cpu, []).append(one)
        return list(map(Database, by_cpu.values()))

    def find(
        self,
        family: Family,
        target: Target,
        product: Product,
        threads: int = 1,
        only: Schedule | None = None,
    ) -> Found | None:
        """Return the schedule tuned for `product`, or for the nearest one; None if none is near.

        Args:
            family: The kernel family.
            target: The device; a schedule outside its ``family.space`` is passed over.
            product: The product a kernel is wanted for.
            threads: On which it will run.
            only: If given, only schedules that pack the weight as this one does.
        """
        near = [(_distance(one, family, product, threads), one) for one in self.entries]
        near = sorted(
            (pair for pair in near if pair[0] < inf),
            key=lambda pair: (pair[0], pair[1].modelled, _kind(pair[1]) != _kind(product)),
        )
        space = family.space(target, product) if near else []
        for distance, entry in near:
            try:
                schedule = family.schedule(Schedule.parse(entry.schedule))
            except Error:  # of another version
                continue
            if schedule in space and (
                only is None or family.layout(schedule) == family.layout(only)
            ):
                scale = _work(product) / _work(entry.product)
                return Found(
                    schedule, entry.cost * scale, distance == 0, entry.product, entry.modelled
                )
        return None


def _kind(of: Entry | Product) -> tuple[int, bool]:
    """What a kind of layer lays its own weights out by; times hardly differ."""
    return of.gates, of.glu


def _form(of: Entry | Product) -> tuple[int, bool, int, str, str]:
    """What a weight has more of than one table and a scale for each row."""
    return of.group, of.zero, of.tables, of.scale_type, of.zero_type


def _distance(entry: Entry, family: Family, product: Product, threads: int) -> float:
    """How unlike an entry's product is, in doublings; infinite if its schedule says nothing."""
    same = (entry.family, entry.bits, entry.activation)
    if same != (family.name, product.bits, product.activation):
        return inf
    if (entry.product.usual_rows == 1) != (product.usual_rows == 1):
        return inf  # one row shares no look-up with another
    sides = [abs(log2(entry.n / product.n)), abs(log2(entry.k / product.k))]
    rows = abs(log2(max(entry.product.usual_rows, 1) / max(product.usual_rows, 1)))
    if max(sides) > _FARTHEST_SIDE or rows > _FARTHEST_ROWS:
        return inf
    unknown = 0.5 * ((entry.rows is None) != (product.rows is None))
    unlike = 0.5 * (_form(entry) != _form(product))
    return sum(sides) + 2 * rows + unknown + unlike + abs(log2(entry.threads / threads))


def _work(product: Product) -> float:
    return float(product.n) * product.k * max(product.usual_rows, 1)


def user_path(target: Target) -> Path:
    """Where the schedules a user tuned for `target` are kept: in the cache (see `cache.root`)."""
    return cache.root() / "schedules" / f"{target.name}.json"


def load(target: Target, user: Path | None = None) -> Database:
    """Return what is known for `target`: the user's entries, the shipped ones, those of its kin.

    Args:
        target: The device.
        user: The user's database; None is the one in the cache. It need not exist.

    Raises:
        Error: the user's database is damaged or for another instruction set.
    """
    kin = [one for one in TARGETS.values() if one.instruction_set == target.instruction_set]
    names = [target.name, *(one.name for one in kin if one.name != target.name)]
    entries = read(user or user_path(target), target)
    for name in names:
        entries += read(SHIPPED / f"{name}.json", target)
    return Database(entries)


def read(path: Path, target: Target) -> list[Entry]:
    """Return the entries of a database file; none if it does not exist.

    Raises:
        Error: it is no such file, or for another instruction set than `target`'s.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as failure:
        raise Error(f"cannot read {path}: {failure}; name another --database") from failure
    try:
        data = json.loads(text)
        if data["format"] != FORMAT or data["version"] != VERSION:
            raise ValueError
        for_target, entries = data["target"], [Entry(**one) for one in data["entries"]]
    except (KeyError, TypeError, ValueError) as failure:
        raise Error(
            f"{path} is no schedule database of this gq-tvm; remove it or name another --database"
        ) from failure
    kin = TARGETS.get(for_target)
    if kin is None or kin.instruction_set != target.instruction_set:
        raise Error(f"{path} is for {for_target}, not for {target.name}; name another --database")
    return entries


def add(path: Path, target: Target, entries: Sequence[Entry]) -> None:
    """Put entries into a database file, made if it is not there; it is whole at every moment.

    A modelled entry does not replace a measured one.

    Raises:
        Error: the file is no database of `target`, or cannot be written.
    """
    kept = {one.key: one for one in read(path, target)}
    for one in entries:
        if one.key not in kept or kept[one.key].modelled or not one.modelled:
            kept[one.key] = one
    order = sorted(kept.values(), key=lambda one: str(one.key))
    lines = ",\n".join(json.dumps(written(asdict(one))) for one in order)
    head = json.dumps({"format": FORMAT, "version": VERSION, "target": target.name})[:-1]
    files.write_text(path, f'{head}, "entries": [\n{lines}\n]}}\n', "name another --database")
