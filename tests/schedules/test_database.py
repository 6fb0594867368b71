from __future__ import annotations

import json
from dataclasses import replace

import pytest

from gq_tvm import targets
from gq_tvm.errors import Error
from gq_tvm.schedules import Product, Schedule, family
from gq_tvm.schedules.choosing import database
from gq_tvm.schedules.choosing.database import Database, Entry

V4 = targets.get("x86-64-v4")
LOOKUP = family("lookup")
DEFAULT = LOOKUP.schedule({})
OTHER = LOOKUP.schedule({"vectors": 8, "rows": 2})


@pytest.fixture(autouse=True)
def two_schedules(monkeypatch):
    monkeypatch.setattr(type(LOOKUP), "space", lambda *_: [DEFAULT, OTHER])


def entry(n=1024, k=256, rows: int | None = 1, schedule=OTHER, hot=10.0, **fields) -> Entry:
    facts = {"family": "lookup", "bits": 4, "activation": "int8", "threads": 1}
    facts |= {"cold": 40.0, "default_hot": 20.0, "default_cold": 50.0, "cpu": "x", "version": "0"}
    return Entry(**{**facts, "n": n, "k": k, "rows": rows, "schedule": str(schedule), "hot": hot,
                    **fields})  # fmt: skip


def product(n=1024, k=256, rows: int | None = 1, **fields) -> Product:
    return Product(n, k, fields.pop("bits", 4), fields.pop("activation", "int8"), rows, **fields)


def test_the_product_itself():
    found = Database([entry(512), entry()]).find(LOOKUP, V4, product())
    assert found is not None
    assert found.schedule == OTHER
    assert found.exact
    assert found.microseconds == 20.0  # the geometric mean of hot and cold


def test_the_nearest_scaled_by_its_work():
    near, far = entry(2048, schedule=OTHER), entry(8192, schedule=DEFAULT)
    found = Database([far, near]).find(LOOKUP, V4, product())
    assert found is not None
    assert found.schedule == OTHER
    assert not found.exact
    assert found.microseconds == 10.0
    assert found.of == near.product


@pytest.mark.parametrize(
    "other",
    [
        product(bits=3),
        product(activation="fp32"),
        product(rows=16),
        product(rows=2),
        product(n=64 * 1024),
    ],
)
def test_nothing_is_near(other):
    assert Database([entry()]).find(LOOKUP, V4, other) is None


def test_rows_known_at_run_time_are_few():
    found = Database([entry(rows=None), entry(rows=16, schedule=DEFAULT)])
    unknown = found.find(LOOKUP, V4, product(rows=None))
    assert unknown is not None
    assert unknown.exact
    known = found.find(LOOKUP, V4, product(rows=16))
    assert known is not None
    assert known.schedule == DEFAULT


def test_the_first_of_two_wins():
    mine, shipped = entry(), entry(schedule=DEFAULT)
    found = Database([mine, shipped]).find(LOOKUP, V4, product())
    assert found is not None
    assert found.schedule == OTHER


def test_threads_matter_less_than_shape():
    both = Database([entry(threads=2, schedule=DEFAULT), entry(threads=1)])
    found = both.find(LOOKUP, V4, product(), threads=2)
    assert found is not None
    assert found.schedule == DEFAULT


@pytest.mark.parametrize("text", ["vectors=7 rows=1", "tiles=3", ""])
def test_schedules_the_family_does_not_have_are_passed_over(text, monkeypatch):
    monkeypatch.setattr(type(LOOKUP), "space", lambda *_: [OTHER])
    damaged = replace(entry(), schedule=text)
    assert Database([damaged]).find(LOOKUP, V4, product()) is None
    found = Database([damaged, entry(n=512)]).find(LOOKUP, V4, product())
    assert found is not None
    assert found.of.n == 512


def test_only_those_that_pack_alike():
    database = Database([entry(), entry(n=2048, schedule=DEFAULT)])
    found = database.find(LOOKUP, V4, product(), only=DEFAULT)
    assert found is not None
    assert found.schedule == DEFAULT


def test_each_kind_of_layer_keeps_its_own_entry(tmp_path, monkeypatch):
    """A recurrent layer and a gated one have fewer schedules than a linear one of their size."""
    legal = {0: [OTHER, DEFAULT], 4: [DEFAULT]}
    monkeypatch.setattr(type(LOOKUP), "space", lambda _, target, product: legal[product.gates])
    path = tmp_path / "mine.json"
    database.add(path, V4, [entry(schedule=DEFAULT, gates=4), entry(schedule=OTHER)])
    both = Database(database.read(path, V4))
    for gates, schedule in ((0, OTHER), (4, DEFAULT)):
        found = both.find(LOOKUP, V4, product(gates=gates))
        assert found is not None
        assert (found.schedule, found.exact) == (schedule, True)
    shared = Database([entry(schedule=DEFAULT)]).find(LOOKUP, V4, product(gates=4))
    assert shared is not None
    assert shared.exact


def test_files(tmp_path):
    path = tmp_path / "folder" / "mine.json"
    assert database.read(path, V4) == []
    database.add(path, V4, [entry(), entry(512)])
    database.add(path, V4, [entry(hot=5.0)])  # replaces its like
    assert sorted((one.n, one.hot) for one in database.read(path, V4)) == [(512, 10.0), (1024, 5.0)]
    assert len(path.read_text().splitlines()) == 4  # an entry a line
    assert [one.name for one in path.parent.iterdir()] == ["mine.json"]
    assert database.load(V4, path).entries[0].hot in (5.0, 10.0)


def test_files_that_are_no_databases_are_refused(tmp_path):
    path = tmp_path / "mine.json"
    for text in ("", "[]", '{"format": "other"}', json.dumps({"format": database.FORMAT})):
        path.write_text(text)
        with pytest.raises(Error, match=r"mine\.json is no schedule database"):
            database.read(path, V4)
    database.add(tmp_path / "arm.json", targets.get("arm"), [entry()])
    with pytest.raises(Error, match=r"arm\.json is for arm, not for x86-64-v4"):
        database.load(V4, tmp_path / "arm.json")
    with pytest.raises(Error, match="cannot read"):
        database.add(tmp_path / "mine.json" / "below", V4, [])


def test_shipped_files_are_whole(monkeypatch):
    monkeypatch.undo()
    for path in database.SHIPPED.glob("*.json"):
        target = targets.get(path.stem)
        entries = database.read(path, target)
        assert entries
        for one in entries:
            kernel = family(one.family)
            assert kernel.schedule(Schedule.parse(one.schedule)) in kernel.space(
                target, one.product
            )
            assert one.default_hot is not None
            assert one.hot <= 1.05 * one.default_hot


def test_measured_beats_modelled_of_the_same_product(tmp_path):
    path = tmp_path / "mine.json"
    measured = entry(schedule=OTHER, hot=99.0)
    modelled = entry(schedule=DEFAULT, hot=1.0, cpu="modelled cortex-a76")
    for both in ([modelled, measured], [measured, modelled]):
        found = Database(both).find(LOOKUP, V4, product())
        assert found is not None
        assert (found.schedule, found.modelled) == (OTHER, False)
        path.unlink(missing_ok=True)
        for one in both:
            database.add(path, V4, [one])
        assert database.read(path, V4) == [measured]
    nearer = Database([modelled, entry(512)]).find(LOOKUP, V4, product())
    assert nearer is not None
    assert (nearer.schedule, nearer.modelled) == (DEFAULT, True)
    again = replace(modelled, hot=2.0, n=512)
    database.add(path, V4, [replace(modelled, n=512)])
    database.add(path, V4, [again])
    assert again in database.read(path, V4)
