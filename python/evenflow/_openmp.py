"""Loads the compiled core so that its waiting threads spin for a moment only, then sleep.

OpenMP reads its settings once, when it is loaded. Threads that spin for long, the default, keep a core from those that
have work as soon as another process wants one; threads that sleep at every barrier lose a few percent of a step, and
more where the cores are not equally fast. The variable is set for the load only, and not if you set your own.
"""

import os

_unset = not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ)
if _unset:
    os.environ["GOMP_SPINCOUNT"] = "20000"  # of the order of 0.5 ms
try:
    from evenflow import _core  # noqa: F401
finally:
    if _unset:
        del os.environ["GOMP_SPINCOUNT"]
