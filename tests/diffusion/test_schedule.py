import numpy as np
import pytest

from gesso.diffusion.schedule import LinearTemperature

PUBLISHED = LinearTemperature(start=0.8, end=0.4)


def test_published_ends() -> None:
    """0.8 at the first of 48 steps; the end itself would come after the last."""
    assert PUBLISHED(0, 48) == pytest.approx(0.8, abs=1e-7)
    assert PUBLISHED(47, 48) == pytest.approx(0.40833333, abs=1e-7)


@pytest.mark.parametrize("steps", [1, 2, 7, 48])
def test_it_is_a_straight_line(steps: int) -> None:
    values = [PUBLISHED(step, steps) for step in range(steps)]
    expected = [0.4 + 0.4 * (steps - step) / steps for step in range(steps)]
    assert values == pytest.approx(expected, abs=1e-7)
    assert min(values) > 0.4


def test_constant_and_rising() -> None:
    constant = LinearTemperature(start=0.75, end=0.75)
    assert {constant(step, 5) for step in range(5)} == {0.75}
    rising = LinearTemperature(start=0.5, end=1.0)
    assert rising(3, 4) == pytest.approx(0.875)


def test_the_product_is_taken_in_float32() -> None:
    """As the reference takes it: the fraction is rounded to float32 before anything else."""
    for step in range(48):
        fraction = np.float32(48 - step) / np.float32(48)
        assert PUBLISHED(step, 48) == float(np.float32(0.4) + np.float32(0.4) * fraction)
