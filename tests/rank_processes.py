"""Groups of processes that fit together, started once for many tests: what each of them answers, by rank."""

import atexit
import multiprocessing
import os
import tempfile
import time
import warnings
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from sklearn.exceptions import ConvergenceWarning

# Where there is such a thing, one process imports torch, and each of the others is forked from it.
START = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
IMPORTED_ONCE = ["pandas", "sklearn.model_selection", "torchlogreg.callbacks", "torchlogreg.distributed"]
SECONDS = 60  # that a group waits for one of its processes, and a test for the answers


class Failure(NamedTuple):
    """An error that a process has raised."""

    kind: str
    text: str
    notes: list[str]
    seconds: float  # until then


class Group:
    """Processes of one group of torch.distributed. Each has another number of threads."""

    def __init__(self, size: int, seconds: float = SECONDS):
        context = multiprocessing.get_context(START)
        if START == "forkserver":
            context.set_forkserver_preload(IMPORTED_ONCE)
        self.folder = tempfile.TemporaryDirectory()
        self.processes, self.connections = [], []
        for rank in range(size):
            here, there = context.Pipe()
            arguments = there, os.path.join(self.folder.name, "store"), rank, size, seconds
            self.processes.append(context.Process(target=_serve, args=arguments, daemon=True))
            self.processes[-1].start()
            there.close()
            self.connections.append(here)

    def run(self, function, *arguments, seconds: float = SECONDS) -> list[Any]:
        """What `function(rank, size, *arguments)` returns in each process, or its `Failure`; None of one that ended."""
        ends = time.monotonic() + seconds
        for process, connection in zip(self.processes, self.connections, strict=True):
            if not process.is_alive():
                self.close()
                raise RuntimeError("A process has ended after its last answer.")
            connection.send((function, arguments))
        answers = []
        for rank, connection in enumerate(self.connections):
            if not connection.poll(max(0.0, ends - time.monotonic())):
                self.close()
                raise TimeoutError(f"Rank {rank} did not answer within {seconds} seconds.")
            try:
                answers.append(connection.recv())
            except (EOFError, ConnectionResetError):
                answers.append(None)
        return answers

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()
        self.processes = []
        self.folder.cleanup()


def _serve(connection, path, rank, size, seconds):
    torch.set_num_threads(1 + rank % 3)
    timeout = timedelta(seconds=seconds)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=size, timeout=timeout)
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:  # the tests have ended
            os._exit(0)
        began = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                warnings.simplefilter("ignore", ConvergenceWarning)  # rank 0 alone would raise it
                answer = function(rank, size, *arguments)
        except BaseException as error:
            notes = list(getattr(error, "__notes__", ()))
            answer = Failure(type(error).__name__, str(error), notes, time.perf_counter() - began)
        connection.send(answer)


_groups: dict[int, Group] = {}


def on_ranks(size: int, function, *arguments, seconds: float = SECONDS) -> list[Any]:
    """See `Group.run`, in the group of this size, which all tests of a process share."""
    if size not in _groups or not _groups[size].processes:
        _groups[size] = Group(size)
        atexit.register(_groups[size].close)
    return _groups[size].run(function, *arguments, seconds=seconds)
