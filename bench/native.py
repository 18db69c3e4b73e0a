"""The functions of native.cpp, which is compiled when they are first called, by $CXX or else c++.

evenflow's kernels come from the library in the installed package, so its source must be that of this folder. It is
already loaded when the functions are.
"""

import ctypes
import functools
import hashlib
import os
import pathlib
import subprocess
import tempfile

from evenflow import _core

SOURCE = pathlib.Path(__file__).with_suffix(".cpp")
ROOT = SOURCE.parents[1]


def build() -> pathlib.Path:
    """The compiled library. Its name depends on all that it is made of, and on the processor."""
    shared = next((pathlib.Path(_core.__file__).parent / "lib").glob("libevenflow.so.*"))
    with open("/proc/cpuinfo") as file:
        processor = next(line for line in file if line.startswith(("flags", "Features")))
    made_of = hashlib.sha256(SOURCE.read_bytes() + shared.read_bytes() + processor.encode()).hexdigest()
    built = ROOT / "build" / "bench" / f"native-{made_of[:16]}.so"
    if not built.exists():
        built.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=built.parent) as folder:  # another process may be building, too
            new = pathlib.Path(folder) / built.name
            subprocess.run([os.environ.get("CXX", "c++"), "-std=gnu++17", "-O3", "-march=native", "-fopenmp", "-fPIC",
                            "-shared", f"-I{ROOT}/cpp/include", f"-I{ROOT}/cpp/src", SOURCE, shared,
                            "-o", new], check=True)
            new.rename(built)
    return built


@functools.cache
def library() -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(build()))
    for name in ("float32_gflops", "bfloat16_gflops", "read_gbs", "update_gbs"):
        getattr(loaded, name).argtypes = [ctypes.c_int]
        getattr(loaded, name).restype = ctypes.c_double
    loaded.conv_seconds.argtypes = [ctypes.c_int] * 9 + [ctypes.c_double]
    loaded.conv_seconds.restype = ctypes.c_double
    return loaded
