"""A parent for each rank of a job, which says how the rank ended when it can't: killed, or stopped for long.

Launchers end a job when a process dies, but some name a process number and no rank, and what the other ranks find out
comes too late.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from typing import NoReturn

from evenflow.console import tell
from evenflow.ranks import TELL_SECONDS, launched_as

PARENT = "EVENFLOW_RANK_PARENT"
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def wanted() -> bool:
    """Whether this process is one of several ranks, and not yet the child that does the work."""
    return launched_as()[1] > 1 and PARENT not in os.environ and sys.platform == "linux"


def run() -> int:
    """This command again, in a child; its exit code. A signal that ended it ends this process too."""
    child = subprocess.Popen([sys.executable, *sys.orig_argv[1:]], close_fds=False,  # the launcher's among them
                             start_new_session=True,  # what reaches us all comes by us alone
                             env={**os.environ, PARENT: str(os.getpid())})
    for number in PASSED_ON:
        signal.signal(number, lambda n, _: child.send_signal(n))

    def tell_of(what: str) -> None:
        tell(f"evenflow: rank {launched_as()[0]} ({platform.node()}:{child.pid}) {what}")

    while True:
        _, status = os.waitpid(child.pid, os.WUNTRACED | os.WCONTINUED)
        if os.WIFSTOPPED(status):
            tell_of(f"is stopped by {_name(os.WSTOPSIG(status))}; the others wait for it")
        elif os.WIFCONTINUED(status):
            tell_of("goes on")
        elif os.WIFSIGNALED(status):
            tell_of(f"was killed by {_name(os.WTERMSIG(status))}")
            time.sleep(TELL_SECONDS)
            _die_of(os.WTERMSIG(status))
        else:
            return os.WEXITSTATUS(status)


def _die_of(number: int) -> NoReturn:
    """MPICH's launcher ends the job for certain only when a signal ended the process that it started."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the child has left one, if any
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # a signal that is ignored, or comes later


def tie() -> None:
    """Ends this process, running or stopped, when its parent ends: launchers know the parent alone."""
    parent = os.environ.get(PARENT)
    if parent is None:
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        os._exit(1)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
