import pytest

from gq_tvm.errors import Error
from gq_tvm.runtime.sizes import evaluate


@pytest.mark.parametrize(
    ("size", "number"),
    [
        (7, 7),
        ("frames", 9),
        ("(frames - 3) // 2 + 1", 4),
        ("T.min(frames, 5) * 2 - T.max(-frames, -4)", 14),
        ("T.if_then_else(frames < -3, 0, frames % 4)", 1),
        ("others", 2),
    ],
)
def test_sizes_known_at_run_time(size, number):
    assert evaluate(size, {"frames": 9}, otherwise=2) == number


@pytest.mark.parametrize(
    "size", ["others", "frames.real", "T.min(frames)", "T.exit(1, 2)", "[frames]", "frames // 0"]
)
def test_what_is_no_size_is_refused(size):
    with pytest.raises(Error, match="not understood; compile the model again"):
        evaluate(size, {"frames": 9})
