"""Bootstrap intervals over repositories, or over the folders or files that a corpus holds out.

Files of one repository resemble each other, so repositories are resampled, not files. The pooled
ratio is computed again from each resample (Efron 1979; percentile intervals).
"""

from collections.abc import Sequence

import numpy as np

RESAMPLES = 1000
Estimate = dict[str, float | None]  # value, low, high; None where the data cannot say


def estimate(
    numerators: Sequence[float] | np.ndarray,
    denominators: Sequence[float] | np.ndarray,
    units: Sequence[str],
    seed: int,
) -> Estimate:
    """sum(numerators) / sum(denominators) with a 95 % interval.

    Args: units: the repository (folder, file) of each observation.
    Returns: low and high are None with fewer than two units, and value when nothing is counted.
    """
    totals_2R, num_units = _totals(numerators, denominators, units)
    numerator, denominator = totals_2R.sum(axis=1)
    if denominator == 0:
        return {"value": None, "low": None, "high": None}
    value = float(numerator / denominator)
    if num_units < 2:
        return {"value": value, "low": None, "high": None}
    rng = np.random.default_rng(seed)
    shares = np.full(num_units, 1 / num_units)
    counts_NR = rng.multinomial(num_units, shares, size=RESAMPLES)
    numerators_N, denominators_N = totals_2R @ counts_NR.T
    has_any = denominators_N > 0
    low, high = np.percentile(numerators_N[has_any] / denominators_N[has_any], [2.5, 97.5])
    return {"value": value, "low": float(low), "high": float(high)}


def _totals(
    numerators: Sequence[float] | np.ndarray,
    denominators: Sequence[float] | np.ndarray,
    units: Sequence[str],
) -> tuple[np.ndarray, int]:
    """[2, units] sums of numerators and of denominators over the units that have any."""
    names, places = np.unique(np.asarray(units, dtype=object).astype(str), return_inverse=True)
    totals = np.zeros((2, len(names)))
    np.add.at(totals[0], places, numerators)
    np.add.at(totals[1], places, denominators)
    totals = totals[:, totals[1] > 0]
    return totals, totals.shape[1]


def mean(values: Sequence[float], units: Sequence[str], seed: int) -> Estimate:
    """The mean over observations, with a 95 % interval over units."""
    return estimate(values, np.ones(len(values)), units, seed)
