import time

import pytest

from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.plain_yaml import read_yaml

LEVELS = "\n".join(f"l{k}: &l{k} [{', '.join([f'*l{k - 1}'] * 9)}]" for k in range(1, 9))
BOMB = f"l0: &l0 [x, x, x]\n{LEVELS}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "holds more than 50000 values"),
        ("a: &a [*a]", "holds more than 50000 values"),
        ("a: !!python/object/apply:os.system [true]", "cannot be read"),
        ("a: [", "cannot be read"),
        ("[" * 5000, "cannot be read"),
        ("a: " + "x" * 2**20, "is larger than"),
        ("\udcff", "cannot be read"),
    ],
    ids=["aliases", "itself", "object", "torn", "deep", "large", "bytes"],
)
def test_hostile_files_are_refused_at_once(tmp_path, text, words):
    file = tmp_path / "config.yaml"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    start = time.monotonic()
    with pytest.raises(ConfigError, match=words):
        read_yaml(file)
    assert time.monotonic() - start < 10


def test_plain_values_and_some_aliases_are_read(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("a: &a {x: [1, null, 2.5]}\nb: *a\n")
    assert read_yaml(file) == {"a": {"x": [1, None, 2.5]}, "b": {"x": [1, None, 2.5]}}
