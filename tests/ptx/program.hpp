#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

// PTX as nvcc writes it for this project's kernels: one instruction a line, one struct of arguments a kernel,
// no functions. What is not known here ends the process, with the line.

namespace evenflow::ptx {

enum class Type : uint8_t { u8, s8, u16, s16, u32, s32, u64, s64, bf16, f32, f64, pred };
int size_of(Type type);

// clang-format off
enum class Op : uint8_t {
  add, sub, mul, mul_lo, mul_hi, mul_wide, mad_lo, fma, div, rem, min, max, neg, abs, sqrt, rcp, rcp_approx, ex2, copysign,
  bit_and, bit_or, bit_xor, bit_not, shl, shr, setp, selp, mov, pack, unpack, cvt, ld, st,
  bra, ret, bar, ldmatrix, ldmatrix_trans, mma
};
enum class Comparison : uint8_t { eq, ne, lt, le, gt, ge, equ, neu, ltu, leu, gtu, geu, num, nan };
// clang-format on
enum class Space : uint8_t { param, global, shared, local };
enum class Rounding : uint8_t { none, nearest, integer_zero, integer_nearest };

constexpr int kNone = -1;

/// Operands are slots of a thread's registers; constants have slots of their own.
struct Instruction {
  Op op = Op::ret;
  Type type = Type::u32;
  Type from = Type::u32;  ///< of cvt
  Comparison comparison = Comparison::eq;
  Space space = Space::param;
  Rounding rounding = Rounding::none;
  bool negated = false;
  int predicate = kNone;
  int count = 1;  ///< values of a load or a store
  int to[4] = {kNone, kNone, kNone, kNone};
  int of[10] = {kNone, kNone, kNone, kNone, kNone, kNone, kNone, kNone, kNone, kNone};
  int64_t offset = 0;
  int target = kNone;  ///< of a branch
  std::string_view text;
};

struct Kernel {
  std::string name;
  std::vector<Instruction> code;
  std::vector<std::pair<int, uint64_t>> constants;
  int registers = 0;
  int thread = kNone, block = kNone, blocks = kNone;  ///< slots of %tid.x, %ctaid.x, %nctaid.x
  int64_t parameters = 0, shared = 0, local = 0;      ///< bytes
  int threads = 0;                                    ///< at most
};

/// The kernels of PTX texts, each read when it is asked for.
class Program {
 public:
  /// The text has to outlive the program.
  void add(std::string_view text);
  const Kernel& kernel(const std::string& name);

 private:
  std::unordered_map<std::string, std::string_view> texts_;
  std::map<std::string, Kernel> kernels_;
};

/// Ends the process: the tests that run here expect nothing of the kind.
[[noreturn]] void give_up(const std::string& why);

}  // namespace evenflow::ptx
