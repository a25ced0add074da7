"""Runs cells in several processes that outlive a cell, and are outlived by the rest."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from rich.console import Console

from mxmclr_plugin.comparison.cells import (
    Cell,
    CellOutcome,
    outcome_of,
    record_failure,
    run_cell,
)
from mxmclr_plugin.progress import progress_bar

__all__ = ["run_cells"]


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    cell: Cell | None = None
    since: float = 0.0


def run_cells(
    cells: Sequence[Cell],
    jobs: int | None,
    console: Console,
    what: str,
    run: Callable[[Cell], CellOutcome] = run_cell,
) -> dict[Cell, CellOutcome]:
    """Runs what is not finished yet, several cells at a time.

    A process serves one cell after the other. If one dies, killed from outside or for want of
    memory, its cell is recorded as failed and another process takes its place. All end with the
    process that started them, so nothing goes on unseen.

    Args:
        cells: What is to be run; equal ones are run once.
        jobs: Processes; by default one for each GPU, or else for each core. Cores are shared out
            between them; on GPUs each process sees one.
        console: Where failures, and on a terminal the progress, are shown.
        what: Stands before the progress bar.
        run: Runs one cell in a process.

    Returns:
        The outcome of every cell, of earlier calls as well.
    """
    outcomes: dict[Cell, CellOutcome] = {}
    for cell in dict.fromkeys(cells):
        if (finished := outcome_of(cell)) is not None:
            outcomes[cell] = finished
    queue = deque(cell for cell in dict.fromkeys(cells) if cell not in outcomes)
    if not queue:
        return outcomes
    gpus = torch.cuda.device_count()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processes = min(jobs or gpus or cores or 1, len(queue))
    threads = max(1, (cores or 1) // processes)
    workers = [_start(k % gpus if gpus else None, threads, run) for k in range(processes)]
    try:
        with progress_bar(console.is_terminal) as progress:
            bar = progress.add_task(what, total=len(queue))
            for worker in workers:
                _hand_over(worker, queue)
            while busy := [worker for worker in workers if worker.cell is not None]:
                wait([end for w in busy for end in (w.connection, w.process.sentinel)])
                for k, worker in enumerate(workers):
                    if worker.cell is None or (ended := _outcome(worker)) is None:
                        continue
                    outcomes[worker.cell] = ended
                    if ended.error is not None:
                        console.print(
                            f"failed: {worker.cell.folder.name}: {ended.error}",
                            highlight=False,
                            markup=False,
                            soft_wrap=True,
                        )
                    if queue and not worker.process.is_alive():
                        workers[k] = worker = _start(k % gpus if gpus else None, threads, run)
                    _hand_over(worker, queue)
                    progress.advance(bar)
    finally:
        for worker in workers:
            _stop(worker)
    return outcomes


def _start(gpu: int | None, threads: int, run: Callable[[Cell], CellOutcome]) -> _Worker:
    # A fresh interpreter: a fork of a process with running threads can hang.
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, gpu, threads, run), daemon=False)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _serve(
    connection: Connection, gpu: int | None, threads: int, run: Callable[[Cell], CellOutcome]
) -> None:
    parent = parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    if gpu is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[gpu] if visible else str(gpu)
    torch.set_num_threads(threads)
    try:
        while True:
            connection.send(run(connection.recv()))
    except (EOFError, KeyboardInterrupt):
        return


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _hand_over(worker: _Worker, queue: deque[Cell]) -> None:
    worker.cell = None
    if queue:
        worker.cell, worker.since = queue.popleft(), time.perf_counter()
        worker.connection.send(worker.cell)


def _outcome(worker: _Worker) -> CellOutcome | None:
    """What a worker has to say of its cell; None if nothing yet."""
    assert worker.cell is not None
    try:
        if worker.connection.poll():
            outcome: CellOutcome = worker.connection.recv()
            return outcome
    except (EOFError, ConnectionError):
        worker.process.join()
    if worker.process.is_alive():
        return None
    return record_failure(
        worker.cell, f"its process died with exit code {worker.process.exitcode}", worker.since
    )


def _stop(worker: _Worker) -> None:
    worker.connection.close()
    if worker.cell is not None:
        worker.process.terminate()
    worker.process.join(timeout=10)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()
