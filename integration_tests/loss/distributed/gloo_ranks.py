"""Real processes that join in gloo groups, started once for many small jobs."""

import multiprocessing
import pickle
import tempfile
from datetime import timedelta
from pathlib import Path

import torch


class GlooRanks:
    """Runs importable functions on groups of up to ``most`` ranks.

    As a context manager; the processes end with it. Calling it with a function and a list of
    arguments, one for each rank, returns what the ranks return, or raises what one raised.
    ``parents`` lets the functions start processes of their own.
    """

    def __init__(self, most, parents=False):
        self.most = most
        self.parents = parents

    def __enter__(self):
        # Forked from one process that has imported what takes long, and has run nothing.
        context = multiprocessing.get_context("forkserver")
        self.folder = tempfile.TemporaryDirectory()
        self.jobs = 0
        self.pipes, self.processes = [], []
        for rank in range(self.most):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, rank), daemon=not self.parents)
            process.start()
            self.pipes.append(here)
            self.processes.append(process)
        return self

    def __call__(self, function, arguments):
        self.jobs += 1
        meeting = Path(self.folder.name) / str(self.jobs)
        for pipe, argument in zip(self.pipes, arguments):
            pipe.send_bytes(pickle.dumps((function, argument, len(arguments), str(meeting))))
        answers = []
        for rank, pipe in enumerate(self.pipes[: len(arguments)]):
            if not pipe.poll(120):
                raise TimeoutError(f"rank {rank} of {len(arguments)} did not answer")
            answers.append(pickle.loads(pipe.recv_bytes()))
        failed = [answer for answer in answers if isinstance(answer, Exception)]
        if failed:
            raise failed[0]
        return answers

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.join()
        self.folder.cleanup()


def _serve(pipe, rank):
    torch.set_num_threads(1)
    while True:
        try:
            function, argument, world_size, meeting = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        torch.distributed.init_process_group(
            "gloo",
            init_method=f"file://{meeting}",
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=60),
        )
        # A rank that fails at once must not leave while others are still connecting.
        torch.distributed.barrier()
        try:
            answer = function(argument)
        except Exception as error:
            answer = error
        # Held until the next job has come: in torch 2.6 a group is taken down without letting
        # go of the interpreter, and waits for ever for a thread that needs it to free a tensor of
        # the last operation (pytorch/pytorch#154976).
        group = torch.distributed.group.WORLD  # noqa: F841
        torch.distributed.destroy_process_group()
        pipe.send_bytes(pickle.dumps(answer))
