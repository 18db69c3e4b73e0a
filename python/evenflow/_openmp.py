"""Loads the compiled core so that its waiting threads sleep.

OpenMP reads its settings once, when it is loaded. Spinning threads, the default, make training more than ten times
slower as soon as another process wants a core; the variable is set for the load only, and not if you set it.
"""

import os

_unset = not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ)
if _unset:
    os.environ["OMP_WAIT_POLICY"] = "passive"
try:
    from evenflow import _core  # noqa: F401
finally:
    if _unset:
        del os.environ["OMP_WAIT_POLICY"]
