"""Processes that fit one model together: one of them leads, the others do what it asks for with their rows.

The first process of the group, rank 0, runs the whole fit: the solver, the stopping rules, callbacks, checkpoints. What
it asks of the rows it sends to the others as a function and its arguments, and the sums that come back are reduced to
it. So every decision is made once, and no two processes can come to different ones. That all of them run the solver
and add up sums was tried: their linear algebra differs in the last bits with the number of threads, and after some
twenty fits one of them takes a step that another does not. An iteration costs a broadcast and a reduction.
"""

import builtins
import io
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple
from weakref import finalize

import numpy as np
import torch
import torch.distributed as dist

from torchlogreg._runtime.out_of_memory import with_room

MESSAGE_BYTES = 2**14  # what a first broadcast holds of a message; more of it takes a second one
LENGTH_BYTES = 8


class PerRank(list):
    """An argument that is another one in each rank."""


class Alone:
    """One process that has all rows: what it tells itself it knows."""

    rank, size = 0, 1

    def exchanged(self, work: Callable[[], Any]) -> list[Any]:
        """What `work()` returns in each rank, for all of them to know; what one raises, all do."""
        return [work()]

    def led(self, work: Callable[[Any], dict], shared: Callable[[], dict]) -> dict:  # noqa: ARG002 - with nobody
        """The attributes that `work(lead)` returns where rank 0 leads and the others have what `shared()` returns."""
        return work(None)


ALONE = Alone()
_current: ContextVar[Alone] = ContextVar("ranks", default=ALONE)


def current_ranks() -> Any:
    """The processes that fit with this one."""
    return _current.get()


@contextmanager
def shared_by(ranks: Alone) -> Iterator[Any]:
    """Within, fits are those of these ranks."""
    token = _current.set(ranks)
    try:
        yield ranks
    finally:
        _current.reset(token)


class Ranks(Alone):
    """The processes of a group of torch.distributed. `n_calls` and `n_bytes` count what was sent during fits."""

    def __init__(self, group: Any = None):
        self.group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self.n_calls = self.n_bytes = 0
        on_device = dist.get_backend(group) == "nccl"
        self.device = torch.device("cuda", torch.cuda.current_device()) if on_device else torch.device("cpu")

    def exchanged(self, work):
        """See `Alone`."""
        try:
            value, error = work(), None
        except Exception as raised:
            value, error = None, raised
        found: list[Any] = [None] * self.size
        _answered(dist.all_gather_object, found, (value, told_of(error)), group=self.group)
        raise_first([told for _, told in found], error, self.rank)
        return [value for value, _ in found]

    def led(self, work, shared):
        """See `Alone`."""
        try:
            own, error = shared(), None
        except Exception as raised:
            own, error = {}, raised
        desk = Desk(self, own, error)
        if self.rank:
            return desk.serve()
        lead = Lead(desk)
        try:
            attributes = work(lead)
        except BrokenGroup:
            raise
        except BaseException as raised:
            desk.send([[], ("end", None, told_of(raised))])
            raise
        desk.send([[], ("end", attributes, None)])
        return attributes

    def first_of(self, rank: int) -> int:
        """The number of a rank among all processes."""
        return rank if self.group is None else dist.get_global_rank(self.group, rank)

    def broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        """What rank 0 has in a tensor, there."""
        self._count(tensor)
        moved = tensor.to(self.device)
        _answered(dist.broadcast, moved, src=self.first_of(0), group=self.group)
        return moved.to(tensor.device)

    def summed(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over the ranks, in rank 0."""
        self._count(tensor)
        moved = tensor.to(self.device)
        _answered(dist.reduce, moved, dst=self.first_of(0), group=self.group)
        return moved.to(tensor.device)

    def sent(self, tensor: torch.Tensor) -> None:
        """Send a tensor to rank 0."""
        _answered(dist.send, tensor.to(self.device), dst=self.first_of(0), group=self.group)

    def received(self, n_bytes: int, rank: int) -> torch.Tensor:
        """The bytes that a rank sends."""
        out = torch.empty(n_bytes, dtype=torch.uint8, device=self.device)
        self._count(out)
        _answered(dist.recv, out, src=self.first_of(rank), group=self.group)
        return out.cpu()

    def _count(self, tensor):
        self.n_calls, self.n_bytes = self.n_calls + 1, self.n_bytes + tensor.numel() * tensor.element_size()


class BrokenGroup(RuntimeError):
    """The processes of the group no longer hear each other."""


def _answered(function, *args, **kwargs):
    """function(*args), an operation of the group."""
    try:
        return function(*args, **kwargs)
    except RuntimeError as error:
        raise BrokenGroup(
            "Another process of the group has ended, or did not answer within the group's timeout. No model was "
            "fitted. Look at the output of the other processes, and start all of them again."
        ) from error


class Told(NamedTuple):
    """An error, as other processes are told of it."""

    kind: type[Exception]
    text: str

    def error(self, prefix: str = "") -> Exception:
        """The error, made again."""
        try:
            return self.kind(prefix + self.text)
        except TypeError:  # a UnicodeDecodeError, for example
            return RuntimeError(prefix + self.text)


def told_of(error: BaseException | None) -> Any:
    """What others are told of an error: its nearest built-in type, which they know how to make."""
    if error is None:
        return None
    kind: Any = next(kind for kind in type(error).__mro__ if kind.__module__ == builtins.__name__)
    return Told(kind if issubclass(kind, Exception) else RuntimeError, f"{error}" or type(error).__name__)


def raise_first(told: list[Told | None], own: Exception | None, rank: int) -> None:
    """Raise the own error, or the first one that others have told of, if there is any."""
    if own is not None:
        own.add_note(f"This happened in rank {rank}.")
        raise own
    for number, error in enumerate(told):
        if error is not None:
            raise remote_error(error, number)


def remote_error(told: Told, rank: int) -> Exception:
    """The error that another rank has told of, of its own or of a third one."""
    return told.error("" if told.text.startswith("In rank ") else f"In rank {rank}: ")


class Remote:
    """In rank 0, what each rank has under a number or a name; under a number it is forgotten when this is."""

    def __init__(self, lead: "Lead", number: int | str):
        self.lead, self.number = lead, number
        if isinstance(number, int):
            finalize(self, lead.forgotten.append, number)


class _Pickler(pickle.Pickler):
    """What ranks share is sent as its number, tensors as NumPy's arrays."""

    def persistent_id(self, obj):
        if isinstance(obj, Remote):
            return "shared", obj.number
        if isinstance(obj, PerRank):
            return "per rank", list(obj)
        if isinstance(obj, torch.Tensor):
            return "tensor", obj.numpy(force=True)
        return None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file, desk):
        super().__init__(file)
        self.desk = desk

    def persistent_load(self, pid):
        kind, value = pid
        if kind == "shared":
            return self.desk.shared[value]
        if kind == "per rank":
            return value[self.desk.ranks.rank]
        return torch.from_numpy(value if value.flags.writeable else value.copy()).to(self.desk.device)


def _dumped(thing) -> bytes:
    file = io.BytesIO()
    _Pickler(file, protocol=5).dump(thing)
    return file.getvalue()


class Desk:
    """What a rank has of its own, by number or name, and how it does what it is asked for.

    A command is a function with arguments; where this rank has nothing of what an argument stands for, as one without
    rows has no design, it contributes nothing.
    """

    def __init__(self, ranks: Ranks, shared: dict, error: Exception | None = None):
        self.ranks, self.error = ranks, error
        self.reported: Exception | None = None
        self.shared: dict[Any, Any] = {name: value for name, value in shared.items() if name != "device"}
        self.device = shared.get("device", torch.device("cpu"))

    # --- In all ranks.

    def do(self, message: list) -> Any:
        """What the last command of a message answers: rank 0 gets what it wanted, others None."""
        forgotten, *commands = message
        answer = None
        for kind, *command in commands:
            answer = getattr(self, f"_{kind}")(*command)
        for number in forgotten:  # not before: some commands may have waited since
            self.shared.pop(number, None)
        return answer

    def loaded(self, message: bytes) -> Any:
        return _Unpickler(io.BytesIO(message), self).load()

    def _result(self, function, arguments):
        """What a function returns; None if it is about something that this rank has not, or raises an error."""
        if self.error is not None:
            return None
        try:
            function, arguments = self.loaded(function), self.loaded(arguments)
            if any(argument is NOTHING for argument in arguments):
                return None
            if self.ranks.rank == 0:  # where who asks begins again with smaller blocks
                return function(*arguments)
            return with_room(lambda: function(*arguments))
        except Exception as raised:
            self.error = raised
            return None

    def _keep(self, number, function, arguments):
        result = self._result(function, arguments)
        self.shared[number] = NOTHING if result is None else result

    def _total(self, numbers, function, arguments, shapes):
        """Sums of all ranks, of these shapes; what belongs to single rows is kept under the numbers."""
        result = self._result(function, arguments)
        sizes = [int(np.prod(shape)) for shape in shapes]
        flat = torch.zeros(sum(sizes) + 1, dtype=torch.float64, device="cpu")
        if result is not None:
            for part, own in zip(flat.split([*sizes, 1]), result[: len(shapes)], strict=False):
                part[:] = own.reshape(-1)
        for i, number in enumerate(numbers):
            self.shared[number] = NOTHING if result is None else result[len(shapes) + i]
        flat[-1] = self.error is not None
        flat = self.ranks.summed(flat)
        if self.ranks.rank:
            return None
        parts = [part.view(shape) for part, shape in zip(flat.split([*sizes, 1]), shapes, strict=False)]
        return bool(flat[-1]), [part.to(self.device) for part in parts]

    def _each(self, function, arguments):
        """What each rank's function returns, in a list."""
        result, ranks = self._result(function, arguments), self.ranks
        data = b"" if result is None or not ranks.rank else _dumped(result)
        sizes = torch.zeros(ranks.size + 1, dtype=torch.int64, device="cpu")
        sizes[ranks.rank], sizes[-1] = len(data), self.error is not None
        sizes = ranks.summed(sizes).tolist()
        if ranks.rank:
            if data:
                ranks.sent(torch.frombuffer(bytearray(data), dtype=torch.uint8))
            return None
        out = [result]
        for rank, n_bytes in enumerate(sizes[1:-1], start=1):
            out.append(self.loaded(ranks.received(n_bytes, rank).numpy().tobytes()) if n_bytes else None)
        return bool(sizes[-1]), out

    def _errors(self):
        """What each rank tells of its error, which it has told of then; and the own one."""
        told: list[Any] = [None] * self.ranks.size
        _answered(dist.all_gather_object, told, told_of(self.error), group=self.ranks.group)
        self.reported, self.error = self.error or self.reported, None
        return told, self.reported

    # --- In rank 0.

    def send(self, message: list) -> None:
        """Send a message to the others."""
        data = _dumped(message)
        sent = len(data).to_bytes(LENGTH_BYTES, "little") + data
        first = torch.zeros(MESSAGE_BYTES, dtype=torch.uint8, device="cpu")
        first[: len(sent)] = torch.frombuffer(bytearray(sent[:MESSAGE_BYTES]), dtype=torch.uint8)
        self.ranks.broadcast(first)
        if len(sent) > MESSAGE_BYTES:
            self.ranks.broadcast(torch.frombuffer(bytearray(sent[MESSAGE_BYTES:]), dtype=torch.uint8))

    # --- In the others.

    def serve(self) -> dict:
        """Do what rank 0 asks for until it has the attributes."""
        while True:
            message = self.loaded(self._message())
            kind, *rest = message[1]
            if kind != "end":
                self.do(message)
                continue
            attributes, told = rest
            own = self.error or self.reported
            if told is None:
                return attributes
            if own is not None:
                own.add_note(f"This happened in rank {self.ranks.rank}.")
                raise own
            raise remote_error(told, 0)

    def _message(self):
        first = self.ranks.broadcast(torch.empty(MESSAGE_BYTES, dtype=torch.uint8, device="cpu")).numpy().tobytes()
        length = int.from_bytes(first[:LENGTH_BYTES], "little")
        data = first[LENGTH_BYTES : LENGTH_BYTES + length]
        if len(data) == length:
            return data
        rest = torch.empty(length - len(data), dtype=torch.uint8, device="cpu")
        return data + self.ranks.broadcast(rest).numpy().tobytes()


class _Nothing:
    """Stands for what a rank without rows does not have."""


NOTHING = _Nothing()


class Lead:
    """How rank 0 asks all ranks, itself among them."""

    def __init__(self, desk: Desk):
        self.desk, self.ranks, self.forgotten = desk, desk.ranks, []
        self._waiting: list[tuple] = []  # commands that need no answer go with the next one that does
        self._number = 0

    def kept(self, function: Callable, *arguments: Any) -> int:
        """The number under which each rank keeps what the function returns."""
        number = self._next()
        self._waiting.append(("keep", number, _dumped(function), _dumped(arguments)))
        return number

    def total(self, function: Callable, *arguments: Any, shapes: list, n_kept: int = 0) -> list:
        """See `Design.total`; the numbers of what is kept come last."""
        numbers = [self._next() for _ in range(n_kept)]
        shapes = [tuple(shape) for shape in shapes]
        return [*self._answer("total", numbers, _dumped(function), _dumped(arguments), shapes), *numbers]

    def each(self, function: Callable, *arguments: Any) -> list:
        """What the function returns in each rank; None where it has nothing to do."""
        return self._answer("each", _dumped(function), _dumped(arguments))

    def _next(self):
        self._number += 1
        return self._number

    def _answer(self, *command):
        forgotten, self.forgotten[:] = list(self.forgotten), []
        message = [forgotten, *self._waiting, command]
        self._waiting = []
        self.desk.send(message)
        has_failed, answer = self.desk.do(message)
        if has_failed:
            message = [[], ("errors",)]
            self.desk.send(message)
            told, own = self.desk.do(message)
            raise_first(told, own if told[0] is not None else None, 0)
        return answer
