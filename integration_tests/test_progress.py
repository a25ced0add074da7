"""Progress where there is no terminal, and times to read."""

import pytest

from mxmclr_plugin import progress
from mxmclr_plugin.progress import duration, progress_bar


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2.0 h")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize("shown", [True, False])
def test_a_log_gets_a_line_for_long_work(shown, monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with progress_bar(shown) as bar:
        task = bar.add_task("encoding text", total=2000)
        for _ in range(20):
            clock[0] += 4
            bar.advance(task, 100)
    lines = ["encoding text: 300 of 2,000", "encoding text: 1,800 of 2,000"]
    assert capsys.readouterr().err.splitlines() == (lines if shown else [])


def test_short_work_is_silent_in_a_log(capsys):
    with progress_bar() as bar:
        assert list(bar.track(range(9), description="nine")) == list(range(9))
    assert capsys.readouterr().err == ""
