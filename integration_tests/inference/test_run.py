import dataclasses
import shutil
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import yaml

from mxmclr_plugin.data.observations import ObservationDataset
from mxmclr_plugin.errors import ConfigError, build_part
from mxmclr_plugin.inference.embedding_cache import _key
from mxmclr_plugin.inference.run import Run, load_run
from mxmclr_plugin.run.command_line import main


@pytest.fixture(scope="module")
def trained(small_run):
    return load_run(small_run, device="cpu")


def test_what_is_loaded(trained, small_run):
    assert trained.folder == small_run
    assert trained.checkpoint == small_run / "checkpoints" / "best.ckpt"
    written = yaml.safe_load((small_run / "config.yaml").read_text())
    assert dataclasses.asdict(trained.config) == written
    assert list(trained.towers) == ["text", "voxel"]
    assert not any(tower.training for tower in trained.towers.values())
    state = torch.load(trained.checkpoint, weights_only=False)["state_dict"]
    for modality, tower in trained.towers.items():
        for name, value in tower.state_dict().items():
            assert torch.equal(value.cpu(), state[f"towers.{modality}.{name}"])


def test_embeddings_are_what_the_towers_make_one_by_one(trained):
    embedded = trained.embeddings("test")
    assert list(embedded) == ["text", "voxel"]
    for modality, of in embedded.items():
        observations = ObservationDataset(trained.split("test"), modality)
        assert of.positions.tolist() == list(range(len(observations)))
        assert of.ids.tolist() == [item.id for item in map(observations.__getitem__, of.positions)]
        for position in range(len(observations)):
            record = observations[position].record
            one = [record] if isinstance(record, str) else record[None]
            with torch.no_grad():
                z = trained.towers[modality](one)
            torch.testing.assert_close(of.z[position], z[0], rtol=0, atol=1e-6)


def test_the_state_of_the_generator_is_left_alone(small_run):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    load_run(small_run)
    assert torch.equal(before, torch.get_rng_state())


def test_a_checkpoint_by_its_path_and_by_its_name(small_run):
    last = small_run / "checkpoints" / "last.ckpt"
    by_path, by_name = load_run(last), load_run(small_run, checkpoint="last")
    assert by_path.folder == by_name.folder == small_run
    for modality, tower in by_path.towers.items():
        other = by_name.towers[modality].state_dict()
        assert all(torch.equal(value, other[name]) for name, value in tower.state_dict().items())


def test_another_modality_with_a_trained_tower(small_run, tmp_path):
    lines = ['{"id": 1, "split": "test", "text:a": "a red cone", "text:b": "a blue box"}']
    lines += [line.replace("test", split) for line in lines for split in ("train", "val")]
    lines = [line.replace('"id": 1', f'"id": {k}') for k, line in enumerate(lines)]
    (tmp_path / "my.jsonl").write_text("\n".join(lines))
    changes = [
        "data=manifest",
        f"data.path={tmp_path / 'my.jsonl'}",
        "towers.a.same_as=text",
        "towers.b.same_as=text",
        "directions={a2b:{query:a,gallery:b}}",
    ]
    trained = load_run(small_run, changes, device="cpu")
    assert trained.towers["a"] is trained.towers["text"]
    embedded = trained.embeddings("test")
    with torch.no_grad():
        z = trained.towers["text"](["a red cone", "a blue box"])
    torch.testing.assert_close(torch.cat([embedded["a"].z, embedded["b"].z]), z, rtol=0, atol=1e-6)


def test_embeddings_of_another_tower_are_other_files(small_run, tmp_path):
    lines = [f'{{"id": {k}, "split": "test", "text:a": "a red cone"}}' for k in range(3)]
    (tmp_path / "my.jsonl").write_text("\n".join(lines))
    keys = []
    for tower in ("text", "voxel"):
        data = ["data=manifest", f"data.path={tmp_path / 'my.jsonl'}", f"towers.a.same_as={tower}"]
        run = load_run(small_run, [*data, "directions={a2a:{query:a,gallery:a}}"], device="cpu")
        assert run.tower_of("a") == tower
        keys.append(_key(run, run.split("test"), "a"))
    assert keys[0] != keys[1]


def test_kinds_of_towers_are_known_without_data():
    towers = {"caption": {"name": "bag_of_words"}, "de": {"same_as": "caption"}, "x": {}}
    run = SimpleNamespace(
        data=SimpleNamespace(kinds={"x": "features"}), config=SimpleNamespace(towers=towers)
    )
    run.tower_of = partial(Run.tower_of, run)
    assert [Run.kind_of(run, modality) for modality in towers] == ["text", "text", "features"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("loss.temperature=1", "cannot be changed after training"),
        ("data.clases=5", "did you mean 'classes'"),
        ("data.classes=many", "data.classes"),
        ("data=primitive", "did you mean 'primitives'"),
        ("eval.split=val", "split=NAME"),
        ("eval=recall", "eval.KEY=..."),
        ("towers.text.same_as=voxel", "has a trained tower already"),
        ("towers.more.same_as=image", "'image' has no tower of its own"),
        ("directions.x={query:text,gallery:image}", "'image', which has no tower"),
        ("directions.t2s.query=image", "'image', which has no tower"),
        ("directions.t2s=[text,voxel]", "directions.t2s must be {query: MODALITY"),
        ("trainer.max_steps=3", "cannot be changed after training"),
        ("data.classes=1,2", "one value"),
        ("data=", "data cannot be"),
    ],
)
def test_changes_that_cannot_be(small_run, change, words):
    with pytest.raises(ConfigError) as error:
        load_run(small_run, [change])
    assert words in str(error.value)


def test_data_that_have_moved(tmp_path, monkeypatch):
    lines = [f'{{"id": {k}, "text": "thing {k}", "text:de": "Ding {k}"}}' for k in range(20)]
    (tmp_path / "my.jsonl").write_text("\n".join(lines))
    towers = ["towers/text=bag_of_words", "+towers.de.name=bag_of_words"]
    few = ["batch.instances=4", "trainer.max_steps=1", "train_instances=12"]
    few.append(f"data.path={tmp_path / 'my.jsonl'}")
    assert main(["manifest", *towers, *few, f"out={tmp_path / 'run'}"]) == 0
    before = load_run(tmp_path / "run").embeddings("test")
    (tmp_path / "my.jsonl").rename(tmp_path / "moved.jsonl")
    with pytest.raises(ConfigError, match="the run needs its training data"):
        load_run(tmp_path / "run")
    moved = [f"data.path={tmp_path / 'moved.jsonl'}"]
    built = []

    def build(key, *args):
        part = build_part(key, *args)
        built.append(key)
        return part

    monkeypatch.setattr("mxmclr_plugin.inference.run.build_part", build)
    run = load_run(tmp_path / "run", moved)
    assert built == ["data"]
    assert len(run.split("train")) == 12
    assert run.data.notes[-1].startswith("Trained on 12 of")
    after = run.embeddings("test")
    assert all(torch.equal(after[modality].z, of.z) for modality, of in before.items())
    (tmp_path / "other.jsonl").write_text("\n".join(lines).replace("thing", "something"))
    with pytest.raises(ConfigError, match="another vocabulary"):
        load_run(tmp_path / "run", [f"data.path={tmp_path / 'other.jsonl'}"])


def test_no_run(small_run, tmp_path):
    with pytest.raises(ConfigError, match="no run or checkpoint"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no folder of a run"):
        load_run(tmp_path)
    with pytest.raises(ConfigError, match="best or last"):
        load_run(small_run, checkpoint="first")
    (tmp_path / "run").mkdir()
    shutil.copy(small_run / "config.yaml", tmp_path / "run")
    with pytest.raises(ConfigError, match="there is no checkpoint"):
        load_run(tmp_path / "run")
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "checkpoints" / "best.ckpt").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="is no checkpoint of a run"):
        load_run(tmp_path / "run")


def test_a_flipped_bit_is_found(small_run, tmp_path):
    shutil.copytree(small_run, tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "best.ckpt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"best.ckpt is damaged: its checksum"):
        load_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (("towers", "voxel", "widths"), [4, 16], "size mismatch"),
        (("data", "captions"), 5, "another vocabulary|size mismatch"),
    ],
)
def test_a_checkpoint_of_other_towers(small_run, tmp_path, key, value, words):
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    plain = yaml.safe_load((run / "config.yaml").read_text())
    node = plain
    for part in key[:-1]:
        node = node[part]
    node[key[-1]] = value
    (run / "config.yaml").write_text(yaml.safe_dump(plain))
    with pytest.raises(ConfigError, match="other towers than the config") as error:
        load_run(run)
    assert any(word in str(error.value) for word in words.split("|")), error.value


def test_what_cannot_be_encoded(trained):
    with pytest.raises(ConfigError, match="no tower of 'image'"):
        trained.embeddings("test", ["image"])
    with pytest.raises(ConfigError, match="no split 'dev'"):
        trained.embeddings("dev")
