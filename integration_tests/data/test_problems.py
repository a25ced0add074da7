import pytest

from mxmclr_plugin.data.problems import Problem, ProblemLog
from mxmclr_plugin.errors import DataError


def test_noted_and_counted():
    log = ProblemLog()
    log.add("grid missing", "a.nrrd", "there is no such file")
    log.add("caption empty", 3, "no words")
    log.add("caption empty", 4, ValueError("odd"))
    assert log.problems[0] == Problem("grid missing", "a.nrrd", "there is no such file")
    assert log.problems[2] == Problem("caption empty", "4", "odd")
    assert list(log.counts().items()) == [("caption empty", 2), ("grid missing", 1)]


def test_or_an_error():
    log = ProblemLog("raise")
    with pytest.raises(DataError, match=r"^a\.nrrd: not there \(grid missing\); .*on_error=skip$"):
        log.add("grid missing", "a.nrrd", "not there")
    assert not log.problems


def test_nothing_else():
    with pytest.raises(ValueError, match="skip or raise, got 'warn'"):
        ProblemLog("warn")
