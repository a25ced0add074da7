"""What is converted reads back equal."""

import json

import nrrd
import numpy as np
import pytest
import torch
from data.manifest.sample_files import write_lines, write_sample
from PIL import Image

from mxmclr_plugin.data.dataset import MultifoldDataset
from mxmclr_plugin.data.manifest.build import manifest
from mxmclr_plugin.data.manifest.write import write_manifest
from mxmclr_plugin.data.splits import DataSplits
from mxmclr_plugin.errors import DataError
from mxmclr_plugin.registry import DATASETS

SAMPLE = {"size": 16, "resolution": 8, "points": 20}


def assert_equal(found, given):
    assert list(found) == list(given)
    assert found.kinds == given.kinds
    assert not found.problems
    for split in given:
        first, second = found[split], given.plain.get(split, given[split])
        assert first.names == second.names
        for k in range(len(second)):
            here, there = first[k].observations, second[k].observations
            assert here.keys() == there.keys()
            for modality, records in there.items():
                assert len(here[modality]) == len(records)
                for a, b in zip(here[modality], records):
                    same = (
                        a == b if isinstance(b, str) else a.dtype == b.dtype and torch.equal(a, b)
                    )
                    assert same, (split, k, modality)


def sample(tmp_path):
    (tmp_path / "in").mkdir()
    path = write_lines(tmp_path / "in" / "my.jsonl", write_sample(tmp_path / "in"))
    return manifest(str(path), **SAMPLE)


@pytest.mark.parametrize("shards", [None, 1, 3])
def test_files_of_every_kind(tmp_path, shards):
    data = sample(tmp_path)
    options = write_manifest(data, tmp_path / "out", {"name": "manifest"}, shards)
    assert options == SAMPLE
    assert_equal(manifest(str(tmp_path / "out"), **options), data)
    if shards is None:
        copied = (tmp_path / "out" / "image" / "00000000.jpg").read_bytes()
        assert copied == (tmp_path / "in" / "image" / "a.jpg").read_bytes()


def test_shards_of_shards(tmp_path):
    data = sample(tmp_path)
    write_manifest(data, tmp_path / "a", {}, 2)
    sharded = manifest(str(tmp_path / "a"), **SAMPLE)
    write_manifest(sharded, tmp_path / "b", {}, None)
    write_manifest(sharded, tmp_path / "c", {}, 3)
    for folder in "bc":
        assert_equal(manifest(str(tmp_path / folder), **SAMPLE), data)


@pytest.mark.parametrize("shards", [None, 2])
def test_primitives(tmp_path, shards):
    data = DATASETS.build({"name": "primitives", "classes": 5, "samples": 2, "captions": 4})
    options = write_manifest(data, tmp_path / "out", {"name": "primitives"}, shards)
    found = manifest(str(tmp_path / "out"), **options)
    assert_equal(found, data)
    # What must stand beside the figures still does.
    assert found.notes == data.notes
    assert found.notes


@pytest.mark.parametrize("shards", [None, 2])
@pytest.mark.parametrize(
    ("name", "folder"), [("captioned_images", "coco_mini"), ("omniglot", "omniglot")]
)
def test_real_sets(tmp_path, test_data, name, folder, shards):
    data = DATASETS.build({"name": name, "root": str(test_data / folder)})
    few = DataSplits(
        {split: data.plain.get(split, dataset).subset(range(4)) for split, dataset in data.items()},
        kinds=data.kinds,
    )
    options = write_manifest(few, tmp_path / "out", {"name": name}, shards)
    assert_equal(manifest(str(tmp_path / "out"), **options), few)


def test_tensors_of_any_form_and_modalities_of_any_name(tmp_path):
    generator = torch.Generator().manual_seed(0)
    stores = {
        "front": torch.randint(0, 256, (6, 3, 12, 12), generator=generator, dtype=torch.uint8),
        "wide": torch.rand(6, 3, 8, 20, generator=generator),
        "around": torch.randint(0, 256, (6, 4, 3, 8, 8), generator=generator, dtype=torch.uint8),
        "vector": torch.randn(6, 7, generator=generator),
        "en": [f"in English {k}" for k in range(6)],
    }
    kinds = {"front": "image", "wide": "image", "around": "views", "vector": "features"}
    members = {modality: [[k] for k in range(6)] for modality in stores}
    whole = MultifoldDataset(stores, members, ids=range(6))
    data = DataSplits(
        {s: whole.subset([2 * k, 2 * k + 1]) for k, s in enumerate(("train", "val", "test"))},
        kinds={**kinds, "en": "text"},
    )
    for shards in (None, 2):
        options = write_manifest(data, tmp_path / str(shards), {}, shards)
        assert options == {"size": 12}
        assert_equal(manifest(str(tmp_path / str(shards)), **options), data)


def test_shards_are_what_datasets_reads(tmp_path):
    datasets = pytest.importorskip("datasets")
    data = sample(tmp_path)
    write_manifest(data, tmp_path / "out", {}, 3)
    read = datasets.load_dataset(
        "parquet",
        data_files=str(tmp_path / "out" / "*.parquet"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    assert sorted(read["id"]) == sorted(n for dataset in data.values() for n in dataset.names)
    row = read.sort("id")[0]
    assert row["text"] == list(data["train"][0].observations["text"])
    image = datasets.Image().decode_example(row["image"][0])
    assert image.size == (30, 24)


def test_it_goes_on_where_it_was_stopped(tmp_path):
    data = sample(tmp_path)
    source = {"name": "x"}
    for shards in (None, 3):
        out = tmp_path / str(shards)
        write_manifest(data, out, source, shards)
        made = {p: p.stat().st_mtime_ns for p in out.rglob("*.*") if p.suffix != ".json"}
        last = max(p for p in made if p.suffix in (".parquet", ".npy"))
        last.unlink()
        for name in ("manifest.jsonl",):
            (out / name).unlink(missing_ok=True)
        write_manifest(data, out, source, shards)
        assert_equal(manifest(str(out), **SAMPLE), data)
        kept = [p for p in made if p != last and p.name != "manifest.jsonl"]
        assert all(p.stat().st_mtime_ns == made[p] for p in kept)


def test_a_folder_that_holds_something_else(tmp_path):
    data = sample(tmp_path)
    write_manifest(data, tmp_path / "out", {"name": "x"})
    with pytest.raises(DataError, match="holds a conversion of other data"):
        write_manifest(data, tmp_path / "out", {"name": "y"})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(DataError, match="is not empty"):
        write_manifest(data, tmp_path / "mine", {})


def test_more_shards_than_instances(tmp_path):
    with pytest.raises(ValueError, match="shards must be from 1 to the 10 instances, got 11"):
        write_manifest(sample(tmp_path), tmp_path / "out", {}, 11)


def test_a_lost_shard_is_an_error(tmp_path):
    write_manifest(sample(tmp_path), tmp_path / "out", {}, 3)
    (tmp_path / "out" / "part-00001-of-00003.parquet").unlink()
    with pytest.raises(DataError, match=r"of 3 shards part-\* there are only 2"):
        manifest(str(tmp_path / "out"))


def test_a_broken_record_in_a_shard_is_left_out(tmp_path):
    data = sample(tmp_path)
    write_manifest(data, tmp_path / "out", {}, 2)
    shard = tmp_path / "out" / "part-00000-of-00002.parquet"
    good = (tmp_path / "in" / "image" / "b.png").read_bytes()
    content = shard.read_bytes()
    assert content.count(good) == 1
    assert len(manifest(str(tmp_path / "out"), **SAMPLE).problems) == 0
    shard.write_bytes(content.replace(good, bytes(len(good))))
    found = manifest(str(tmp_path / "out"), **SAMPLE)
    (problem,) = found.problems
    assert problem.kind == "image unreadable"
    assert problem.where == f"{shard} row 2, image 1 (image/00000001.png)"


def test_row_groups_are_small(tmp_path):
    import pyarrow.parquet as pq

    stores = {"features": torch.zeros(64, 20_000), "text": [str(k) for k in range(64)]}
    members = {modality: [[k] for k in range(64)] for modality in stores}
    whole = MultifoldDataset(stores, members, ids=range(64))
    data = DataSplits(
        {
            "train": whole.subset(range(60)),
            "val": whole.subset([60, 61]),
            "test": whole.subset([62]),
        },
        kinds={"features": "features", "text": "text"},
    )
    write_manifest(data, tmp_path / "out", {}, 1)
    footer = pq.read_metadata(tmp_path / "out" / "part-00000-of-00001.parquet")
    sizes = [footer.row_group(k).total_byte_size for k in range(footer.num_row_groups)]
    # 80,000 bytes a row: four of them pass the bound of 262,144.
    assert max(sizes) < 2**18 + 100_000
    assert footer.num_rows == 63
    source = json.loads((tmp_path / "out" / "source.json").read_text())
    assert source["shards"] == 1
    assert np.isclose(len(sizes), 16)


def test_what_needs_options_or_other_files_is_written_as_it_is_read(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    grid = np.random.default_rng(0).integers(0, 2, (8, 8, 8)).astype(np.uint8)
    nrrd.write(str(folder / "a.nhdr"), grid)
    np.savez(folder / "b.npz", x=grid, y=1 - grid)
    Image.fromarray(np.zeros((16, 16, 4), np.uint8)).save(folder / "a.png")
    lines = [
        {"id": k, "split": split, "voxel": ["a.nhdr", "b.npz"], "image": "a.png"}
        for k, split in enumerate(("train", "val", "test"))
    ]
    path = write_lines(folder / "m.jsonl", lines)
    data = manifest(str(path), **SAMPLE, npz_key="y", background="black")
    assert not data.problems
    for shards in (None, 2):
        out = tmp_path / f"out{shards}"
        options = write_manifest(data, out, {}, shards)
        assert_equal(manifest(str(out), **options), data)
