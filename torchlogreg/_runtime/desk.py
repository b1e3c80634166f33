"""What a process that leads others asks of them, and how each of them does it with what it has.

A message is a list of commands: functions of modules with their arguments, which name what the ranks share by number.
"""

import io
import pickle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import finalize

import numpy as np
import torch
import torch.distributed as dist

from torchlogreg._runtime.out_of_memory import Room
from torchlogreg._runtime.rank_errors import answered, made, raise_first, remote_error, told_of

if TYPE_CHECKING:
    from torchlogreg._runtime.ranks import Ranks

MESSAGE_BYTES = 2**14  # what a first broadcast holds of a message; more of it takes a second one
LENGTH_BYTES = 8


class PerRank(list):
    """An argument that is another one in each rank."""


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
            if obj.dtype == torch.bfloat16:  # which NumPy does not have
                return "bfloat16", obj.view(torch.int16).numpy(force=True)
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
        tensor = torch.from_numpy(value if value.flags.writeable else value.copy()).to(self.desk.device)
        return tensor.view(torch.bfloat16) if kind == "bfloat16" else tensor


def itself(thing):
    """What is asked for where a rank is to send the thing as it is."""
    return thing


def _dumped(thing) -> bytes:
    file = io.BytesIO()
    _Pickler(file, protocol=5).dump(thing)
    return file.getvalue()


def _as_tensor(data: bytes) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy())


class Desk:
    """What a rank has of its own, by number or name, and how it does what it is asked for.

    A command is a function with arguments; where this rank has nothing of what an argument stands for, as one without
    rows has no design, it contributes nothing.
    """

    def __init__(self, ranks: "Ranks", shared: dict, error: BaseException | None = None):
        self.ranks, self.error = ranks, error
        self.reported: BaseException | None = None
        self.room = Room()  # the fit goes on with the blocks that it has
        self.shared: dict[Any, Any] = shared
        self.X = shared.get("X", torch.empty(0, device="cpu"))  # whose device decides how this rank computes, and where
        self.device = torch.device("cpu") if self.X.device.type == "mps" else self.X.device

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

    def _result(self, function, arguments, then):
        """What `then` makes of a function's result; None if this rank has not what it is about, or raises an error."""
        if self.error is not None:
            return None
        try:
            with self.ranks.interrupts.heard():
                function, arguments = self.loaded(function), self.loaded(arguments)
                if any(argument is NOTHING for argument in arguments):
                    return None
                if self.ranks.rank == 0:  # where who asks begins again with smaller blocks
                    return then(function(*arguments))
                return self.room.call(lambda: then(function(*arguments)))
        except BaseException as raised:  # KeyboardInterrupt, too: the others wait for an answer
            self.error = raised
            return None

    def _keep(self, number, function, arguments):
        result = self._result(function, arguments, itself)
        self.shared[number] = NOTHING if result is None else result

    def _total(self, numbers, function, arguments, shapes):
        """Sums of all ranks, of these shapes; what belongs to single rows is kept under the numbers."""
        sizes = [int(np.prod(shape)) for shape in shapes]
        flat = torch.zeros(sum(sizes) + 1, dtype=torch.float64, device="cpu")

        def sum_up(result):
            for part, own in zip(flat.split([*sizes, 1]), result[: len(shapes)], strict=False):
                part[:] = own.reshape(-1)
            return result[len(shapes) :]

        kept = self._result(function, arguments, sum_up)
        for i, number in enumerate(numbers):
            self.shared[number] = NOTHING if kept is None else kept[i]
        flat[-1] = self.error is not None
        flat = self.ranks.summed(flat)
        if self.ranks.rank:
            return None
        parts = [part.view(shape) for part, shape in zip(flat.split([*sizes, 1]), shapes, strict=False)]
        return bool(flat[-1]), [part.to(self.device) for part in parts]

    def _each(self, function, arguments):
        """What each rank's function returns, in a list."""
        ranks = self.ranks
        result = self._result(function, arguments, _dumped if ranks.rank else itself)
        data = result if result is not None and ranks.rank else b""
        sizes = torch.zeros(ranks.size + 1, dtype=torch.int64, device="cpu")
        sizes[ranks.rank], sizes[-1] = len(data), self.error is not None
        sizes = ranks.summed(sizes).tolist()
        if ranks.rank:
            if data:
                ranks.sent(_as_tensor(data))
            return None
        received = [ranks.received(n, rank) if n else None for rank, n in enumerate(sizes[1:-1], start=1)]
        if sizes[-1]:
            return True, []
        return False, [result, *(None if data is None else self.loaded(data.numpy().tobytes()) for data in received)]

    def _errors(self):
        """What each rank tells of its error, which it has told of then; and the own one."""
        told: list[Any] = [None] * self.ranks.size
        answered(dist.all_gather_object, told, told_of(self.error), group=self.ranks.group)
        own, self.error = self.error, None
        if self.ranks.rank:  # rank 0 raises it at once, and keeps nothing of what a failed attempt had in memory
            self.reported = own or self.reported
        return told, own

    # --- In rank 0.

    def send(self, message: list) -> None:
        """Send a message to the others."""
        data = _dumped(message)
        sent = len(data).to_bytes(LENGTH_BYTES, "little") + data
        first = torch.zeros(MESSAGE_BYTES, dtype=torch.uint8, device="cpu")
        first[: len(sent)] = _as_tensor(sent[:MESSAGE_BYTES])
        self.ranks.broadcast(first)
        if len(sent) > MESSAGE_BYTES:
            self.ranks.broadcast(_as_tensor(sent[MESSAGE_BYTES:]))

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
            if told is None:
                return attributes
            own = self.error or self.reported
            if own is not None and told.text.startswith(f"In rank {self.ranks.rank}: "):
                own.add_note(f"This happened in rank {self.ranks.rank}.")
                raise own
            raise made(told.kind, told.text) if told.text.startswith("In rank ") else remote_error(told, 0)

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
        with self.ranks.interrupts.heard(False):
            self.desk.send(message)
            has_failed, answer = self.desk.do(message)
            if has_failed:
                message = [[], ("errors",)]
                self.desk.send(message)
                told, own = self.desk.do(message)
        if has_failed:
            raise_first(told, own if told[0] is not None else None, 0)
        return answer
