"""A thousand damaged tables: each is an error in one line, or rows and listed problems."""

import gzip
import io
import json
import random
import zipfile

import pandas
import pytest
from data.manifest.byte_mutations import mutated

from mxmclr_plugin.data.captioned_images.annotations import read_photos
from mxmclr_plugin.data.manifest.table import TableColumns, table_instances
from mxmclr_plugin.data.problems import ProblemLog
from mxmclr_plugin.data.rows import read_rows
from mxmclr_plugin.errors import DataError

pytest.importorskip("openpyxl")

FRAME = pandas.DataFrame(
    [
        {
            "id": f"p{k}",
            "image": f"photos/{k}.png",
            "caption": ["a, b", 'say "x"', "two\nlines", "['one', 'two']", "é 椅", "=1+1"][k],
            "split": ["train", "val", "test"][k % 3],
        }
        for k in range(6)
    ]
)


def excel(frame):
    buffer = io.BytesIO()
    frame.to_excel(buffer, index=False)
    return buffer.getvalue()


FORMS = {
    "a.csv": FRAME.to_csv(index=False).encode(),
    "a.tsv": FRAME.to_csv(index=False, sep="\t").encode(),
    "a.csv.gz": gzip.compress(FRAME.to_csv(index=False).encode(), mtime=0),
    "a.json": FRAME.to_json(orient="records").encode(),
    "a.jsonl": FRAME.to_json(orient="records", lines=True).encode(),
    "a.parquet": FRAME.to_parquet(index=False),
    "a.xlsx": excel(FRAME),
}
CHECKED = ("a.csv.gz", "a.xlsx")  # with checksums
BATCHES, QUICK = 10, 1


def outcome(path):
    log = ProblemLog()
    try:
        found, _ = table_instances(read_rows(path, log), TableColumns(), path.parent, log)
    except DataError as error:
        return str(error), None
    return None, (found, log)


def photos_or_error(path):
    try:
        return read_photos(path, ProblemLog())[0], ""
    except DataError as error:
        return [], str(error)


def check(folder, seed):
    chance = random.Random(seed)
    name = chance.choice(list(FORMS))
    path = folder / f"{seed}" / name
    path.parent.mkdir()
    path.write_bytes(FORMS[name])
    good = outcome(path)[1][0]
    path.write_bytes(content := mutated(FORMS[name], chance))
    error, result = outcome(path)
    if error is not None:
        assert len(error.splitlines()) == 1, (seed, error)
        assert len(error) < 2000
        assert name in error or "column" in error, (seed, error)
    else:
        found, log = result
        assert found.instances or log.problems, seed
        if name in CHECKED and content[: len(FORMS[name])] != FORMS[name]:
            # A checksum cannot tell what it does not cover, such as names in an archive.
            assert log.problems or len(found.instances) in (0, len(good.instances)), seed
    photos, error = photos_or_error(path)
    assert photos or len(error.splitlines()) == 1, seed


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "batch",
    [pytest.param(k, marks=[] if k < QUICK else pytest.mark.slow) for k in range(BATCHES)],
)
def test_a_clear_error_or_listed_problems(tmp_path, batch):
    for seed in range(batch * 1000 // BATCHES, (batch + 1) * 1000 // BATCHES):
        check(tmp_path, seed)


@pytest.mark.slow
def test_a_workbook_that_claims_what_it_has_not(tmp_path):
    """A sheet of a billion rows, and one that unpacks to more than it should."""
    path = tmp_path / "a.xlsx"
    with zipfile.ZipFile(io.BytesIO(FORMS["a.xlsx"])) as source, zipfile.ZipFile(path, "w") as new:
        for entry in source.namelist():
            content = source.read(entry)
            if entry == "xl/worksheets/sheet1.xml":
                content = content.replace(b"A1:D7", b"A1:XFD1048576").replace(
                    b'<row r="7"', b'<row r="999999999"'
                )
            new.writestr(entry, content)
    error, result = outcome(path)
    assert error is not None or len(result[0].instances) <= 6
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as new,
        new.open("xl/media/a.bin", "w", force_zip64=True) as member,
    ):
        for _ in range(33):
            member.write(bytes(2**26))
    error, _ = outcome(path)
    assert "it unpacks to" in error


def test_values_of_json_that_are_none_of_a_table(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"image": {"a": 1}, "caption": 3, "id": [1]}, 7, None, ["x"]]))
    error, _ = outcome(path)
    if error is None:
        assert len(outcome(path)[1][1].problems) >= 1
