"""Files that are written as a whole or not at all."""

import os
import secrets
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any


def is_special(path: str | os.PathLike) -> bool:
    """Whether a path leads to what is there and is no regular file: a named pipe, a device, a folder."""
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return False


def replace_file(path: str | os.PathLike, *pieces: Any) -> None:
    """Write pieces of bytes to a path such that a crash leaves the old file or the new one, never a part.

    A pipe or a device is written into, for others use it under its name.
    """
    if is_special(path):
        with open(path, "wb") as file:
            file.writelines(pieces)
        return
    target = Path(os.path.realpath(path))  # a link stays a link
    part = target.with_name(f".torchlogreg-{secrets.token_hex(8)}")
    try:
        with open(part, "xb") as file:
            with suppress(FileNotFoundError):
                shutil.copymode(target, part)  # what was private stays private
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    except BaseException as error:
        with suppress(OSError):  # it may not even be there
            part.unlink()
        if isinstance(error, OSError) and error.filename is not None:  # which is that of the part
            raise OSError(error.errno, error.strerror, os.fspath(path)) from None
        raise
