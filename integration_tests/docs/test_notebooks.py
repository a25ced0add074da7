"""The notebooks run from top to bottom, twice, and show tables and figures."""

import re
import time
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("MXMCLR_CACHE", str(tmp_path / "cache"))
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    )
    start = time.monotonic()
    with client.setup_kernel():
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index)
        assert time.monotonic() - start < 600  # five minutes on a free machine
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
        text = "\n".join(
            output.get("text", "") + output.get("data", {}).get("text/plain", "")
            for output in outputs
        )
        assert re.search(r"^step \d+/\d+ .* loss", text, re.MULTILINE)  # progress
        assert "chance@1" in text  # the table of metrics
        assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
        assert not any(output.output_type == "error" for output in outputs)
        # Once more in the same kernel.
        index = next(k for k, cell in enumerate(notebook.cells) if " = train(" in cell.source)
        client.execute_cell(notebook.cells[index], index)


def test_notebooks_are_saved_without_outputs():
    for path in NOTEBOOKS.glob("*.ipynb"):
        text = path.read_text(encoding="utf-8")
        assert '"outputs": []' in text
        assert 'execution_count": null' in text
        assert '"output_type"' not in text
