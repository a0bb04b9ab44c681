"""Replaces itself by a command that receives SIGTERM when its parent ends.

    python launcher.py PARENT COMMAND...

PARENT is the process id of the parent. If the parent is killed, the command saves
its state and ends instead of occupying the device unseen. (Linux; elsewhere, the command just runs.) This is a program
of its own because code between fork and exec is not safe in a process with threads.
"""

import ctypes
import os
import signal
import sys

_SET_PARENT_DEATH_SIGNAL = 1  # prctl's PR_SET_PDEATHSIG


def main() -> None:
    """Runs the command."""
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != int(parent):  # it was killed before
            sys.exit(128 + signal.SIGTERM)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
