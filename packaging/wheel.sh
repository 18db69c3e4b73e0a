#!/usr/bin/env bash
# Builds the wheel that is published for Linux, for the Python that is first on the PATH: manylinux_2_28.
#
# usage: packaging/wheel.sh FOLDER [SOURCE] [x86_64 | aarch64]; needs packaging/requirements.txt, gcc and g++ of 12 or
# newer, and for the other processor g++-aarch64-linux-gnu. SOURCE is the sdist, or this repository.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$1 source=${2:-$here/..} machine=${3:-$(uname -m)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python "$here/glibc.py" "$work/glibc" "$machine"
# libstdc++ comes with the wheel, because an older system's lacks functions of this one's.
export LDFLAGS="-L$work/glibc -static-libstdc++ -Wl,--gc-sections -Wl,--exclude-libs,ALL"
if [ "$machine" != "$(uname -m)" ]; then
  export CC=$machine-linux-gnu-gcc CXX=$machine-linux-gnu-g++ _PYTHON_HOST_PLATFORM=linux-$machine
  suffix=$(python -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
  export SETUPTOOLS_EXT_SUFFIX=${suffix/$(uname -m)/$machine}
  # Debian keeps Python's pyconfig.h apart for each processor; that of another 64-bit Linux says the same.
  version=python$(python -c 'import sysconfig; print(sysconfig.get_python_version())')
  mkdir -p "$work/include/$machine-linux-gnu"
  ln -s "/usr/include/$(uname -m)-linux-gnu/$version" "$work/include/$machine-linux-gnu/"
  export CXXFLAGS=-I$work/include
  export SKBUILD_CMAKE_DEFINE="CMAKE_SYSTEM_NAME=Linux;CMAKE_SYSTEM_PROCESSOR=$machine;PYBIND11_USE_CROSSCOMPILING=ON"
fi
if [ -f "$source" ]; then  # pip's cache would know an archive by its path alone
  mkdir "$work/source"
  tar -xf "$source" -C "$work/source" --strip-components 1
  source=$work/source
fi
python -m pip wheel -q --no-deps --no-build-isolation -w "$work" "$source"
auditwheel repair -w "$work/portable" "$work"/evenflow-*.whl
wheel=$(echo "$work"/portable/evenflow-*.whl)
if ! [[ $wheel =~ manylinux_2_([0-9]|1[0-9]|2[0-8])_$machine.whl$ ]]; then
  echo "packaging/wheel.sh: expected a wheel for glibc 2.28 or older, got $(basename "$wheel")" >&2
  exit 1
fi
twine check --strict "$wheel"
mkdir -p "$out"
mv "$wheel" "$out"
