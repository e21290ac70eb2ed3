"""A small program that becomes another user, if asked to, and then becomes PostgreSQL.

It is run as a script of its own (`python -I -S launch.py ...`), because changing the user between fork and exec of a
process with threads, which Dagster's are, is not safe in Python. It imports nothing from this package.

    launch.py '{"uid": 65534, "gid": 65534, "read_everywhere": true, "detach": true}' PROGRAM ARGUMENT ...

`uid`/`gid` null: stay the user one is. `read_everywhere`: keep the one capability CAP_DAC_READ_SEARCH, so that the
program may pass through directories which only root may enter. It gives no right to write there. `detach`: run in a
session of its own as nobody's child, print the process id, and return.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import Any

# Numbers from linux/prctl.h and linux/capability.h.
PR_SET_SECUREBITS = 28
SECBIT_NO_SETUID_FIXUP = 1 << 2
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAP_DAC_READ_SEARCH = 2
CAP_SETPCAP = 8
CAPABILITY_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Data(ctypes.Structure):
    _fields_ = [
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    ]


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def become(uid: int, gid: int, *, read_everywhere: bool) -> None:
    """Give up root for good. Everything but, if asked for, the right to read and traverse is dropped."""
    libc = ctypes.CDLL(None, use_errno=True) if read_everywhere else None
    if libc is not None:
        # Capabilities outlast setuid, and count in access(), with which initdb looks for the postgres beside it.
        _checked(libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0), "prctl(PR_SET_SECUREBITS)")
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if libc is None:
        return
    only = 1 << CAP_DAC_READ_SEARCH
    header = _Header(CAPABILITY_VERSION_3, 0)
    data = (_Data * 2)(_Data(only, only, only), _Data(0, 0, 0))
    _checked(libc.capset(ctypes.byref(header), data), "capset")
    # Only an ambient capability survives the exec of an ordinary file by an ordinary user.
    _checked(libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_READ_SEARCH, 0, 0), "prctl(PR_CAP_AMBIENT)")
    _checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)")


def _detach() -> None:
    """Go on in a grandchild with its own session; the program that was called prints its process id and ends."""
    pid = os.fork()
    if pid:
        print(pid, flush=True)
        os._exit(0)
    os.setsid()
    os.dup2(2, 1)


def main(arguments: list[str]) -> None:
    how: dict[str, Any] = json.loads(arguments[0])
    command = arguments[1:]
    # The server must not hold on to the caller's working directory, which its user may not even be able to enter.
    os.chdir("/")
    os.umask(0o077)
    if how.get("detach"):
        _detach()
    try:
        if how.get("uid") is not None:
            become(how["uid"], how["gid"], read_everywhere=bool(how.get("read_everywhere")))
        os.execv(command[0], command)
    except OSError as error:
        os.write(2, f"cannot run {command[0]}: {error}\n".encode())
        os._exit(126)


if __name__ == "__main__":
    main(sys.argv[1:])
