"""Checks that the body of every kernel of libevenflow_cuda.so has run on the emulated device.

usage: python check_bodies.py LIBRARY BODIES, the file to which the C++ tests added the names of bodies that ran, since
EVENFLOW_EMULATED_BODIES named it.
"""

import re
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).parents[2] / "cpp" / "src" / "kernels"


def demangled(names: list[bytes], shape: str) -> set[str]:
    """What `shape` captures of the names."""
    text = subprocess.run(["c++filt", "-t"], input=b"\n".join(names), capture_output=True, check=True).stdout.decode()
    return {match[1] for match in (re.fullmatch(shape, line) for line in text.splitlines()) if match}


def main(library: str, bodies: str) -> None:
    # A library registers kernels by name, stripped or not, and each is an instantiation of one template.
    lines = [line for file in SOURCES.rglob("*.cu*") for line in file.read_text().splitlines() if "__global__" in line]
    assert len(lines) == 1 and "run_body(const Body body)" in lines[0], f"expected one kernel, run_body, got {lines}"
    names = set(re.findall(rb"\0(_ZN8evenflow4cuda8run_bodyI\w+)(?=\0)", Path(library).read_bytes()))
    kernels = demangled(sorted(names), r"void evenflow::cuda::run_body<(.+?) ?>\(\1\)")
    assert kernels and len(kernels) == len(names), f"expected names of kernels in {library}, got {len(kernels)}"
    missing = sorted(kernels - demangled(Path(bodies).read_bytes().split(), "(.+)"))
    if missing:
        first = f"{len(missing)} of {len(kernels)} kernels have not run on the emulated device:"
        sys.exit("\n".join([first, *missing]))
    print(f"bodies: ok, {len(kernels)} kernels have run on the emulated device")


if __name__ == "__main__":
    main(*sys.argv[1:])
