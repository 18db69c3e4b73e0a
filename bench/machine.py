"""What a result was measured on."""

import os
import platform

import numpy as np

import evenflow as ef
from evenflow import _core


def describe() -> dict:
    """Processor, cores, instruction set and versions."""
    model = platform.processor()
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.split(":")[1].strip()
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "isa": _core.isa(), "evenflow": ef.__version__,
            "numpy": np.__version__, "python": platform.python_version()}
