"""The README's training loop runs as it stands."""

import re
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def test_the_loop_runs():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (loop,) = [block for block in blocks if "for batch in loader" in block]
    names = {}
    exec(compile(loop, "README.md", "exec"), names)
    assert names["loss"].isfinite()
    assert names["image_encoder"].weight.grad is None  # zero_grad after the last step
    assert [len(names[z]) for z in ("z0", "z1")] == [64, 128]
