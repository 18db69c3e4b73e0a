"""Checks the wheel of the CUDA backend beside evenflow's: size, version, and what is said without it and without a GPU.

usage: python check_cuda_wheel.py WHEEL, in an environment that has evenflow's wheel; it installs the other there.
"""

import os
import subprocess
import sys
import tempfile
import zipfile

import evenflow

MAX_WHEEL = 8_000_000  # bytes


def message(**environment: str) -> str:
    """What a model of device cuda says, in a new process, which loads the backend anew."""
    code = ("import evenflow as ef\n"
            "try:\n    print(ef.Glow((8, 8, 1), levels=1, steps=1, hidden=4, device='cuda'))\n"
            "except ef.DeviceError as error:\n    print(error)")
    return subprocess.run([sys.executable, "-c", code], env={**os.environ, **environment}, check=True,
                          capture_output=True, text=True).stdout.strip()


def main(wheel: str) -> None:
    size = os.path.getsize(wheel)
    assert size < MAX_WHEEL, f"expected a wheel under {MAX_WHEEL} bytes, got {size}"
    text = message()
    assert 'pip install "evenflow[cuda]"' in text, text

    # Without cuBLASLt, which it works without.
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", wheel], check=True)
    text = message()
    assert text.startswith("<Glow") or "expected an NVIDIA GPU and its driver" in text, text

    contents = zipfile.ZipFile(wheel)
    version = evenflow.__version__
    metadata = contents.read(f"evenflow_cuda-{version}.dist-info/METADATA").decode()
    for needed in (f"evenflow=={version}", "nvidia-cublas>=13"):
        assert f"Requires-Dist: {needed}\n" in metadata, metadata
    terms = contents.read(f"evenflow_cuda-{version}.dist-info/licenses/LICENSE").decode()
    assert terms.startswith("MIT License"), terms
    with tempfile.TemporaryDirectory() as folder:
        other = os.path.join(folder, "other.so")
        with open(other, "wb") as file:
            file.write(contents.read("evenflow_cuda/libevenflow_cuda.so").replace(version.encode() + b"\0", b"9.9.9\0"))
        text = message(EVENFLOW_CUDA_LIBRARY=other)
    assert f"expected libevenflow_cuda.so of version {version}, got 9.9.9" in text, text
    print(f"CUDA wheel: ok, {size / 1e6:.2f} MB, without a GPU: {message()}")


if __name__ == "__main__":
    main(sys.argv[1])
