"""Checks an installed wheel as a user gets it: size, dependencies, import, a model trained and loaded back, errors.

usage: python check_wheel.py WHEEL, in an environment that has nothing but the wheel and what it brought.
"""

import importlib.metadata
import os
import subprocess
import sys
import tempfile
import time
import zipfile

MAX_WHEEL = 3_300_000  # bytes


def main(wheel: str) -> None:
    size = os.path.getsize(wheel)
    assert size < MAX_WHEEL, f"expected a wheel under {MAX_WHEEL} bytes, got {size}"
    names = zipfile.ZipFile(wheel).namelist()
    assert any(n.endswith("data/digits.npz") for n in names), "expected the digits in the wheel"
    assert any(n.startswith("evenflow/_core.") and n.endswith(".so") for n in names), "expected the compiled core"
    libraries = [n for n in names if "libevenflow" in n]
    assert len(libraries) == 1 and libraries[0].startswith("evenflow/lib/libevenflow.so."), libraries
    assert "evenflow/include/evenflow/evenflow.h" in names
    cmake_dir = subprocess.run([sys.executable, "-m", "evenflow", "--cmake-dir"], check=True, capture_output=True,
                               text=True).stdout.strip()
    assert os.path.exists(os.path.join(cmake_dir, "evenflowConfig.cmake")), cmake_dir
    assert "evenflow/py.typed" in names and "evenflow/_core.pyi" in names

    installed = {d.metadata["Name"].lower() for d in importlib.metadata.distributions()}
    assert installed - {"pip", "setuptools", "wheel"} == {"evenflow", "numpy"}, installed

    start = time.perf_counter()
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, evenflow; print(' '.join(m for m in sys.modules))"],
        check=True, capture_output=True, text=True).stdout.split()
    print(f"import in a new process: {time.perf_counter() - start:.2f} s; wheel: {size / 1e6:.2f} MB")
    heavy = {"torch", "matplotlib", "PIL", "tqdm", "sklearn", "scipy"} & {m.split(".")[0] for m in loaded}
    assert not heavy, f"expected late imports, got {heavy}"

    import numpy as np

    import evenflow as ef

    x = np.random.default_rng(0).standard_normal((256, 3)).astype(np.float32)
    flow = ef.CouplingFlow(3, couplings=2, hidden=(8,), seed=0)
    flow.init(x)
    flow.fit(x, epochs=1, batch_size=64, optimizer="adam", lr=1e-3, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.safetensors")
        flow.save(path)
        assert np.array_equal(ef.load(path).log_prob(x), flow.log_prob(x))
        check_errors(path, flow, x)
    print("wheel: ok")


def check_errors(path: str, flow, x) -> None:
    """Each exception keeps its type on the way from the library, which has a C++ runtime of its own, to the module."""
    import evenflow as ef

    def expect(error: type[Exception], text: str, call, *arguments) -> None:
        try:
            call(*arguments)
        except Exception as got:
            assert type(got) is error and text in str(got), f"expected {error} with {text!r}, got {got!r}"
            return
        raise AssertionError(f"expected {error}, got no error")

    expect(ef.ShapeError, "[glow]", lambda: ef.Glow((6, 6, 3), levels=2))
    expect(ef.ConfigError, "[config]", ef._core.build, "{}")
    expect(ef.DeviceError, "libevenflow_cuda.so", lambda: ef.CouplingFlow(3, device="cuda"))
    expect(MemoryError, "bad_alloc", lambda: ef.CouplingFlow(2, hidden=(1 << 20, 1 << 20)))
    next(iter(flow.named_parameters().values()))[...] = float("nan")
    expect(ef.NumericError, "[", flow.log_prob, x)
    with open(path, "r+b") as file:
        file.truncate(100)
    expect(ef.IoError, "cut short", ef.load, path)


if __name__ == "__main__":
    main(sys.argv[1])
