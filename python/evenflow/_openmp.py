"""Loads the compiled core so that its waiting threads spin for a moment only, then sleep.

OpenMP reads its settings once, when it is loaded. Threads that spin for long, the default, make training more than ten
times slower as soon as another process wants a core; threads that sleep at once lose a few percent of a step. The
variable is set for the load only, and not if you set your own.
"""

import os

_unset = not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ)
if _unset:
    os.environ["GOMP_SPINCOUNT"] = "3000"  # of the order of 0.1 ms
try:
    from evenflow import _core  # noqa: F401
finally:
    if _unset:
        del os.environ["GOMP_SPINCOUNT"]
