"""Two hundred damaged folders and hub data sets: what is not damaged is read as it was."""

import random
from pathlib import Path
from typing import ClassVar

import pytest
from data.captioned_images.sets import image
from data.manifest.byte_mutations import mutated

from mxmclr_plugin.data.hub import hub_rows
from mxmclr_plugin.data.manifest.folder import folder_instances
from mxmclr_plugin.data.manifest.table import TableColumns, table_instances
from mxmclr_plugin.data.problems import ProblemLog
from mxmclr_plugin.errors import DataError

PHOTOS = [f"{split}/{k}.png" for split in ("train", "dev") for k in range(4)]


def write_captions_beside(folder):
    for photo in PHOTOS:
        image(folder / photo, 9)
        (folder / photo).with_suffix(".txt").write_text(f"photo {photo}\nsecond, of {photo}\n")


def write_table(folder):
    for photo in PHOTOS:
        image(folder / photo, 9)
    rows = [f'{photo},"photo {photo}"\n{photo},"second, of {photo}"\n' for photo in PHOTOS]
    (folder / "captions.csv").write_text("image,caption\n" + "".join(rows))


def captions(folder):
    """Captions by photo, or the error, and the problems."""
    log = ProblemLog()
    try:
        found, _, _ = folder_instances(folder, log)
    except DataError as error:
        message = str(error)
    else:
        return {i.name: i.records.get("text") for i in found.instances}, log
    assert len(message.splitlines()) == 1
    return None, log


@pytest.mark.parametrize("write", [write_captions_beside, write_table])
def test_folders(tmp_path, write):
    for seed in range(50):
        chance = random.Random(seed)
        folder = tmp_path / f"{seed}"
        write(folder)
        good, log = captions(folder)
        assert good == {photo: [f"photo {photo}", f"second, of {photo}"] for photo in PHOTOS}
        assert not log.problems
        texts = sorted([*folder.rglob("*.txt"), *folder.glob("*.csv")])
        damaged = chance.choice(texts)
        content = damaged.read_bytes()
        if chance.random() < 0.2:
            damaged.unlink()
        else:
            damaged.write_bytes(mutated(content, chance))
        found, log = captions(folder)
        if found is None:
            assert write is write_table
            continue
        for photo in PHOTOS:
            if write is write_captions_beside and damaged.stem != photo[-5:-4]:
                assert found[photo] == good[photo], (seed, photo)
            missing = photo not in found or not found[photo]
            if missing and damaged.suffix == ".txt" and damaged.parent.name in photo:
                assert log.problems or damaged.stat().st_size < 40, seed


VALUES = [None, "", 5, 1.5, True, b"x", [], {"a": 1}, "\ud800", "x" * 70000, [[]]]


@pytest.mark.parametrize("seed", range(100))
def test_data_sets_of_the_hub(monkeypatch, seed):
    """load_dataset is a stand-in, as there is no hub here."""
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    chance = random.Random(seed)
    rows = [{"id": f"p{k}", "caption": [f"photo {k}"], "image": f"{k}.png"} for k in range(6)]
    damaged, key = chance.randrange(6), chance.choice(["id", "caption", "image"])
    rows[damaged][key] = value = chance.choice(VALUES)

    class Split(list):
        features: ClassVar = {key: datasets.Value("string") for key in rows[0]}

    monkeypatch.setattr(datasets, "load_dataset", lambda *_: {"train": Split(rows)})
    log = ProblemLog()
    found, _ = table_instances(hub_rows("owner/name"), TableColumns(), Path(), log)
    by_name = {instance.name: instance for instance in found.instances}
    for k in range(6):
        if k != damaged:
            assert by_name[f"p{k}"].records["text"] == [f"photo {k}"]
            assert [path.name for path in by_name[f"p{k}"].records["image"]] == [f"{k}.png"]
    if value not in (None, "", []) and not (isinstance(value, str) and len(value) > 1):
        read = [str(r) for i in found.instances for of in i.records.values() for r in of]
        names = [instance.name for instance in found.instances]
        assert log.problems or str(value).lower() in [*names, *read] or value in ([[]],), (
            seed,
            value,
        )
