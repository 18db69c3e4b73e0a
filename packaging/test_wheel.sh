#!/usr/bin/env bash
# Tests a folder's wheel as a user gets it: in a new environment, without a compiler.
#
# usage: packaging/test_wheel.sh FOLDER ENVIRONMENT [TEST ...]; the Python on the PATH makes the folder ENVIRONMENT, and
# pytest runs the files TEST there.
set -euo pipefail
dist=$(realpath "$1") environment=$(realpath -m "$2")
shift 2
cd "$(dirname "$0")/.."
python -m venv "$environment"
alone() { env -i PATH="$environment/bin" HOME="$HOME" LANG=C.UTF-8 "$@"; }
alone python -m pip install -q --no-index --no-deps --find-links "$dist" evenflow
alone python -m pip install -q --only-binary :all: numpy
python=$(alone python -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
(cd "$environment" && alone python "$OLDPWD/tests/package/check_wheel.py" "$dist"/evenflow-*-"$python"-*"$(uname -m).whl")
alone python -m pip install -q --only-binary :all: pytest pillow matplotlib tqdm
(cd "$environment" && alone evenflow train digits --quiet --epochs 2 && test -s runs/digits/samples.png)
[ $# -eq 0 ] || alone python -m pytest -q "$@"
