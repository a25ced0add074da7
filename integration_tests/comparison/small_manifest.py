"""A manifest of texts in two languages."""

import json
from pathlib import Path


def two_texts(folder: Path) -> Path:
    """30 instances, each with two English texts and a German one."""
    lines = [
        {"id": k, "text": [f"thing {k}", f"object {k}"], "text:de": f"Ding {k}"} for k in range(30)
    ]
    file = folder / "texts.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file
