"""tests/package/check_bodies.py finds the kernel that the emulated device has not run."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "package" / "check_bodies.py"
# Mangled within run_body<> and alone, and as the check names them.
BODIES = [("NS_3ops3SgdIfEE", "N8evenflow3ops3SgdIfEE", "evenflow::ops::Sgd<float>"),
          ("NS_3ops3SgdIdEE", "N8evenflow3ops3SgdIdEE", "evenflow::ops::Sgd<double>"),
          ("NS_6device12PlainProductIffEE", "N8evenflow6device12PlainProductIffEE",
           "evenflow::device::PlainProduct<float, float>")]


@pytest.mark.skipif(not shutil.which("c++filt"), reason="needs c++filt")
def test_a_kernel_that_has_not_run(tmp_path):
    library, run = tmp_path / "library.so", tmp_path / "bodies"

    def check(kernels, ran):
        library.write_text("".join(f"\0_ZN8evenflow4cuda8run_bodyI{kernel}EEvT_\0" for kernel in kernels))
        run.write_text("".join(body + "\n" for body in ran))
        return subprocess.run([sys.executable, SCRIPT, library, run], capture_output=True, text=True)

    kernels, ran, names = zip(*BODIES)
    done = check(kernels, ran)
    assert done.returncode == 0 and "3 kernels have run" in done.stdout, done.stderr
    for i, name in enumerate(names):
        done = check(kernels, ran[:i] + ran[i + 1:])
        assert done.returncode == 1 and done.stderr.splitlines()[1:] == [name], done.stderr
    done = check([], ran)
    assert done.returncode == 1 and "expected names of kernels" in done.stderr
