#!/usr/bin/env bash
# The names that a shared library offers to programs, without arguments: one a line, each once.
#
# usage: symbols.sh LIBRARY
set -euo pipefail
nm -D --defined-only "$1" | awk '$2 != "A" && $3 !~ /@EVENFLOW_PRIVATE/ { sub(/@.*/, "", $3); print $3 }' | c++filt -p |
  sed -e 's/\[abi:cxx11\]//' -e 's/<[a-z]*>::/::/' -e 's/<[a-z, ]*>$//' -e 's/^.* \(evenflow::.*\)$/\1/' | LC_ALL=C sort -u
