from __future__ import annotations

import pytest

from benchmarks.model_validation import overall, spearman, text


def test_rank_correlation():
    assert spearman([1, 2, 3], [10, 20, 90]) == pytest.approx(1)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    # Ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4, by hand: 4.5 / sqrt(4.5 x 5).
    assert spearman([1, 2, 2, 5], [1, 2, 3, 4]) == pytest.approx(0.9486833)


def test_products_do_not_add_to_the_correlation_by_their_sizes():
    def product(scale: float) -> dict:
        times = [(1.0, 2.0), (2.0, 1.0)]
        rows = [
            {
                "family": "lookup",
                "modelled": {"hot": scale * model, "cold": scale * model},
                "measured": {"hot": scale * real, "cold": scale * real},
            }
            for model, real in times
        ]
        figures = {f"{name}_{kind}": 1.0 for name in ("spearman", "chosen_over_best")
                   for kind in ("hot", "cold")}  # fmt: skip
        return {"product": "1x1", "kernels": rows, **figures}

    found = overall([product(1.0), product(1000.0)])
    assert found["spearman_hot"] == found["within_families_cold"] == -1
    data = {
        "machine": {"cpu": "a CPU"},
        "circumstances": {"date": "today"},
        "tools": {"qemu": "7", "llvm": "22"},
        "mca": ["-mcpu=znver4"],
        "rounds": 3,
        "overall": found,
        "products": [product(1.0)],
    }
    assert "of all 2 kernels, each time relative to its product's mean: -1.00" in text(data)
