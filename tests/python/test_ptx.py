"""nvcc's kernels without a GPU: tests of the device over an interpreter of their PTX (tests/ptx, docs/cuda.md)."""

import os
import pathlib
import subprocess
import sys

import pytest

BUILT = os.environ.get("EVENFLOW_PTX_BUILT", "")  # a folder of a build of evenflow_ptx
HERE = pathlib.Path(__file__).parent
# It takes seconds where a GPU takes none.
ARRAYS = ("calls[True-13-True]", "calls[False-2-False]", "gradients", "training_steps", "initialisation", "samples",
          "parameters", "results_go_in_again")


@pytest.mark.skipif(not BUILT, reason="EVENFLOW_PTX_BUILT names no folder")
def test_over_an_interpreter():
    tests = ["test_device.py", *(f"test_device_arrays.py::test_{name}" for name in ARRAYS)]
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--capture=no",
                           "-m", "any_device", "--device", "cuda", *(str(HERE / test) for test in tests)],
                          capture_output=True, text=True, timeout=900,  # a kernel may not end; 40 s where all do
                          env={**os.environ, "EVENFLOW_CUDA_LIBRARY": f"{BUILT}/libevenflow_ptx.so"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout and "skipped" not in done.stdout, done.stdout
