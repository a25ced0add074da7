import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Gt, Le, Lt, MinLen

from mxmclr_plugin.bounds import Count, OneOf, check_bounds, choices_of
from mxmclr_plugin.errors import ConfigError


@dataclass
class Inner:
    share: Annotated[float, Ge(0), Lt(1)] = 0.5


@dataclass
class Outer:
    inner: Inner = field(default_factory=Inner)
    count: Count | None = None
    level: Annotated[float, Gt(0), Le(2)] = 1.0
    kind: Annotated[str, OneOf(("red", "green"))] = "red"
    depths: Annotated[list[Count], MinLen(1)] = field(default_factory=lambda: [1])
    folds: dict[str, Count] = field(default_factory=dict)
    free: float | None = None
    either: Annotated[int, Ge(0)] | list[int] = 0


def test_values_at_their_bounds_pass():
    check_bounds(Outer(Inner(0.0), 1, 2.0, "green", [1, 7], {"a": 1}, -1e30, [-5]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 0}, "count must be 1 or more, got 0"),
        ({"count": 2**40}, "count must be 2147483647 or less, got 1099511627776"),
        ({"level": 0.0}, "level must be above 0, got 0.0"),
        ({"level": float("nan")}, "level must be a finite number, got nan"),
        ({"free": float("inf")}, "free must be a finite number, got inf"),
        ({"kind": "blue"}, "kind must be red or green, got 'blue'"),
        ({"depths": []}, r"depths must be at least 1 long, got \[\]"),
        ({"depths": [3, 0]}, "depths must be 1 or more, got 0"),
        ({"folds": {"a": 0}}, r"folds\.a must be 1 or more, got 0"),
        ({"inner": Inner(1.0)}, r"inner\.share must be below 1, got 1.0"),
        ({"either": -1}, "either must be 0 or more, got -1"),
    ],
)
def test_values_out_of_range_are_named(change, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        check_bounds(dataclasses.replace(Outer(), **change))


def test_choices_are_found_inside_other_types():
    assert choices_of(Annotated[str, OneOf(("a", "b"))]) == ("a", "b")
    assert choices_of(list[Literal[1, 2]] | None) == (1, 2)
    assert choices_of(int) == ()
