"""What an accelerator makes of this library, in one command of at most ten minutes: parity, speed, peers, memory.

Every step adds a line to a file as soon as it is done. ``benchmarks/README.md`` says how to read them.
"""

import argparse
import gc
import json
import math
import os
import signal
import threading
import time
import traceback
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path

os.environ.setdefault("SCIPY_ARRAY_API", "1")  # scikit-learn's array API asks for it before scipy is imported
os.environ.setdefault("MPLBACKEND", "Agg")  # pictures are among what is compared with the CPU

from device_parts import card, cases, memory, parity, times
from device_peers import epoch, peers
from measure import machine, of_device

from torchlogreg._data.device import available_devices

# In the order of their worth: what is left when time runs out is worth least.
PARTS = {f.__name__: f for f in (parity, times, peers, epoch, memory, cases)}
OUT = Path(__file__).resolve().parents[1] / "output" / "on_device"
PACKAGES = ("torchlogreg", "torch", "scikit-learn", "numpy", "scipy")
PATIENCE = 4.0  # times the seconds that a step is expected to take, after which it is stopped
AGAIN = 5.0  # seconds between attempts to stop a step


class OutOfTime(BaseException):
    """A step has used up its time. It passes `except Exception`, as an interrupt from the keyboard does."""


class Run:
    """The steps of one run: each is isolated, stops in time, and is on the disk when the next one begins.

    `figures` is what later steps need of earlier ones, such as the bandwidth of the device, and `constants` what the
    rule of device="auto" has in its tuning table; `stop` is when the step has to end.
    """

    def __init__(self, device, toy, seconds, path):
        self.device, self.toy, self.path = device, toy, path
        self.deadline = time.monotonic() + seconds
        self.stop = self.deadline  # of the step that runs
        self.part, self.records, self.figures, self.constants = "", [], {}, {}

    def left(self):
        """Seconds until the run has to end."""
        return self.deadline - time.monotonic()

    def step(self, name, needs, function, *arguments):
        """Run one step, which is expected to take `needs` seconds, and write what came of it, also if that is an error.

        It is skipped where less time is left, and stopped where it takes several times as long.
        """
        needs = 0.0 if self.toy else needs
        left, start = self.left(), time.monotonic()
        outcome = {}
        if left <= needs:
            outcome["skipped"] = f"it needs about {needs:.0f} s, and {max(0.0, left):.0f} s are left"
        else:
            limit = min(left, PATIENCE * needs) if needs else left
            self.stop = start + limit
            try:
                with time_limit(limit):
                    outcome["result"] = function(self, *arguments)
            except OutOfTime:
                outcome["skipped"] = f"it was stopped after {time.monotonic() - start:.0f} s"
            except Exception:  # whatever it is, the other steps have their own answers
                outcome["error"] = traceback.format_exc()
        self.write({"step": name, "seconds": time.monotonic() - start, **outcome})
        if not self.toy:
            gc.collect()  # models and the frames of errors hold tensors of the device
        module = of_device(self.device)
        if module is not None and self.left() > 0:
            with suppress(Exception):  # after some errors a device refuses everything, as the next steps will say
                module.empty_cache()
        return outcome.get("result")

    def write(self, record):
        """Append a line to the file, and print it."""
        record = as_json({"part": self.part, **record})
        self.records.append(record)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(line(record), flush=True)

    @property
    def failed(self):
        """Names of the steps that raised or did not agree with the CPU."""
        return [
            f"{record['part']}: {record['step']}"
            for record in self.records
            if "error" in record or (isinstance(record.get("result"), dict) and record["result"].get("agrees") is False)
        ]


@contextmanager
def time_limit(seconds):
    """Raise `OutOfTime` here after so many seconds; where there are no alarms, work goes on to its end."""
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_):
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def as_json(value):
    """Return the value with four digits, and None for what is no number."""
    if isinstance(value, dict):
        return {str(key): as_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(inner) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    return value


def line(record):
    """One line of text on a step."""
    if "error" in record:
        text = "FAILED: " + record["error"].strip().splitlines()[-1]
    elif "skipped" in record:
        text = "skipped: " + record["skipped"]
    else:
        text = json.dumps(record["result"]).replace('"', "")
    return f"{record['part']:8} {record['step']}: {text}"


def main(arguments=None):
    """Run the parts; returns 1 if a step failed or differs from the CPU."""
    arguments = parsed(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"{arguments.device}{'-toy' if arguments.toy else ''}.jsonl"
    path.unlink(missing_ok=True)
    run = Run(arguments.device, arguments.toy, arguments.seconds, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # many fits end on purpose before they converge
        run.part = "card"
        card(run)  # first, for it times the very first use of the device
        run.step("machine", 0, lambda run: machine(run.device, PACKAGES))
        for name in arguments.parts:
            run.part = name
            PARTS[name](run)
    summary(run)
    return 1 if run.failed else 0


def summary(run):
    """Print the card, the constants for ``device="auto"``, and what failed."""
    described = [record["result"] for record in run.records if record["step"] == "machine" and "result" in record]
    print(f"\nDevice: {described[0].get('Device', 'the CPU itself') if described else run.device}")
    print('For the rule of device="auto", in torchlogreg/_data/tuning.py:')
    for name, value in run.constants.items():
        by_bytes = isinstance(value, dict)  # of a number
        value = {size: as_json(rate) for size, rate in value.items()} if by_bytes else as_json(value)
        print(f"  {name} = {value}")
    skipped = sum("skipped" in record for record in run.records)
    print(f"{len(run.records)} steps, {skipped} skipped, {len(run.failed)} failed; in {run.path}")
    for name in run.failed:
        print(f"  FAILED {name}")


def parsed(arguments):
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "xpu", "mps", "cpu"), default="cuda", help="cpu: against itself")
    parser.add_argument("--toy", action="store_true", help="tiny data, to see whether everything runs")
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS), help=",".join(PARTS))
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the results (default: output/on_device)")
    parser.add_argument("--seconds", type=float, default=600.0, help="when to end (default: 600)")
    parsed = parser.parse_args(arguments)
    if unknown := set(parsed.parts) - set(PARTS):
        parser.error(f"no such parts: {', '.join(sorted(unknown))}")
    if parsed.device not in available_devices():
        parser.error(f"torch finds no {parsed.device} device")
    return parsed


if __name__ == "__main__":
    raise SystemExit(main())
