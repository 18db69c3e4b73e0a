#!/usr/bin/env bash
# The names that a shared library offers, without arguments: one a line, each once.
#
# usage: symbols.sh LIBRARY
set -euo pipefail
nm -D --defined-only --without-symbol-versions "$1" | awk '$2 != "A" { print $3 }' | c++filt -p |
  sed -e 's/\[abi:cxx11\]//' -e 's/<[a-z]*>::/::/' -e 's/<[a-z, ]*>$//' -e 's/^.* \(evenflow::.*\)$/\1/' | LC_ALL=C sort -u
