"""Problems of a user's files: counted, listed, and skipped or an error, never silent."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from mxmclr_plugin.bounds import within_bounds
from mxmclr_plugin.errors import DataError

_EXAMPLES, _LONGEST = 2, 400  # of each kind in a summary, and characters of one

OnError = Literal["skip", "raise"]
"""What is done about a problem: it is left out and listed, or it is an error."""


@dataclass(frozen=True)
class Problem:
    """One record, line or file that was left out.

    Attributes:
        kind: What sort of problem, in few words that count together: "grid missing".
        where: File, line, key or id.
        what: The reason.
    """

    kind: str
    where: str
    what: str


class ProblemLog:
    """Collects problems, or raises the first.

    Attributes:
        on_error: ``"skip"`` notes a problem, ``"raise"`` makes it an error.
        problems: The problems so far.
    """

    @within_bounds
    def __init__(self, on_error: OnError = "skip") -> None:
        self.on_error = on_error
        self.problems: list[Problem] = []

    def add(self, kind: str, where: object, what: object) -> None:
        """Note a problem.

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

    def summary(self) -> str:
        """How many of each kind, with the place and reason of the first ones."""
        kinds = []
        for kind, count in self.counts().items():
            first = [problem for problem in self.problems if problem.kind == kind][:_EXAMPLES]
            listed = "; ".join(f"{problem.where}: {problem.what}"[:_LONGEST] for problem in first)
            more = "; ..." if count > len(first) else ""
            kinds.append(f"{kind}: {count} ({listed}{more})")
        return " ".join(", ".join(kinds).split())  # a file's name may hold a line break
