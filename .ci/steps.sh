# What .ci/run and .ci/full share: steps, packages of the system, a cache for the compiler.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# step NAME: its beginning, in seconds of the clock and of the processors.
step() {
  printf '\n== %4d s, %4d s of CPU: %s\n' $SECONDS \
    "$((($(cut -d' ' -f14-17 /proc/$$/stat | tr ' ' +)) / $(getconf CLK_TCK)))" "$*"
}

# packages WHAT=PACKAGE ...: installs Debian's package of each command or file that is missing.
packages() {
  local pair what missing=()
  for pair in "$@"; do
    what=${pair%%=*}
    [ -e "$what" ] || command -v "$what" > /dev/null || missing+=("${pair#*=}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  apt-get update -qq
  apt-get install -y -qq "${missing[@]}"
}

# enter NAME: a new Python environment, until the subshell ends.
enter() {
  python3 -m venv "$work/$1"
  . "$work/$1/bin/activate"
  pip install -q --upgrade pip
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Clones in other folders find each other's objects: names of files in the clone count from the build folder, which lies
# equally deep in the clone and in its source distribution. CMake alone would take c++ where scikit-build takes g++.
export CCACHE_DIR=${CCACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/evenflow-ccache}
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1 CMAKE_CXX_COMPILER_LAUNCHER=ccache CC=gcc CXX=g++
export SKBUILD_BUILD_DIR=build/pip
