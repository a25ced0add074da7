"""Paired differences between losses, and the conclusions that they support."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

FEWEST = 3
"""Pairs needed for a conclusion."""


@dataclass(frozen=True)
class Difference:
    """Metric of a variant minus that of the baseline, over paired runs.

    Attributes:
        baseline: Name of the baseline.
        mean: Mean of the paired differences.
        low, high: The wider of two intervals of the mean: the percentile bootstrap over the pairs,
            which is too narrow for so few, and Student's t. None for fewer than three pairs.
        bootstrap: Low and high of the bootstrap alone.
        p: P-value of the paired t-test that the mean is 0.
        confidence: Confidence of the intervals.
        pairs: Number of pairs.
    """

    baseline: str
    mean: float
    low: float | None
    high: float | None
    bootstrap: list[float] | None
    p: float | None
    confidence: float
    pairs: int

    @property
    def excludes_zero(self) -> bool | None:
        """Whether the interval excludes 0; None without an interval."""
        if self.low is None or self.high is None:
            return None
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        mean = f"{self.mean:+.2f}"
        return mean if self.low is None else f"{mean} ({self.low:+.2f} to {self.high:+.2f})"


def paired_difference(
    values: Mapping[int, float],
    baseline_values: Mapping[int, float],
    baseline: str,
    confidence: float = 0.95,
) -> Difference | None:
    """Difference to a baseline over the seeds that both have.

    Args:
        values: Metric by seed.
        baseline_values: Metric of the baseline by seed.
        baseline: Name of the baseline.
        confidence: Confidence of the intervals.

    Returns:
        The difference, None without a common seed.
    """
    seeds = [seed for seed in values if seed in baseline_values]
    if not seeds:
        return None
    ours, theirs = (np.array([of[seed] for seed in seeds]) for of in (values, baseline_values))
    paired = ours - theirs
    mean, pairs = float(paired.mean()), len(paired)
    if pairs < FEWEST:
        return Difference(baseline, mean, None, None, None, None, confidence, pairs)
    if np.ptp(paired) == 0:  # scipy's tests divide by the spread
        same = [mean, mean]
        return Difference(baseline, mean, mean, mean, same, float(mean == 0), confidence, pairs)
    test = stats.ttest_rel(ours, theirs)
    interval = test.confidence_interval(confidence)
    resampled = stats.bootstrap(
        (paired,),
        np.mean,
        n_resamples=10_000,
        confidence_level=confidence,
        method="percentile",
        random_state=np.random.default_rng(0),  # the same table every time
    ).confidence_interval
    return Difference(
        baseline,
        mean,
        float(min(resampled.low, interval.low)),
        float(max(resampled.high, interval.high)),
        [float(resampled.low), float(resampled.high)],
        float(test.pvalue),
        confidence,
        pairs,
    )


def holm(p: Mapping[str, float], level: float) -> set[str]:
    """Hypotheses that Holm's step-down method rejects (Holm 1979).

    Args:
        p: P-values by name.
        level: Allowed probability of rejecting any true hypothesis.
    """
    rejected: set[str] = set()
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        if p[name] > level / (len(p) - rank):
            break
        rejected.add(name)
    return rejected


def conclusion(
    title: str, metric: str, differences: Mapping[str, Difference | None], failed: Sequence[str]
) -> str:
    """Conclusions that the differences support, in a sentence.

    A loss is called above or below the baseline only if the interval excludes 0 and the t-test is
    significant after Holm's correction.

    Args:
        title: Name of the protocol.
        metric: Name of the metric.
        differences: Difference of each loss but the baseline.
        failed: Losses with a failed run.
    """
    known = {name: d for name, d in differences.items() if d is not None}
    tested = {name: d for name, d in known.items() if d.p is not None}
    level = 1 - next(iter(tested.values())).confidence if tested else 0.0
    significant = holm({name: d.p for name, d in tested.items() if d.p is not None}, level)
    parts = []
    for name, difference in sorted(tested.items(), key=lambda item: -item[1].mean):
        interval = (
            f"{difference.confidence:.0%} interval {difference.low:+.2f} to {difference.high:+.2f}"
        )
        if name in significant and difference.excludes_zero:
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
            f"{', '.join(few)}: no conclusion from fewer than {FEWEST} paired runs, there "
            f"{'is' if pairs == 1 else 'are'} {pairs}"
        )
    missing = [name for name, difference in differences.items() if difference is None]
    if missing:
        parts.append(f"{', '.join(missing)}: no run to pair with the baseline's")
    if failed:
        parts.append(f"runs failed of {', '.join(failed)}")
    runs = ""
    if counts := [d.pairs for d in tested.values()]:
        fewest, most = min(counts), max(counts)
        runs = f", {fewest if fewest == most else f'{fewest} to {most}'} paired runs each"
    return f"{title}, {metric}{runs}: {'; '.join(parts) or 'nothing to compare'}."
