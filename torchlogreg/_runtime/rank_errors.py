"""How processes that fit together hear of one another's errors, and what an interrupt waits for."""

import builtins
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple


class BrokenGroup(RuntimeError):
    """The processes of the group no longer hear each other."""


def answered(function, *args, **kwargs):
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


def told_of(error):
    """What others are told of an error: its nearest built-in type, which they know how to make."""
    if error is None:
        return None
    kind: Any = next(kind for kind in type(error).__mro__ if kind.__module__ == builtins.__name__)
    return Told(kind if issubclass(kind, Exception) else RuntimeError, f"{error}" or type(error).__name__)


def raise_first(told: list[Told | None], own: BaseException | None, rank: int) -> None:
    """Raise the own error, or the first one that others have told of, if there is any."""
    if own is not None:
        if not all(told):
            own.add_note(f"This happened in rank {rank}.")
        raise own
    for number, error in enumerate(told):
        if error is not None:
            raise remote_error(error, number)


def remote_error(told: Told, rank: int) -> Exception:
    """The error that another rank has told of."""
    return made(told.kind, f"In rank {rank}: {told.text}")


def made(kind: type[Exception], text: str) -> Exception:
    """An error of that kind, if it is made of its text alone."""
    try:
        return kind(text)
    except TypeError:  # a UnicodeDecodeError, for example
        return RuntimeError(text)


class Interrupts:
    """Ctrl-C in a fit of several processes: heard where an error is told to the others, and held back elsewhere.

    A message that is broken off leaves the others waiting, or makes gloo end them.
    """

    def __init__(self):
        self._are_heard = self._is_waiting = False

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Throughout a fit; one that is left over is raised at its end."""
        is_usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if not is_usual or threading.current_thread() is not threading.main_thread():
            yield
            return
        self._is_waiting = False
        signal.signal(signal.SIGINT, self._came)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self._raise_waiting()

    @contextmanager
    def heard(self, are_heard: bool = True) -> Iterator[None]:
        """Within, they are raised, or held back all the same."""
        before, self._are_heard = self._are_heard, are_heard
        try:
            if are_heard:
                self._raise_waiting()
            yield
        finally:
            self._are_heard = before
        if before:
            self._raise_waiting()

    def _came(self, *_):
        self._is_waiting = True
        if self._are_heard:
            self._raise_waiting()

    def _raise_waiting(self):
        if self._is_waiting:
            self._is_waiting = False
            raise KeyboardInterrupt
