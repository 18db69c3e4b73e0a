"""Makes a folder of link libraries of glibc 2.28, for a wheel that runs on every Linux since 2018.

usage: python packaging/glibc.py FOLDER [x86_64 | aarch64], with ziglang from PyPI, and gcc (or aarch64-linux-gnu-gcc)

A linker takes the newest version of a symbol that it finds, so programs linked on a new system ask for it. Zig knows
the symbols of each version of glibc, and writes libraries with no code for them. What GCC compiles runs with those of
2.28 if it is linked so:

    LDFLAGS="-LFOLDER -static-libstdc++ -Wl,--gc-sections -Wl,--exclude-libs,ALL"
"""

import glob
import os
import platform
import shutil
import subprocess
import sys
import tempfile

LIBRARIES = "libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "libld.so.2", "libc_nonshared.a"
# What libstdc++ of a newer system reads that glibc had not yet: 0, so that it never takes a process for one of a single
# thread.
NEWER = "__attribute__((visibility(\"hidden\"))) char __libc_single_threaded;\n"


def main(folder: str, machine: str) -> None:
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        program, newer = os.path.join(work, "program.c"), os.path.join(work, "newer.c")
        with open(program, "w") as file:
            file.write("int main(void) { return 0; }\n")
        with open(newer, "w") as file:
            file.write(NEWER)
        # Zig writes the libraries to its cache.
        subprocess.run([sys.executable, "-m", "ziglang", "cc", "-target", f"{machine}-linux-gnu.2.28", program, "-lm",
                        "-ldl", "-lpthread", "-o", os.path.join(work, "program")], check=True,
                       env={**os.environ, "ZIG_GLOBAL_CACHE_DIR": work, "ZIG_LOCAL_CACHE_DIR": work})
        for library in LIBRARIES:
            shutil.copy(*glob.glob(os.path.join(work, "o", "*", library)), folder)
        compiler = "gcc" if machine == platform.machine() else f"{machine}-linux-gnu-gcc"
        subprocess.run([compiler, "-fPIC", "-c", newer, "-o", os.path.join(folder, "newer.o")], check=True)
    at = [os.path.join(os.path.abspath(folder), library) for library in (*LIBRARIES, "newer.o")]
    libc, libm, libdl, libpthread, loader, nonshared, newer = at
    # C++ links to libm and libc by itself. Until 2.34 threads and dlopen were in libraries of their own.
    scripts = {"libm.so": f"INPUT({libm})",
               "libc.so": f"GROUP({libc} {nonshared} {newer} {libpthread} AS_NEEDED({libdl} {loader}))"}
    for name, script in scripts.items():
        with open(os.path.join(folder, name), "w") as file:
            file.write(script + "\n")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else platform.machine())
