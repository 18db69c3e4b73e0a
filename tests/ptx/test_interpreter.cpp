#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <string>
#include <vector>

#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "block.hpp"

// The interpreter alone, on PTX written by hand: results, and bugs that it must catch.

namespace evenflow::ptx {
namespace {

/// A kernel of one argument, a pointer to global memory in %rd1, with 1 kB of shared memory.
std::string kernel_of(const std::string& body) {
  return ".visible .entry kernel(\n.param .align 8 .b8 arguments[8]\n)\n.maxntid 64, 1, 1\n{\n"
         ".shared .align 16 .b8 shared[1024];\nmov.u32 %r1, %tid.x;\nmov.u32 %r2, %ctaid.x;\n"
         "ld.param.u64 %rd1, [arguments];\n" +
         body + "ret;\n}\n";
}

/// Runs it on numbers that lie in the GPU's memory.
template <class T>
void run(const std::string& body, std::vector<T>& numbers, int64_t blocks, int threads, bool written = true) {
  Memory memory;
  const size_t bytes = numbers.size() * sizeof(T);
  void* there = memory.allocate(bytes, false);
  if (written) memory.touch(there, bytes, true, nullptr);
  std::memcpy(there, numbers.data(), bytes);
  Program program;
  const std::string text = kernel_of(body);
  program.add(text);
  Launch launch(program.kernel("kernel"), memory, &there, blocks, threads, 1);
  for (int64_t b = 0; b < blocks; ++b) launch.run(b);
  std::memcpy(numbers.data(), there, bytes);
  memory.release(there);
}

/// What a process says in whose place it ends; empty if it lives.
std::string dying_words(const std::string& body, int64_t blocks, int threads, bool written = true) {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const pid_t child = fork();
  if (child == 0) {
    std::signal(SIGABRT, SIG_DFL);  // not doctest's
    dup2(ends[1], STDERR_FILENO);
    std::vector<float> numbers(64, 1.0f);
    run(body, numbers, blocks, threads, written);
    _exit(0);
  }
  close(ends[1]);
  std::string words;
  char some[256];
  for (ssize_t n; (n = read(ends[0], some, sizeof some)) > 0;) words.append(some, static_cast<size_t>(n));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status) ? words : "";
}

// %rd3: the thread's own number in global memory; %r3: its place in shared memory.
const std::string kOwn =
    "mul.wide.u32 %rd2, %r1, 4;\nadd.s64 %rd3, %rd1, %rd2;\nmov.u32 %r4, shared;\nshl.b32 %r5, %r1, 2;\n"
    "add.s32 %r3, %r4, %r5;\n";

}  // namespace

TEST_CASE("results of instructions") {
  const struct {
    const char* code;
    double result;
  } cases[] = {
      {"fma.rn.f32 %f2, %f1, 0f40000000, 0f3F800000;\n", 3.5},  // 1.25 * 2 + 1
      {"mov.b32 %r9, -7;\nshr.s32 %r9, %r9, 1;\ncvt.rn.f32.s32 %f2, %r9;\n", -4},
      {"mov.b32 %r9, -1;\nmul.hi.u32 %r9, %r9, 16;\ncvt.rn.f32.u32 %f2, %r9;\n", 15},
      {"mov.b32 %r9, -3;\nmul.wide.s32 %rd9, %r9, 5;\ncvt.rn.f32.s64 %f2, %rd9;\n", -15},
      {"mov.b32 %r9, 3;\nshl.b32 %r9, %r9, 40;\ncvt.rn.f32.u32 %f2, %r9;\n", 0},
      {"cvt.rzi.s32.f32 %r9, 0fC0700000;\ncvt.rn.f32.s32 %f2, %r9;\n", -3},  // -3.75
      {"cvt.rzi.s32.f32 %r9, 0f7FC00000;\ncvt.rn.f32.s32 %f2, %r9;\n", 0},   // NaN
      {"cvt.rzi.s32.f32 %r9, 0f60000000;\ncvt.rn.f32.s32 %f2, %r9;\n", 2147483648.0},
      {"setp.lt.f32 %p1, 0f7FC00000, %f1;\nselp.f32 %f2, 0f40000000, 0f3F800000, %p1;\n", 1},
      {"setp.ltu.f32 %p1, 0f7FC00000, %f1;\nselp.f32 %f2, 0f40000000, 0f3F800000, %p1;\n", 2},
      {"cvt.rn.bf16.f32 %rs1, 0f3F818000;\nmov.b32 %r9, {%rs2, %rs1};\nand.b32 %r9, %r9, -65536;\nmov.b32 "
       "%f2, %r9;\n",
       1.015625},  // a tie: to the even one, which is above
      {"max.f32 %f2, 0f7FC00000, %f1;\n", 1.25},
      {"mov.b64 {%r8, %r9}, 0d4000000000000000;\nmov.b64 %fd1, {%r8, %r9};\ncvt.rn.f32.f64 %f2, %fd1;\n", 2},
      {"mov.f32 %f2, 0f00000000;\n$L:\nadd.f32 %f2, %f2, %f1;\nsetp.lt.f32 %p1, %f2, 0f40800000;\n@%p1 bra "
       "$L;\n",
       5},
  };
  for (const auto& c : cases) {
    INFO(c.code);
    std::vector<float> numbers(1, 1.25f);
    run(kOwn + "ld.global.f32 %f1, [%rd3];\n" + c.code + "st.global.f32 [%rd3], %f2;\n", numbers, 1, 1);
    CHECK(numbers[0] == static_cast<float>(c.result));
  }
}

TEST_CASE("a warp's matrices") {
  // Four 8 x 8 matrices: A (16, 16) is the first beside the third, above the second beside the fourth; B (16,
  // 8) the first two transposed. ldmatrix.trans transposes all.
  for (const bool transposed : {false, true}) {
    std::vector<uint32_t> words(128);
    const auto matrix = [&](int m, int i, int j) {
      const int at = 64 * m + (transposed ? 8 * j + i : 8 * i + j);
      return static_cast<float>(at * 37 % 11);
    };
    for (size_t at = 0; at < 256; ++at) {
      const float value = static_cast<float>(at * 37 % 11);
      uint32_t bits;
      std::memcpy(&bits, &value, sizeof bits);
      words[at / 2] |= bits >> 16 << at % 2 * 16;
    }
    const std::string trans = transposed ? "trans." : "";
    run("shl.b32 %r3, %r1, 4;\nmov.u32 %r4, shared;\nadd.s32 %r5, %r4, %r3;\ncvt.u64.u32 %rd2, %r3;\n"
        "add.s64 %rd3, %rd1, %rd2;\nld.global.v4.u32 {%r6, %r7, %r8, %r9}, [%rd3];\n"
        "st.shared.v4.u32 [%r5], {%r6, %r7, %r8, %r9};\nbar.sync 0;\nldmatrix.sync.aligned.m8n8.x4." +
            trans +
            "shared.b16 {%r6, %r7, %r8, %r9}, [%r5];\nmov.f32 %f1, 0f3F800000;\n"
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1, %f2, %f3, %f4}, {%r6, %r7, %r8, %r9}, "
            "{%r6, %r7}, {%f1, %f1, %f1, %f1};\nst.global.v4.f32 [%rd3], {%f1, %f2, %f3, %f4};\n",
        words, 1, 32);
    for (int lane = 0; lane < 32; ++lane) {
      for (int e = 0; e < 4; ++e) {
        const int row = lane / 4, n = lane % 4 * 2 + e % 2, below = e / 2;
        float sum = 1;
        for (int k = 0; k < 8; ++k) {
          sum += matrix(below, row, k) * matrix(0, n, k) + matrix(2 + below, row, k) * matrix(1, n, k);
        }
        float got;
        std::memcpy(&got, &words[static_cast<size_t>(4 * lane + e)], sizeof got);
        CHECK(got == sum);
      }
    }
  }
}

TEST_CASE("bugs") {
  const auto says = [](const std::string& words, const char* what) {
    INFO(words);
    CHECK(words.find(what) != std::string::npos);
  };
  const std::string load = kOwn + "ld.global.f32 %f1, [%rd3];\n", store = "st.shared.f32 [%r3], %f1;\n",
                    next = "xor.b32 %r6, %r3, 4;\nld.shared.f32 %f2, [%r6];\n", wait = "bar.sync 0;\n";
  CHECK(dying_words(load + store + wait + next, 1, 64) == "");
  says(dying_words(load + store + next, 1, 64), "another thread reads what is written");
  says(dying_words(load + next + store, 1, 64), "another thread writes what is read");
  says(dying_words(load + "st.shared.f32 [shared], %f1;\n", 1, 64), "two threads write it");
  CHECK(dying_words(load + "st.global.f32 [%rd3], %f1;\n", 1, 64) == "");
  says(dying_words(load + "st.global.f32 [%rd3], %f1;\n", 2, 64), "another thread writes what is read");
  says(dying_words("st.global.f32 [%rd1], 0f00000000;\n", 2, 1), "two threads write it");
  says(dying_words(load, 1, 1, false), "it has not been written");
  CHECK(dying_words(kOwn + "st.global.f32 [%rd3], 0f00000000;\nld.global.f32 %f1, [%rd3];\n", 1, 64, false) ==
        "");
  says(dying_words(kOwn + "ld.global.f32 %f1, [%rd3+256];\n", 1, 1), "it is not the GPU's");
  says(dying_words(kOwn + "ld.global.v2.f32 {%f1, %f2}, [%rd3+4];\n", 1, 1), "expected an aligned address");
  says(dying_words(kOwn + "ld.shared.f32 %f1, [%r3+1024];\n", 1, 1), "expected an address within");
  says(dying_words("ld.param.u64 %rd2, [arguments+8];\n", 1, 1), "expected an address within");
  says(dying_words("setp.gt.u32 %p1, %r1, 40;\n@%p1 bra $END;\nbar.sync 0;\n$END:\n", 1, 64),
       "expected all threads at one barrier");
  says(
      dying_words(kOwn + "setp.gt.u32 %p1, %r1, 40;\n@%p1 bra $END;\n"
                         "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r20, %r21, %r22, %r23}, [%r4];\n$END:\n",
                  1, 64),
      "expected a whole warp");
  says(dying_words("rem.s32 %r9, %r1, 0;\n", 1, 1), "expected a divisor");
  says(dying_words("vote.sync.all.pred %p1, %p1, -1;\n", 1, 1), "expected PTX that is known, got vote");
  says(dying_words("", 1, 65), "expected threads within .maxntid");
}

}  // namespace evenflow::ptx
