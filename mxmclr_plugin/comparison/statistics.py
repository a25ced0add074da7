"""Paired differences between losses, and what may be said of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Difference", "holm", "paired_difference", "sentence"]

RESAMPLES = 10_000
FEWEST = 3
"""Pairs below which nothing is said."""


@dataclass(frozen=True)
class Difference:
    """A loss less the baseline, over paired runs.

    Attributes:
        baseline: What is subtracted.
        mean: Mean of the paired differences.
        low, high: The wider of two intervals of the mean: a percentile bootstrap over the pairs, as
            is common, and Student's t, since a bootstrap of so few pairs is too narrow. None for
            less than three pairs.
        bootstrap: Low and high of the bootstrap alone.
        p: Of the paired t-test that the mean is 0.
        confidence: Of the intervals.
        pairs: How many.
    """

    baseline: str
    mean: float
    low: float | None
    high: float | None
    bootstrap: tuple[float, float] | None
    p: float | None
    confidence: float
    pairs: int


def paired_difference(
    values: Mapping[int, float],
    baseline_values: Mapping[int, float],
    baseline: str,
    confidence: float = 0.95,
) -> Difference | None:
    """Difference of two losses over the seeds that both have.

    Args:
        values: Measure by seed.
        baseline_values: The same of the baseline.
        baseline: Its name.
        confidence: Of the intervals.

    Returns:
        The difference, None without a common seed.
    """
    seeds = [seed for seed in values if seed in baseline_values]
    if not seeds:
        return None
    paired = np.array([values[seed] - baseline_values[seed] for seed in seeds])
    mean = float(paired.mean())
    if len(paired) < FEWEST:
        return Difference(baseline, mean, None, None, None, None, confidence, len(paired))
    # All resamples have the same generator, so that a table can be made again.
    drawn = np.random.default_rng(0).integers(len(paired), size=(RESAMPLES, len(paired)))
    tails = [50 * (1 - confidence), 50 * (1 + confidence)]
    lowest, highest = np.percentile(paired[drawn].mean(axis=1), tails)
    error = float(paired.std(ddof=1)) / math.sqrt(len(paired))
    from scipy import stats  # takes a second to import

    reach = float(stats.t.ppf((1 + confidence) / 2, len(paired) - 1)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, len(paired) - 1)) if error > 0 else float(mean == 0)
    return Difference(
        baseline,
        mean,
        min(float(lowest), mean - reach),
        max(float(highest), mean + reach),
        (float(lowest), float(highest)),
        p,
        confidence,
        len(paired),
    )


def holm(p: Mapping[str, float], level: float) -> set[str]:
    """Which of several hypotheses are rejected by Holm's step-down method (Holm 1979).

    Args:
        p: P-values by name.
        level: Probability allowed for rejecting any true one.
    """
    rejected: set[str] = set()
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        if p[name] > level / (len(p) - rank):
            break
        rejected.add(name)
    return rejected


def sentence(
    protocol: str, measure: str, differences: Mapping[str, Difference | None], failed: Sequence[str]
) -> str:
    """What the data support, in words.

    Args:
        protocol: Name of the protocol.
        measure: What is measured.
        differences: Of each loss but the baseline.
        failed: Losses of which a run failed.
    """
    known = {name: d for name, d in differences.items() if d is not None}
    parts = []
    tested = {name: d for name, d in known.items() if d.p is not None and d.low is not None}
    level = 1 - next(iter(tested.values())).confidence if tested else 0.0
    shown = holm({name: d.p for name, d in tested.items() if d.p is not None}, level)
    for name, difference in sorted(tested.items(), key=lambda item: -item[1].mean):
        assert difference.low is not None
        assert difference.high is not None
        interval = (
            f"{difference.confidence:.0%} interval {difference.low:+.2f} to {difference.high:+.2f}"
        )
        if name in shown and (difference.low > 0 or difference.high < 0):
            side = "above" if difference.mean > 0 else "below"
            parts.append(
                f"{name} is {abs(difference.mean):.2f} points {side} {difference.baseline} "
                f"({interval})"
            )
        else:
            parts.append(
                f"no difference between {name} and {difference.baseline} is shown "
                f"({difference.mean:+.2f}, {interval})"
            )
    few = [name for name in known if name not in tested]
    if few:
        pairs = min(known[name].pairs for name in few)
        parts.append(
            f"{', '.join(few)}: nothing is said of fewer than {FEWEST} paired runs, there "
            f"{'is' if pairs == 1 else 'are'} {pairs}"
        )
    missing = [name for name, difference in differences.items() if difference is None]
    if missing:
        parts.append(f"{', '.join(missing)}: no run to pair with the baseline's")
    if failed:
        parts.append(f"runs failed of {', '.join(failed)}")
    pairs_of = {d.pairs for d in tested.values()}
    runs = f", {min(pairs_of)} paired runs each" if pairs_of else ""
    return f"{protocol}, {measure}{runs}: {'; '.join(parts) or 'nothing to compare'}."
