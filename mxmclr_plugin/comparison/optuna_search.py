"""Search for the best options with Optuna, in place of a grid."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from mxmclr_plugin.optional_packages import optional

K = TypeVar("K", bound=Hashable)

Options = dict[str, float]
"""Value of each option of a trial."""

Range = tuple[float, float]
"""Lower and upper end, both included, of an option that is drawn on a log scale."""


def optuna_search(
    ranges: Mapping[K, Mapping[str, Range]],
    trials: int,
    seed: int,
    measure: Callable[[Sequence[tuple[K, Options]]], Sequence[float | None]],
) -> list[tuple[K, Options, float | None]]:
    """Try options with Optuna's tree-structured Parzen estimator, the larger the score the better.

    The first half of the trials are drawn at random, the others where scores were good. All follow
    from the seed and the scores, so a search that is repeated with the scores on disk goes on where
    it was.

    Args:
        ranges: What is searched for, and range of each of its options.
        trials: Number of trials for each.
        seed: Seed of the draws.
        measure: Scores of one trial of each; None for a trial that failed.

    Returns:
        What was searched for, options and score of each trial.

    Raises:
        MissingPackage: If Optuna is not installed.
    """
    optuna = optional("optuna", "tuner=optuna needs", "optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    studies = {
        name: optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.TPESampler(n_startup_trials=(trials + 1) // 2, seed=seed),
        )
        for name in ranges
    }
    done: list[tuple[K, Options, float | None]] = []
    for _ in range(trials):
        drawn = {name: study.ask() for name, study in studies.items()}
        options = {
            name: {
                key: float(f"{trial.suggest_float(key, *ends, log=True):.6g}")
                for key, ends in ranges[name].items()
            }
            for name, trial in drawn.items()
        }
        scores = measure(list(options.items()))
        for (name, trial), score in zip(drawn.items(), scores, strict=True):
            failed = optuna.trial.TrialState.FAIL if score is None else None
            studies[name].tell(trial, score, state=failed)
            done.append((name, options[name], score))
    return done
