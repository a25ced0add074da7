import json
import math
from dataclasses import dataclass, field
from typing import Any

import pytest

from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.json_records import json_text, read_record


@dataclass
class Record:
    options: dict[str, Any] = field(default_factory=dict)
    figure: float = 0.0


def test_an_infinite_option_is_written_as_on_the_command_line(tmp_path):
    file = tmp_path / "record.json"
    file.write_text(json_text(Record({"soft_temperature": math.inf, "others": [1, -math.inf]})))

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    json.loads(file.read_text(), parse_constant=refuse)
    assert read_record(Record, file).options == {"soft_temperature": "inf", "others": [1, "-inf"]}


def test_a_figure_that_is_not_finite_is_no_record(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_text(Record(figure=math.nan))
    file = tmp_path / "record.json"
    file.write_text(json_text(Record(figure=math.inf)))
    with pytest.raises(ConfigError, match=r"figure must be a number"):
        read_record(Record, file)
