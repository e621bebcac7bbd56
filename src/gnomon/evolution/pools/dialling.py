"""Whether a Ray cluster answers, found out in bounded time.

`ray.init` tries an address that does not answer for minutes, and then ends the whole process. So a
socket is tried first, and then Ray in a process that may end.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from gnomon.evolution.errors import PoolError

_TRY = "import sys, ray; ray.init(sys.argv[1], logging_level='ERROR', log_to_driver=False)"
_DIAL = 10.0  # seconds until a socket must be open


def check_answers(address: str, seconds: float) -> None:
    """Raise PoolError if no Ray cluster answers at `host:port`, `ray://host:port` or `auto`."""
    if address != "auto":
        _dial(address, min(_DIAL, seconds))
    try:
        # Ray logs what it tries to this process's streams: not the user's.
        tried = subprocess.run(
            [sys.executable, "-c", _TRY, address],
            capture_output=True, text=True, timeout=seconds, env=os.environ.copy(),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise _silent(address, f"no Ray answers within {seconds:g} seconds") from None
    if tried.returncode:
        lines = tried.stderr.strip().splitlines() or [f"it ends with code {tried.returncode}"]
        raise _silent(address, lines[-1])


def _dial(address: str, seconds: float) -> None:
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not host or not port.isdigit():
        raise _silent(address, "it is not written as host:port, ray://host:port or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()
    except (OSError, OverflowError) as fault:
        raise _silent(address, str(fault)) from None


def _silent(address: str, why: str) -> PoolError:
    return PoolError(
        f"the pool ray cannot be used: nothing answers at '{address}' ({why}). See that the "
        f"cluster runs (ray status), or leave the address out to begin one on this machine"
    )
