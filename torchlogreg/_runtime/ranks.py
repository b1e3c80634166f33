"""Processes that fit one model together: one of them leads, the others do what it asks for with their rows.

The first process of the group, rank 0, runs the whole fit: the solver, the stopping rules, callbacks, checkpoints. What
it asks of the rows it sends to the others as a function and its arguments, and the sums that come back are reduced to
it. So every decision is made once, and no two processes can come to different ones. That all of them run the solver
and add up sums was tried: their linear algebra differs in the last bits with the number of threads, and after some
twenty fits one of them takes a step that another does not. An iteration costs a broadcast and a reduction.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial, wraps
from typing import Any

import torch
import torch.distributed as dist

from torchlogreg._runtime.desk import Desk, Lead
from torchlogreg._runtime.rank_errors import (
    BrokenGroup,
    Interrupts,
    answered,
    raise_first,
    told_of,
)
from torchlogreg._runtime.threads import fit_arithmetic


class Alone:
    """One process that has all rows: what it tells itself it knows."""

    rank, size = 0, 1

    def meeting(self) -> AbstractContextManager:
        """While all ranks set up a fit: an error here between two exchanges is what the others hear in the next one."""
        return nullcontext()

    def exchanged(self, work: Callable[[], Any], *, is_last: bool = False) -> list[Any]:  # noqa: ARG002
        """What `work()` returns in each rank, for all of them to know; what one raises, all do.

        After the last exchange of a fit an error is that of its rank alone.
        """
        return [work()]

    def introduced(self, work: Callable[[], tuple[Any, Any]]) -> tuple[Any, list[Any]]:
        """What `work()` returns first, which stays here, and what it returns second in each rank; see `exchanged`."""
        own: Any = None

        def tell():
            nonlocal own
            own, told = work()
            return told

        everyone = self.exchanged(tell)
        return own, everyone

    def led(self, work: Callable[[Any], dict], shared: Callable[[], dict]) -> dict:  # noqa: ARG002 - with nobody
        """The attributes that `work(lead)` returns where rank 0 leads; the others have what `shared()` returns."""
        return work(None)


ALONE = Alone()
_current: ContextVar[Alone] = ContextVar("ranks", default=ALONE)


def current_ranks() -> Any:
    """The processes that fit with this one."""
    return _current.get()


def collective(method: Callable) -> Callable:
    """A method that all ranks run at once; see `Alone.meeting`."""

    @wraps(method)
    def wrapper(*args, **kwargs):
        with current_ranks().meeting():
            return method(*args, **kwargs)

    return wrapper


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
        if self.rank < 0:
            raise ValueError("This process does not belong to the group.")
        self.n_calls = self.n_bytes = 0
        self.interrupts = Interrupts()
        self._is_meeting = self._is_within = False  # within another meeting
        self._meets_again = False  # whether the others wait for this rank until it has told of an error
        on_device = dist.get_backend(group) == "nccl"
        self.device = torch.device("cuda", torch.cuda.current_device()) if on_device else torch.device("cpu")

    @contextmanager
    def meeting(self):
        """See `Alone`."""
        if self._is_meeting:  # a search that fits its best model, and has more to tell after that
            self._is_within = True
            try:
                yield
            finally:
                self._is_within = False
            return
        with self.interrupts.held_back():
            self._is_meeting = self._meets_again = True
            try:
                yield
            except BaseException as error:
                if self._meets_again and not isinstance(error, BrokenGroup):
                    self.exchanged(partial(_raised, error))
                raise
            finally:
                self._is_meeting = self._meets_again = False

    def exchanged(self, work, *, is_last=False):
        """See `Alone`."""
        value, error = None, None
        try:
            with self.interrupts.heard():
                value = work()
        except BaseException as raised:
            error = raised
        found: list[Any] = [None] * self.size
        answered(dist.all_gather_object, found, (value, told_of(error)), group=self.group)
        if (is_last and not self._is_within) or any(told is not None for _, told in found):
            self._meets_again = False
        raise_first([told for _, told in found], error, self.rank)
        return [value for value, _ in found]

    def led(self, work, shared):
        """See `Alone`."""
        self._meets_again = False
        if self.size == 1:
            return work(None)
        own, error = {}, None
        try:
            with self.interrupts.heard():
                own = shared()
        except BaseException as raised:
            error = raised
        desk = Desk(self, own, error)
        if self.rank:
            with torch.inference_mode(False), torch.no_grad(), fit_arithmetic(desk.X):
                attributes = desk.serve()
            self._meets_again = True
            return attributes
        lead = Lead(desk)
        try:
            with self.interrupts.heard(), shared_by(ALONE):  # what callbacks fit meanwhile is nobody else's
                attributes = work(lead)
        except BrokenGroup:
            raise
        except BaseException as raised:
            desk.send([[], ("end", None, told_of(raised))])
            raise
        desk.send([[], ("end", attributes, None)])
        self._meets_again = True
        return attributes

    def first_of(self, rank: int) -> int:
        """The number of a rank among all processes."""
        return rank if self.group is None else dist.get_global_rank(self.group, rank)

    def broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        """What rank 0 has in a tensor, there."""
        self._count(tensor)
        moved = tensor.to(self.device)
        answered(dist.broadcast, moved, src=self.first_of(0), group=self.group)
        return moved.to(tensor.device)

    def summed(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over the ranks, in rank 0."""
        self._count(tensor)
        moved = tensor.to(self.device)
        answered(dist.reduce, moved, dst=self.first_of(0), group=self.group)
        return moved.to(tensor.device)

    def sent(self, tensor: torch.Tensor) -> None:
        """Send a tensor to rank 0."""
        answered(dist.send, tensor.to(self.device), dst=self.first_of(0), group=self.group)

    def received(self, n_bytes: int, rank: int) -> torch.Tensor:
        """The bytes that a rank sends."""
        out = torch.empty(n_bytes, dtype=torch.uint8, device=self.device)
        self._count(out)
        answered(dist.recv, out, src=self.first_of(rank), group=self.group)
        return out.cpu()

    def _count(self, tensor):
        self.n_calls, self.n_bytes = self.n_calls + 1, self.n_bytes + tensor.numel() * tensor.element_size()


def _raised(error):
    raise error
