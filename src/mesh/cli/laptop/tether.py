"""Becomes another program that ends when the process that started it does, however that ends.

``python tether.py PARENT_PID PROGRAM ARGUMENT...``; the process id stays the same. Only Linux can do this;
elsewhere the program is left to the signals that its parent sends.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    """Does not return, unless the parent has ended already or the program cannot be run."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        return
    try:
        os.execvp(command[0], command)  # noqa: S606 - it is what this is for
    except OSError as error:
        sys.exit(f"{command[0]} cannot be run: {error.strerror}")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
