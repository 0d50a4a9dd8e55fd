"""Kills the process groups of a test run when it ends, however it ends.

Reads lines from standard input: ``+N`` to watch over process group N, ``-N`` to forget it. The end of the
input is the end of the test run. A signal on the parent's death (``PR_SET_PDEATHSIG``) would not do: it
reaches a server but not the processes that the server has made.
"""

import contextlib
import os
import signal
import sys

# Nobody's child: tests count the children of their process.
if os.fork():
    os._exit(0)

groups = set()
for line in sys.stdin:
    if line.startswith("+"):
        groups.add(int(line[1:]))
    else:
        groups.discard(int(line[1:]))
for group in groups:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
