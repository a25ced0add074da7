"""What is wrong with a user's files: counted, listed, and skipped or an error, never silent."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from mxmclr_plugin.errors import DataError

__all__ = ["OnError", "Problem", "ProblemLog"]

OnError = Literal["skip", "raise"]


@dataclass(frozen=True)
class Problem:
    """One thing that was left out.

    Attributes:
        kind: What sort of problem, in few words that count together: "grid missing".
        where: File, line, key or id.
        what: What was wrong there.
    """

    kind: str
    where: str
    what: str


class ProblemLog:
    """Takes note of what is left out, or refuses to leave it out.

    Attributes:
        on_error: ``"skip"`` notes a problem, ``"raise"`` makes it an error.
        problems: What was noted.

    Raises:
        ValueError: If ``on_error`` is neither.
    """

    def __init__(self, on_error: str = "skip") -> None:
        if on_error not in ("skip", "raise"):
            raise ValueError(f"on_error must be skip or raise, got {on_error!r}")
        self.on_error = on_error
        self.problems: list[Problem] = []

    def add(self, kind: str, where: object, what: object) -> None:
        """Notes a problem.

        Raises:
            DataError: If problems are errors.
        """
        problem = Problem(kind, str(where), str(what))
        if self.on_error == "raise":
            message = (
                f"{problem.where}: {problem.what} ({kind}); mend it, or leave such data out with "
                "on_error=skip"
            )
            raise DataError(" ".join(message.split()))  # a file's name may hold a line break
        self.problems.append(problem)

    def counts(self) -> dict[str, int]:
        """How many of each kind, the most frequent first."""
        return dict(Counter(problem.kind for problem in self.problems).most_common())
