"""Seeds 501 to 1000: nothing lost, doubled, reordered, stuck, or passed over in silence."""

from __future__ import annotations

from tests.simulation.thousand import check_seeds


def test_500_more_seeds_without_a_violation() -> None:
    check_seeds(range(501, 1001))
