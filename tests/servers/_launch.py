"""Becomes another program that the kernel kills when the test run ends, however it ends.

Usage: _launch.py PID_OF_THE_TEST_RUN COMMAND ...
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
    sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
# The test run may have ended before the call above took effect.
if os.getppid() != int(sys.argv[1]):
    sys.exit("the test run is gone")
os.execvp(sys.argv[2], sys.argv[2:])
