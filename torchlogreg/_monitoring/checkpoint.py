"""The file of a checkpoint: the state of a fit, and the fingerprint of the fit that it belongs to.

    MAGIC, SHA-256 of the rest (32 bytes), fingerprint as one line of JSON, state as torch.save writes it

It is read with torch's `weights_only`, so nothing in it is ever executed.
"""

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from torchlogreg._runtime.files import replace_file
from torchlogreg._solvers import STATES

MAGIC = b"torchlogreg checkpoint 3\n"  # the number is raised when an older version would misread a file
# Entries of a fingerprint that say nothing to a reader.
CHECKSUMS = "data or weights", "start", "validation data", "penalty_weights or coef_bounds"
CHECKPOINT_REMEDY = "Delete it to start afresh, or pass another path."


def write_checkpoint(path: Any, fingerprint: dict[str, Any], state: Any) -> None:
    """Write a checkpoint such that a crash leaves the old file or the new one."""
    payload = io.BytesIO()
    torch.save(state, payload)
    header = json.dumps(fingerprint).encode() + b"\n"
    digest = hashlib.sha256(header)
    with payload.getbuffer() as numbers:
        digest.update(numbers)
        replace_file(path, MAGIC, digest.digest(), header, numbers)


def read_checkpoint(path: Any, fingerprint: Callable[[], dict[str, Any]]) -> Any:
    """The state in a checkpoint of the fit with this fingerprint, None if there is no file."""
    now = fingerprint()
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        return None
    if not content.startswith(MAGIC):
        raise ValueError(f"{path} is not a checkpoint, or one of another version of torchlogreg. {CHECKPOINT_REMEDY}")
    digest, content = content[len(MAGIC) :][:32], content[len(MAGIC) + 32 :]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError(
            f"The checkpoint {path} is damaged: its content does not match its SHA-256. {CHECKPOINT_REMEDY}"
        )
    header, payload = content.split(b"\n", 1)
    if differences := _differences(json.loads(header), json.loads(json.dumps(now))):
        raise ValueError(f"{path} is the checkpoint of another fit: {', '.join(differences)}. {CHECKPOINT_REMEDY}")
    with torch.serialization.safe_globals(list(STATES)):
        return torch.load(io.BytesIO(payload), weights_only=True)


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """How two fingerprints differ, for people."""
    return [
        f"other {name}" if name in CHECKSUMS else f"{name} was {before.get(name)} and is {now.get(name)}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
