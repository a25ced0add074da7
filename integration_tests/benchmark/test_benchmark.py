import io
import json
import re
import time

import pytest
import torch
from rich.console import Console

from mxmclr_plugin.benchmark import kernels
from mxmclr_plugin.benchmark.command_line import BENCHMARKS, main, table_of
from mxmclr_plugin.benchmark.lean_dense import lean_dense_loss
from mxmclr_plugin.benchmark.loss import Measured
from mxmclr_plugin.benchmark.peak_memory import peak_extra_bytes
from mxmclr_plugin.benchmark.retrieval import RetrievalBenchmark, _unfit
from mxmclr_plugin.benchmark.variants import variants
from mxmclr_plugin.loss.functional import multifold_hybrid_loss
from mxmclr_plugin.loss.kernels.triton.cuts import Cut, default_cuts
from mxmclr_plugin.loss.kernels.triton.measured import Measured as MeasuredKernels
from mxmclr_plugin.loss.kernels.triton.measured import read_measured
from mxmclr_plugin.retrieval.metrics import retrieval_metrics
from mxmclr_plugin.retrieval.top_k import TopK, top_k

KEYS = {
    "impl",
    "n",
    "dim",
    "folds",
    "dtype",
    "device",
    "forward_s",
    "total_s",
    "device_s",
    "peak_extra_bytes",
    "matmul_share",
    "max_relative_error",
}
# Compiling takes half a minute.
NAMES = [
    c.name
    for c in variants(torch.device("cpu"))
    if c.unavailable is None and "compiled" not in c.name
]


def test_names_are_whole_in_eighty_columns():
    measured = [
        Measured(name, 32768, 512, [4, 4], "float32", "cuda:0", *[12.3456] * 3, 10**10, 1, 1e-7)
        for name in (variant.name for variant in variants(torch.device("cpu")))
    ]
    console = Console(file=io.StringIO(), width=80)
    console.print(table_of(BENCHMARKS["loss"], measured))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if " 32768 " in line] == [
        each.impl for each in measured
    ]


@pytest.mark.slow
def test_every_implementation_is_measured_and_ours_agree(tmp_path, capsys):
    file = tmp_path / "figures.json"
    status = main(
        [
            "loss",
            "n=[24,48]",
            "dim=8",
            "folds=[3,2]",
            "repeats=2",
            f"json={file}",
            f"impls=[{','.join(NAMES)}]",
        ]
    )
    assert status == 0
    records = json.loads(file.read_text())
    out = capsys.readouterr().out
    assert "device" not in out  # a column of figures that only a GPU has
    skipped = out.count("was skipped")
    assert len(records) + skipped == 2 * len(NAMES)
    for record in records:
        assert set(record) == KEYS
        assert record["dim"] == 8
        assert record["folds"] == [3, 2]
        assert 0 < record["forward_s"] < record["total_s"]
    names = {record["impl"] for record in records}
    # Losses that need as many rows on both sides may be skipped for these folds; ours may not.
    assert {"dense", "lean_dense", "streaming", "streaming_cached", "auto"} <= names
    errors = {r["impl"]: r["max_relative_error"] for r in records if r["n"] == 48}
    for name in ("dense", "lean_dense", "streaming", "streaming_cached", "auto", "pml_supcon"):
        assert errors[name] < 1e-5
    assert errors["clip"] is None
    assert [p for p in tmp_path.iterdir() if p != file] == []


@pytest.mark.slow
def test_compiled_losses_are_measured_and_agree(tmp_path):
    file = tmp_path / "figures.json"
    names = [c.name for c in variants(torch.device("cpu")) if "compiled" in c.name]
    small = ["n=24", "dim=8", "folds=[3,2]", "repeats=1", f"json={file}"]
    assert main(["loss", *small, f"impls=[{','.join(names)}]"]) == 0
    errors = {r["impl"]: r["max_relative_error"] for r in json.loads(file.read_text())}
    available = [c.name for c in variants(torch.device("cpu")) if c.unavailable is None]
    assert set(errors) == set(names) & set(available)
    assert all(error < 1e-5 for error in errors.values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_graphs_agree_and_the_time_of_the_device_is_known(tmp_path):
    file = tmp_path / "figures.json"
    small = ["n=512", "dim=64", "repeats=3", "device=cuda", f"json={file}"]
    assert main(["loss", *small, "impls=auto,auto_graph"]) == 0
    eager, graph = json.loads(file.read_text())
    assert (eager["impl"], graph["impl"]) == ("auto", "auto_graph")
    for record in (eager, graph):
        assert record["max_relative_error"] < 1e-4
        assert record["device_s"] > 0
    assert graph["peak_extra_bytes"] is None


def test_equal_folds_run_everywhere(capsys):
    options = ["n=16", "dim=8", "folds=4", "repeats=1", "shuffle=true"]
    assert main(["loss", *options, f"impls=[{','.join(NAMES)}]"]) == 0
    assert "skipped" not in capsys.readouterr().out


@pytest.mark.parametrize("hard_weight", [0.4, 1.0])
def test_the_lean_loss_is_the_loss(hard_weight):
    z0, z1 = (torch.randn(n, 5, dtype=torch.float64) for n in (12, 8))
    ids0, ids1 = torch.tensor([9, 3, 3, 5, 7, 9, 3, 9, 9, 7, 5, 3]), 3 + torch.arange(8) // 2 * 2
    options = {"temperature": 0.1, "soft_temperature": 0.2, "hard_weight": hard_weight}
    torch.testing.assert_close(
        lean_dense_loss(z0, z1, ids0, ids1, 4, **options),
        multifold_hybrid_loss(z0, z1, ids0, ids1, impl="dense", **options),
    )


def test_memory_that_is_touched_is_counted():
    size = 64 * 2**20

    def call():
        torch.ones(size, dtype=torch.uint8)

    peak = peak_extra_bytes(call, torch.device("cpu"))
    if peak is None:
        pytest.skip("this system does not tell the resident memory of a process")
    assert 0.95 * size < peak < 1.3 * size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speed"], "unknown benchmark 'speed': known are loss"),
        (["retrieval", "querys=3"], "retrieval has no key 'querys': did you mean 'queries'"),
        (["retrieval", "k=30", "gallery=20"], "k must be at most gallery = 20, got 30"),
        (["retrieval", "queries=0"], "queries must be 1 or more, got 0"),
        (["retrieval", "backend=metric"], "backend cannot be 'metric': did you mean 'metrics'"),
        (["retrieval", "device=abacus"], "device=abacus cannot be used"),
        (["loss", "dimm=3"], "loss has no key 'dimm': did you mean 'dim'"),
        (["loss", "dim"], "loss takes key=value alone, got 'dim'"),
        (["loss", "dim=many"], "dim must be a whole number, got 'many'"),
        (["loss", "n=10"], r"n must be a multiple of folds\[0\] = 4, got 10"),
        (["loss", "dtype=int8"], "dtype cannot be 'int8'"),
        (["loss", "device=abacus"], "device=abacus cannot be used"),
        (["loss", "folds=[1,2,3]"], "folds must be one number or two"),
        (["loss", "repeats=0"], "repeats must be 1 or more"),
        (["kernels", "device=cpu"], "device=cpu has no Triton kernels: "),
        (["step", "n=10"], r"n must be a multiple of folds\[0\] = 4, got 10"),
        (["step", "folds=[1,2,3]"], "folds must be one number or two"),
        (["step", "text=bert"], "text cannot be 'bert'"),
        (["loss", "impls=streamin"], "impls cannot be 'streamin': did you mean 'streaming'"),
    ],
)
def test_what_cannot_be_measured_is_said(arguments, message, capsys):
    assert main(arguments) == 2

    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError("CUDA out of memory")])
def test_too_little_memory_is_said_in_a_line(error, monkeypatch, capsys):
    def full(*_):
        raise error

    monkeypatch.setattr("mxmclr_plugin.benchmark.retrieval._task", full)
    assert main(["retrieval"]) == 2
    message = "error: there is not enough memory: choose smaller sizes\n"
    assert capsys.readouterr().err == message


def test_a_search_that_does_not_fit_leaves_the_others(monkeypatch, capsys):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("mxmclr_plugin.benchmark.retrieval.top_k", full)
    sizes = ["queries=30", "gallery=70", "dim=8", "backend=top_k,metrics"]
    assert main(["retrieval", *sizes]) == 0
    out = capsys.readouterr().out
    assert "top_k was skipped: there is not enough memory" in out
    assert re.search(r"metrics +\d", out)


def test_help_lists_the_keys(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert "soft_temperature=2.0" in out
    assert "gallery=50000" in out
    assert main(["retrieval", "--help"]) == 0
    out = capsys.readouterr().out
    assert "soft_temperature" not in out
    assert "gallery=50000" in out


def test_ways_to_search_are_measured_and_agree(tmp_path):
    file = tmp_path / "figures.json"
    arguments = ["retrieval", "queries=300", "gallery=700", "dim=24", "k=6", f"json={file}"]
    assert main(arguments) == 0
    records = {record["impl"]: record for record in json.loads(file.read_text())}
    assert set(records) == {"metrics", "top_k", "full_matrix", "faiss"}
    for record in records.values():
        assert record["matmul_share"] > 0
        assert (record["queries"], record["gallery"], record["k"]) == (300, 700, 6)
        assert record["seconds"] > 0
    assert records["top_k"]["disagreement"] == 0
    assert records["metrics"]["disagreement"] < 1e-9
    assert records["faiss"]["disagreement"] < 0.01


def test_faiss_is_left_out_where_it_would_take_minutes(monkeypatch):
    config = RetrievalBenchmark(queries=10**6, gallery=10**6)
    assert "take minutes" in _unfit("faiss", config, torch.device("cuda"))
    assert _unfit("faiss", RetrievalBenchmark(), torch.device("cpu")) is None
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert "is not installed" in _unfit("faiss", config, torch.device("cuda"))


def test_a_disagreement_would_be_seen(monkeypatch, tmp_path):
    file = tmp_path / "figures.json"

    def second_best(queries, gallery, k, **_options):
        found = top_k(queries, gallery, k + 1)
        return TopK(found.scores[:, 1:], found.indices[:, 1:])

    def other_figures(*arguments, **options):
        return {name: value + 1 for name, value in retrieval_metrics(*arguments, **options).items()}

    monkeypatch.setattr("mxmclr_plugin.benchmark.retrieval.top_k", second_best)
    monkeypatch.setattr("mxmclr_plugin.benchmark.retrieval.retrieval_metrics", other_figures)
    sizes = ["queries=30", "gallery=70", "dim=8", "backend=top_k,metrics", f"json={file}"]
    assert main(["retrieval", *sizes]) == 0
    seen = {record["impl"]: record["disagreement"] for record in json.loads(file.read_text())}
    assert seen == pytest.approx({"top_k": 1, "metrics": 1})


def test_startup_is_measured_against_torch(tmp_path, monkeypatch):
    times = {"-c": 0.02, "-m": 0.01}

    def run(command, **_options):
        time.sleep(times[command[1]])

    monkeypatch.setattr("mxmclr_plugin.benchmark.startup.subprocess.run", run)
    file = tmp_path / "times.json"
    assert main(["startup", "repeats=2", f"json={file}"]) == 0
    records = {record["impl"]: record for record in json.loads(file.read_text())}
    assert records["import torch"]["ratio"] == 1
    assert 0.2 < records["mxmclr --help"]["ratio"] < 0.95
    assert records["mxmclr --help"]["seconds"] >= 0.01


@pytest.mark.slow
def test_steps_in_chunks_need_less_memory(tmp_path):
    file = tmp_path / "steps.json"
    arguments = ["n=8,400", "cache_chunk=0,8", "size=16", "repeats=1", f"json={file}"]
    assert main(["step", *arguments]) == 0
    measured = {(of["impl"], of["n"]): of for of in json.loads(file.read_text())}
    whole, chunked = measured["whole batch", 400], measured["cache_chunk=8", 400]
    assert set(measured) == {("whole batch", 8), ("whole batch", 400), ("cache_chunk=8", 400)}
    if whole["peak_extra_bytes"] is not None:
        assert chunked["peak_extra_bytes"] < whole["peak_extra_bytes"]
    for of in measured.values():
        assert 0 < of["loss_seconds"] < of["seconds"]
        assert of["loss_seconds"] + of["optimizer_seconds"] < of["seconds"]
        assert of["loss_share"] == of["loss_seconds"] / of["seconds"]
        assert of["gpu_idle"] is None
        assert of["host_waits"] is None


def test_a_step_of_images_and_texts(tmp_path):
    file = tmp_path / "steps.json"
    models = ["tower=resnet18", "size=32", "text=bert-tiny", "tokens=5", "dtype=bfloat16"]
    sizes = ["n=8", "folds=2,4", "cache_chunk=0,6", "repeats=1"]
    assert main(["step", *models, *sizes, f"json={file}"]) == 0
    records = json.loads(file.read_text())
    assert [of["impl"] for of in records] == ["whole batch", "cache_chunk=6"]
    assert all(0 < of["loss_share"] < 1 for of in records)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_no_step_waits(tmp_path):
    file = tmp_path / "steps.json"
    models = ["tower=resnet18", "size=64", "text=bert-tiny", "dtype=bfloat16", "device=cuda"]
    assert main(["step", *models, "n=256", "folds=2,4", "cache_chunk=0", f"json={file}"]) == 0
    (step,) = json.loads(file.read_text())
    assert step["host_waits"] == 0
    assert 0 <= step["gpu_idle"] < 1


def test_a_table_of_devices_is_written_and_read(tmp_path, monkeypatch):
    cuts = default_cuts(2, 9) | {"logsumexp": Cut(128, 128, 64, 8, 3)}
    table = {"Fast 1000": {"bfloat16": MeasuredKernels(1.7, cuts)}}
    monkeypatch.setattr(kernels, "MEASURED", table)
    monkeypatch.setattr(kernels, "FILE", tmp_path / "measured.json")
    kernels._write()
    assert read_measured(tmp_path / "measured.json") == table


def test_every_candidate_is_in_the_place_of_a_cut_that_is_used():
    for dtype, itemsize in (("bfloat16", 2), ("float32", 4)):
        for kernel, cuts in kernels._candidates(dtype):
            assert kernel in default_cuts(itemsize, 9)
            assert len(set(cuts)) == len(cuts) > 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_fastest_cuts_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "_16_BIT", kernels._16_BIT[:2])
    monkeypatch.setattr(kernels, "_KEPT", kernels._KEPT[:2])
    file = tmp_path / "cuts.json"
    arguments = ["n=1024", "dim=64", "dtype=bfloat16", "repeats=2", f"json={file}"]
    assert main(["kernels", *arguments]) == 0
    found = json.loads(file.read_text())
    marked = [row["impl"] for row in found if row["fastest"] == "*"]
    assert len(marked) == len(set(marked)) == len(kernels._candidates("bfloat16"))
