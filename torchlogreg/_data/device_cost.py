"""The rule of device="auto": whether an accelerator is expected to repay what it costs to use it.

It is a function of sizes and of the constants in `tuning`, and asks no device. So a small fit starts none, and the same
fit runs in the same place whatever ran before it: that a device was started already is not taken into account.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from torchlogreg._data import tuning

if TYPE_CHECKING:
    from torchlogreg._data.design import Access


class Rates(NamedTuple):
    """How fast a place computes, and what comes before that."""

    bytes_per_s: float
    flops_per_s: Mapping[int, float]  # by the bytes of a number, 4 or 8
    call_s: float  # seconds of one operation, however small
    bus_bytes_per_s: float = float("inf")  # from the host
    start_s: float = 0.0  # seconds until the first product is done

    @classmethod
    def of_host(cls) -> "Rates":
        return cls(tuning.HOST_BYTES_PER_S, tuning.HOST_FLOPS_PER_S, tuning.HOST_CALL_SECONDS)

    @classmethod
    def of_accelerator(cls) -> "Rates":
        return cls(
            tuning.DEVICE_BYTES_PER_S,
            tuning.DEVICE_FLOPS_PER_S,
            tuning.LAUNCH_SECONDS,
            tuning.BUS_BYTES_PER_S,
            tuning.START_SECONDS,
        )


class Table(NamedTuple):
    """The sizes of a dense X, and of what is fitted to it."""

    shape: tuple[int, int]
    n_logits: int
    number_bytes: int  # of a number that is multiplied, 4 or 8
    stored_bytes: int  # of a number that is copied to a device
    is_streamed: bool = False  # so that each pass copies all of it again


class Work(NamedTuple):
    """What a fit is expected to do."""

    n_bytes: float  # that it moves
    flops: float
    n_calls: float  # of operations, each one kernel on an accelerator
    n_copied: float  # bytes that an accelerator is sent
    number_bytes: int

    @classmethod
    def of(cls, table: Table, access: "Access") -> "Work":
        """X is read twice in a pass, and each logit of each model counts as some numbers of X."""
        (n, p), K = table.shape, table.n_logits * access.n_models
        n_passes = tuning.ASSUMED_PASSES if access.n_passes is None else access.n_passes
        flops = 4.0 * n * p * K
        if not (access.by_products or access.in_random_order):  # second moments in each pass
            flops += 2.0 * n * (p * table.n_logits) ** 2 * access.n_models
        # A share of a block counts as such: whole blocks would make steps in what should grow with the rows.
        batch_rows = access.batch_rows or max(1.0, tuning.ACCELERATOR_BLOCK_NUMBERS / p)
        n_calls = tuning.CALLS_PER_PASS + tuning.CALLS_PER_BATCH * max(1.0, n / batch_rows)
        return cls(
            n_bytes=n_passes * n * (2.0 * p + tuning.NUMBERS_PER_LOGIT * K) * table.number_bytes,
            flops=n_passes * flops,
            n_calls=n_passes * n_calls,
            n_copied=float(n) * p * table.stored_bytes * (n_passes if table.is_streamed else 1),
            number_bytes=table.number_bytes,
        )

    def seconds(self, at: Rates) -> float:
        """Moving and multiplying count one after the other, which is at most twice too much, on either side."""
        arithmetic = self.n_bytes / at.bytes_per_s + self.flops / at.flops_per_s[self.number_bytes]
        return arithmetic + self.n_calls * at.call_s + self.n_copied / at.bus_bytes_per_s + at.start_s

    def pays(self, host: Rates | None = None, accelerator: Rates | None = None) -> bool:
        """Whether an accelerator is expected to be done sooner than the host."""
        return self.seconds(accelerator or Rates.of_accelerator()) < self.seconds(host or Rates.of_host())

    def __str__(self) -> str:
        return f"the fit moves about {_quantity(self.n_bytes, 'B')} and computes {_quantity(self.flops, 'FLOP')}"

    def why_not(self) -> str:
        """The reason to stay on the host, in words."""
        host, accelerator = Rates.of_host(), Rates.of_accelerator()
        costs = {
            "its start": accelerator.start_s,
            "the copies of X": self.n_copied / accelerator.bus_bytes_per_s,
            "the launches of its kernels": self.n_calls * max(0.0, accelerator.call_s - host.call_s),
        }
        names = [name for name, cost in costs.items() if cost >= 0.1 * sum(costs.values())]
        return f"{self}, too little for an accelerator to repay {' and '.join(names)}"

    def why(self) -> str:
        """The reason to go to an accelerator, in words."""
        here, there = (_quantity(self.seconds(at), "s") for at in (Rates.of_host(), Rates.of_accelerator()))
        return f"{self}, expected to take {here} on the host, and {there} there with the start and the copies of X"


def _quantity(value: float, unit: str) -> str:
    """A value with two digits and a prefix of its unit."""
    prefixes = {"P": 1e15, "T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3}
    prefix, scale = next(((p, s) for p, s in prefixes.items() if unit != "s" and value >= s), ("", 1.0))
    return f"{float(f'{value / scale:.2g}'):.12g} {prefix}{unit}"
