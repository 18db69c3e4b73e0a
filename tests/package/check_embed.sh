#!/usr/bin/env bash
# The C++ library and the C interface as a user gets them: built, installed, used from every example, against the
# install tree and the wheel, and compared with Python bit by bit.
#
# usage: check_embed.sh [PYTHON]; PYTHON has the wheel installed. Needs cmake, ninja, g++; clang++ and rustc where present.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:-python3}
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
say() { printf -- '-- %s\n' "$*"; }

say "build and install"
cmake -S . -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DEVENFLOW_STATIC=ON > /dev/null
cmake --build "$work/build" > "$work/build.log" || { cat "$work/build.log"; exit 1; }
cmake --install "$work/build" --prefix "$work/prefix" > /dev/null
library=$(find "$work/prefix" -name libevenflow.so)
archive=$(find "$work/prefix" -name libevenflow.a)
wheel_dir=$("$python" -m evenflow --cmake-dir)
in_wheel=$(echo "$wheel_dir"/../../libevenflow.so.*)

say "symbols"
for file in "$library" "$in_wheel"; do tests/package/embed/symbols.sh "$file" | diff tests/package/embed/symbols.txt -; done

say "models, and Python against C through ctypes"
mkdir "$work/data"
(cd "$work" && "$python" "$root/tests/package/check_embed.py" make data)
for file in "$library" "$in_wheel"; do
  (cd "$work" && "$python" "$root/tests/package/check_embed.py" compare "$file" data)
done
same() { (cd "$work" && "$python" "$root/tests/package/check_embed.py" same data "$@"); }

# use FOLDER: runs the example's programs there and compares.
use() {
  "$1/score" "$work/data/table.safetensors" "$work/data/rows.csv" > "$1/scores"
  "$1/score" "$work/data/table.safetensors" --sample 50 5 "$1/samples"
  same table/log_prob "$1/scores"
  same table/plain_sample "$1/samples"
  if [ -x "$1/posterior" ]; then
    "$1/posterior" "$work/data/posterior.safetensors" 50 5 0.5 -1 > "$1/draws"
    same posterior/draws "$1/draws"
    "$1/events" "$work/data/posterior.safetensors" "$work/data/conditions.csv" 5 > "$1/events.csv"
    same posterior/events "$1/events.csv"
  fi
}

compilers=(g++)
if command -v clang++ > /dev/null; then compilers+=(clang++); else say "no clang++ on this machine: skipped"; fi
# examples COMPILER STANDARD: linked in every way.
examples() {
  local link folder where
  for link in static static_avx2 shared wheel; do
    folder=$work/$1-$2-$link
    where=(-DCMAKE_PREFIX_PATH="$work/prefix" -DEVENFLOW_LINK=evenflow::$link)
    [ $link = wheel ] && where=(-Devenflow_DIR="$wheel_dir")
    cmake -S examples/embed -B "$folder" -G Ninja -DCMAKE_CXX_COMPILER=$1 -DCMAKE_CXX_STANDARD=$2 \
      -DCMAKE_CXX_FLAGS="-Wall -Wextra -Wshadow -Werror" "${where[@]}" > /dev/null
    cmake --build "$folder" > "$folder/log" || { cat "$folder/log"; exit 1; }
    if [ $link != static_avx2 ] || grep -qw avx2 /proc/cpuinfo; then use "$folder"; fi
  done
}
for compiler in "${compilers[@]}"; do
  examples $compiler 17 &
  examples $compiler 20
  wait $!
done

say "linked by hand"
mkdir "$work/by_hand"
g++ -std=c++17 -I"$work/prefix/include" examples/embed/score.cpp "$archive" -pthread -ldl -o "$work/by_hand/score"
! "$work/by_hand/score" "$work/data/table.safetensors" "$work/data/rows.csv" 2> "$work/by_hand/error"
grep -q "expected kernels in this program, got none" "$work/by_hand/error"
g++ -std=c++17 -I"$work/prefix/include" examples/embed/score.cpp -Wl,--whole-archive "$archive" \
  -Wl,--no-whole-archive -pthread -ldl -o "$work/by_hand/score"
use "$work/by_hand"

if command -v pkg-config > /dev/null; then
  say "linked by pkg-config, the static library alone"
  mkdir -p "$work/archive/lib/pkgconfig" "$work/by_pkg_config"
  cp "$archive" "$work/archive/lib"
  cp -r "$work/prefix/include" "$work/archive"
  find "$work/prefix" -name evenflow.pc -exec cp {} "$work/archive/lib/pkgconfig" \;
  sed -i 's|^includedir=.*|includedir=${libdir}/../include|' "$work/archive/lib/pkgconfig/evenflow.pc"
  g++ -std=c++17 examples/embed/score.cpp -o "$work/by_pkg_config/score" \
    $(PKG_CONFIG_PATH="$work/archive/lib/pkgconfig" pkg-config --static --cflags --libs evenflow)
  use "$work/by_pkg_config"
  # By the linker of C, too.
  gcc -std=c99 examples/c/score.c -o "$work/score_c" \
    $(PKG_CONFIG_PATH="$work/archive/lib/pkgconfig" pkg-config --static --cflags --libs evenflow)
  "$work/score_c" "$work/data/table.safetensors" "$work/data/rows.csv" > "$work/scores"
  same table/log_prob "$work/scores"
fi

for program in score posterior; do
  strip -o "$work/small" "$work/g++-17-static_avx2/$program"
  size=$(stat -c %s "$work/small")
  say "stripped static program $program: $size bytes"
  [ "$size" -lt 2500000 ]
done

say "training"
trained=$work/g++-17-static
awk 'BEGIN { srand(1); for (i = 0; i < 1000; i++) { a = rand(); b = rand(); print a "," a + b "," a * b } }' > "$work/train.csv"
"$trained/train" "$work/train.csv" "$work/once.safetensors" 4 > /dev/null
"$trained/train" "$work/train.csv" "$work/twice.safetensors" 2 > /dev/null
"$trained/train" "$work/train.csv" "$work/twice.safetensors" 2 > /dev/null
cmp "$work/once.safetensors" "$work/twice.safetensors"
(cd "$work" && "$python" -c "
import evenflow as ef, numpy as np
flow = ef.load('once.safetensors')
x = np.loadtxt('train.csv', delimiter=',', dtype=np.float32)
assert flow.verify(x).ok and flow.log_prob(x).mean() > 1, flow.log_prob(x).mean()")

say "C99"
for compiler in gcc clang; do
  command -v $compiler > /dev/null || continue
  $compiler -std=c99 -pedantic -Wall -Wextra -Werror -I"$work/prefix/include" examples/c/score.c -o "$work/score_c" \
    "$library" -Wl,-rpath,"$(dirname "$library")"
  "$work/score_c" "$work/data/table.safetensors" "$work/data/rows.csv" > "$work/scores"
  same table/log_prob "$work/scores"
  "$work/score_c" "$work/data/table.safetensors" --sample 50 5 > "$work/samples"
  same table/plain_sample "$work/samples"
done

say "CMake without C++"
mkdir "$work/no_cxx"
# no_cxx FIND WHERE: configures such a project.
no_cxx() {
  rm -rf "$work/no_cxx/build"
  printf 'cmake_minimum_required(VERSION 3.18)\nproject(app LANGUAGES C)\n%s\n' "$1" > "$work/no_cxx/CMakeLists.txt"
  cmake -S "$work/no_cxx" -B "$work/no_cxx/build" "$2" > /dev/null 2> "$work/no_cxx/error"
}
needs_cxx="LANGUAGES C CXX) for the component static, got no CXX"
! no_cxx 'find_package(evenflow REQUIRED COMPONENTS static)' -DCMAKE_PREFIX_PATH="$work/prefix"
grep -q "$needs_cxx" "$work/no_cxx/error"
! no_cxx 'find_package(evenflow REQUIRED COMPONENTS static)' -Devenflow_DIR="$wheel_dir"
grep -q "expected the component static, got an installation without it" "$work/no_cxx/error"
# Without COMPONENTS it is the shared library alone.
for where in -DCMAKE_PREFIX_PATH="$work/prefix" -Devenflow_DIR="$wheel_dir"; do
  no_cxx 'find_package(evenflow REQUIRED)
if(TARGET evenflow::static OR NOT TARGET evenflow::shared)
  message(FATAL_ERROR "expected the shared library alone")
endif()' "$where"
done

say "as a part of another project"
mkdir "$work/part"
for link in static static_avx2 shared; do
  cat > "$work/part/CMakeLists.txt" << END
cmake_minimum_required(VERSION 3.18)
project(app LANGUAGES CXX)
set(EVENFLOW_STATIC ON)
add_subdirectory("$root" evenflow)
add_executable(app "$root/examples/embed/score.cpp")
target_link_libraries(app PRIVATE evenflow::$link)
END
  cmake -S "$work/part" -B "$work/part/$link" -G Ninja > /dev/null
done
# Its build type stays its own; evenflow's files are compiled for speed.
grep -qx 'CMAKE_BUILD_TYPE:STRING=' "$work/part/static/CMakeCache.txt"
ninja -C "$work/part/static" -t commands app > "$work/part/commands"
grep -q -- '-DNDEBUG .*/linalg\.cpp' "$work/part/commands"
if grep -q -- '-DNDEBUG .*/embed/score\.cpp' "$work/part/commands"; then exit 1; fi

say "ctypes"
"$python" examples/ctypes/evenflow_c.py "$library" "$work/data/table.safetensors" "$work/data/rows.csv" > "$work/scores"
same table/log_prob "$work/scores"
# As many numbers as before, their rows cut elsewhere.
paste -sd, "$work/data/rows.csv" > "$work/one_row.csv"
! "$python" examples/ctypes/evenflow_c.py "$library" "$work/data/table.safetensors" "$work/one_row.csv" 2> "$work/error"
grep -q "one_row.csv: line 1: expected 6 columns, got 240" "$work/error"

if command -v rustc > /dev/null; then
  say "Rust"
  rustc -O -D warnings examples/rust/score.rs -o "$work/score_rust" -L native="$(dirname "$library")" \
    -C link-arg=-Wl,-rpath,"$(dirname "$library")"
  "$work/score_rust" "$work/data/table.safetensors" "$work/data/rows.csv" > "$work/scores"
  same table/log_prob "$work/scores"
fi

say "no allocation after two calls"
g++ -std=c++17 -O1 -Wall -Wextra -Werror -I"$work/prefix/include" tests/package/embed/allocations.cpp \
  -o "$work/allocations" "$library" -Wl,-rpath,"$(dirname "$library")"
"$work/allocations" "$work"/data/*.safetensors

say "two versions in one process"
gcc -std=c99 -fPIC -c tests/package/embed/other_version.c -o "$work/other_version.o"
sed 's/EVENFLOW_[0-9.]*/EVENFLOW_999/' "$work/build/evenflow.map" > "$work/other.map"
g++ -shared -o "$work/libother.so" "$work/other_version.o" -Wl,--allow-multiple-definition -Wl,-Bsymbolic \
  -Wl,--version-script="$work/other.map" \
  -Wl,-u,evenflow_load -Wl,-u,_ZN8evenflow20kernels_baseline_f32Ev -Wl,-u,_ZN8evenflow16kernels_avx2_f32Ev \
  -Wl,-u,_ZN8evenflow18kernels_avx512_f32Ev -Wl,-u,_ZN8evenflow18stacks_avx512_bf16Ev -Wl,-u,_ZN8evenflow10stacks_amxEv "$archive" -pthread
gcc -std=c99 -Wall -Wextra -Werror -I"$work/prefix/include" tests/package/embed/two_versions.c -o "$work/two_versions" -ldl
"$work/two_versions" "$library" "$work/libother.so" "$work/data/table.safetensors"
"$work/two_versions" "$work/libother.so" "$library" "$work/data/table.safetensors"

say "unloaded while its threads wait"
readelf -d "$library" | grep -q NODELETE
gcc -std=c99 -Wall -Wextra -Werror -I"$work/prefix/include" tests/package/embed/unload.c -o "$work/unload" -ldl
"$work/unload" "$library" "$work/data/table.safetensors"

say "forks"
g++ -std=c++17 -O1 -Wall -Wextra -Werror -I"$work/prefix/include" tests/package/embed/forks.cpp -o "$work/forks" "$library" \
  -Wl,-rpath,"$(dirname "$library")"
"$work/forks" "$work/data/table.safetensors"

say "16 threads under ThreadSanitizer"
# One instruction set is enough, and weak symbols let the others go.
mkdir "$work/tsan"
git ls-files 'cpp/src/*.cpp' | grep -v -e avx -e amx -e portable -e windows |
  xargs -P "$(nproc)" -I{} sh -c 'g++ -std=c++17 -O1 -w -fsanitize=thread -Icpp/include -Icpp/src -c "$1" \
    -o "$2/$(echo "$1" | tr / _).o"' sh {} "$work/tsan"
g++ -std=c++17 -O1 -Wall -Wextra -Werror -fsanitize=thread -Icpp/include tests/package/embed/threads.cpp \
  "$work"/tsan/*.o -o "$work/threads"
"$work/threads" "$work"/data/{table,table_bf16,nice,glow}.safetensors

say "latency"
"$work/g++-17-static/latency" "$work/data/table.safetensors" 2
say "embedding: ok"
