#include "block.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

// Instructions as in NVIDIA's "Parallel Thread Execution ISA", 9.0.

namespace evenflow::ptx {
namespace {

constexpr int kWarp = 32;

template <class To, class From>
To bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
/// A register as a number, and back; what is narrower than a register lies in its low bits.
template <class T>
T value_of(uint64_t r) {
  if constexpr (std::is_same<T, float>::value) return bits<float>(static_cast<uint32_t>(r));
  if constexpr (std::is_same<T, double>::value) return bits<double>(r);
  return static_cast<T>(r);
}
template <class T>
uint64_t stored(T x) {
  if constexpr (std::is_same<T, float>::value) {
    return bits<uint32_t>(x);
  } else if constexpr (std::is_same<T, double>::value) {
    return bits<uint64_t>(x);
  } else {
    return static_cast<uint64_t>(static_cast<std::make_unsigned_t<T>>(x));
  }
}

/// f(a number of the type).
template <class F>
auto with_type(Type type, const F& f) {
  switch (type) {
    case Type::u8:
      return f(uint8_t());
    case Type::s8:
      return f(int8_t());
    case Type::u16:
      return f(uint16_t());
    case Type::s16:
      return f(int16_t());
    case Type::u32:
      return f(uint32_t());
    case Type::s32:
      return f(int32_t());
    case Type::u64:
      return f(uint64_t());
    case Type::s64:
      return f(int64_t());
    case Type::f32:
      return f(float());
    case Type::f64:
      return f(double());
    case Type::bf16:
    case Type::pred:
      break;
  }
  give_up("expected a type for arithmetic, got another");
}

template <class T>
bool compared(Comparison c, T a, T b) {
  const bool unordered = a != a || b != b;
  switch (c) {
    case Comparison::eq:
      return a == b;
    case Comparison::ne:
      return !unordered && a != b;
    case Comparison::lt:
      return a < b;
    case Comparison::le:
      return a <= b;
    case Comparison::gt:
      return a > b;
    case Comparison::ge:
      return a >= b;
    case Comparison::equ:
      return unordered || a == b;
    case Comparison::neu:
      return unordered || a != b;
    case Comparison::ltu:
      return unordered || a < b;
    case Comparison::leu:
      return unordered || a <= b;
    case Comparison::gtu:
      return unordered || a > b;
    case Comparison::geu:
      return unordered || a >= b;
    case Comparison::num:
      return !unordered;
    case Comparison::nan:
      return unordered;
  }
  return false;
}

/// A float to a whole number: the nearest there is, 0 for NaN (2^63 of 64 bits).
template <class To, class From>
To rounded(From x, Rounding rounding) {
  using Limits = std::numeric_limits<To>;
  if (std::isnan(x)) return sizeof(To) == 8 ? static_cast<To>(uint64_t{1} << 63) : To(0);
  const double whole = rounding == Rounding::integer_zero ? std::trunc(x) : std::nearbyint(x);
  if (whole <= static_cast<double>(Limits::min())) return Limits::min();
  if (whole >= static_cast<double>(Limits::max())) return Limits::max();
  return static_cast<To>(whole);
}

float bfloat16(uint64_t r, int half) {
  return bits<float>(static_cast<uint32_t>(r >> 16 * half << 16));
}

}  // namespace

Launch::Launch(const Kernel& kernel, Memory& memory, const void* parameters, int64_t blocks, int threads,
               uint32_t number)
    : kernel_(kernel),
      memory_(memory),
      parameters_(parameters),
      blocks_(blocks),
      threads_(static_cast<size_t>(threads)),
      shared_(static_cast<size_t>(kernel.shared)),
      traces_(shared_.size()) {
  by_.launch = number;
  if (threads > kernel.threads) fail("expected threads within .maxntid, got more");
  if (kernel.shared > 48 << 10) fail("expected at most 48 kB of shared memory, got more");
  if (kernel.parameters > 4096) fail("expected at most 4096 bytes of parameters, got more");
}

void Launch::fail(const char* why) const {
  give_up(std::string(why) + ", in block " + std::to_string(by_.block) + ", thread " +
          std::to_string(by_.thread) + " of " + kernel_.name + (now_ ? ": " + std::string(now_->text) : ""));
}

void Launch::run(int64_t block) {
  by_.block = block;
  std::fill(shared_.begin(), shared_.end(), static_cast<char>(0xFF));
  for (size_t t = 0; t < threads_.size(); ++t) {
    Thread& thread = threads_[t];
    thread.registers.assign(static_cast<size_t>(kernel_.registers), ~uint64_t{0});
    thread.local.assign(static_cast<size_t>(kernel_.local), static_cast<char>(0xFF));
    for (const auto& [slot, value] : kernel_.constants) thread.registers[slot] = value;
    if (kernel_.thread != kNone) thread.registers[kernel_.thread] = t;
    if (kernel_.block != kNone) thread.registers[kernel_.block] = static_cast<uint64_t>(block);
    if (kernel_.blocks != kNone) thread.registers[kernel_.blocks] = static_cast<uint64_t>(blocks_);
    thread.next = 0;
    thread.state = State::runs;
  }
  do {
    ++by_.epoch;  // never one that another block had: shared memory's traces tell them apart by it
    // The last warps first: nothing may depend on their order.
    for (int first = (static_cast<int>(threads_.size()) - 1) / kWarp * kWarp; first >= 0; first -= kWarp)
      run_warp(first);
  } while (pass_barrier());
}

void Launch::run_warp(int first) {
  const int end = std::min(first + kWarp, static_cast<int>(threads_.size()));
  for (;;) {
    int together = 0;
    for (int t = first; t < end; ++t) {
      run_thread(t);
      if (threads_[t].state != State::at_warp) continue;
      ++together;
      if (threads_[t].next != threads_[first].next) fail("expected a warp at one instruction, got several");
    }
    if (together == 0) return;
    if (together < kWarp) fail("expected a whole warp, got a part");
    now_ = &kernel_.code[threads_[first].next];
    if (now_->op == Op::mma) {
      multiply(first, *now_);
    } else {
      load_matrices(first, *now_);
    }
    for (int t = first; t < end; ++t) {
      ++threads_[t].next;
      threads_[t].state = State::runs;
    }
  }
}

/// Whether there is something to go on with.
bool Launch::pass_barrier() {
  const auto waits = [](const Thread& t) { return t.state == State::at_barrier; };
  if (std::none_of(threads_.begin(), threads_.end(), waits)) return false;
  const size_t barrier = threads_[0].next;
  for (Thread& t : threads_) {
    if (!waits(t) || t.next != barrier) fail("expected all threads at one barrier, got some elsewhere");
    ++t.next;
    t.state = State::runs;
  }
  return true;
}

void Launch::run_thread(int thread) {
  Thread& t = threads_[thread];
  by_.thread = thread;
  for (; t.state == State::runs; ++t.next) {
    const Instruction& i = *(now_ = &kernel_.code[t.next]);
    if (i.predicate != kNone && ((t.registers[i.predicate] & 1) != 0) == i.negated) continue;
    switch (i.op) {
      case Op::bra:
        t.next = static_cast<size_t>(i.target) - 1;
        break;
      case Op::ret:
        t.state = State::ended;
        return;
      case Op::bar:
        t.state = State::at_barrier;
        return;
      case Op::ldmatrix:
      case Op::ldmatrix_trans:
      case Op::mma:
        t.state = State::at_warp;
        return;
      default:
        execute(i, t);
    }
  }
}

void Launch::execute(const Instruction& i, Thread& thread) {
  uint64_t* r = thread.registers.data();
  const auto word = [&](int n) { return r[i.of[n]]; };
  switch (i.op) {
    case Op::ld:
    case Op::st:
      return access(i, thread);
    case Op::mov:
      r[i.to[0]] = word(0);
      return;
    case Op::cvt:
      return convert(i, r);
    case Op::selp:
      r[i.to[0]] = word(2) & 1 ? word(0) : word(1);
      return;
    case Op::setp:
      r[i.to[0]] = with_type(i.type, [&](auto of) -> uint64_t {
        using T = decltype(of);
        return compared<T>(i.comparison, value_of<T>(word(0)), value_of<T>(word(1)));
      });
      return;
    case Op::pack:
    case Op::unpack: {
      const int half = 4 * size_of(i.type);
      const uint64_t mask = (uint64_t{1} << half) - 1;
      if (i.op == Op::pack) {
        r[i.to[0]] = (word(0) & mask) | (word(1) & mask) << half;
      } else {
        const uint64_t both = word(0);
        r[i.to[0]] = both & mask;
        r[i.to[1]] = both >> half & mask;
      }
      return;
    }
    default:
      break;
  }
  if (i.type == Type::pred) {
    r[i.to[0]] = i.op == Op::bit_and   ? word(0) & word(1) & 1
                 : i.op == Op::bit_or  ? (word(0) | word(1)) & 1
                 : i.op == Op::bit_xor ? (word(0) ^ word(1)) & 1
                                       : ~word(0) & 1;
    return;
  }
  r[i.to[0]] = with_type(i.type, [&](auto of) -> uint64_t {
    using T = decltype(of);
    if constexpr (std::is_floating_point<T>::value) {
      return real<T>(i, r);
    } else {
      return whole<T>(i, r);
    }
  });
}

template <class T>
uint64_t Launch::real(const Instruction& i, const uint64_t* r) const {
  const T a = value_of<T>(r[i.of[0]]), b = i.of[1] == kNone ? T() : value_of<T>(r[i.of[1]]);
  switch (i.op) {
    case Op::add:
      return stored<T>(a + b);
    case Op::sub:
      return stored<T>(a - b);
    case Op::mul:
      return stored<T>(a * b);
    case Op::fma:
      return stored<T>(std::fma(a, b, value_of<T>(r[i.of[2]])));
    case Op::div:
      return stored<T>(a / b);
    case Op::min:
      return stored<T>(std::fmin(a, b));
    case Op::max:
      return stored<T>(std::fmax(a, b));
    case Op::neg:
      return stored<T>(-a);
    case Op::abs:
      return stored<T>(std::fabs(a));
    case Op::sqrt:
      return stored<T>(std::sqrt(a));
    case Op::rcp:
      return stored<T>(1 / a);
    case Op::rcp_approx:
      return stored<T>(1 / a) & 0xffffffff00000000;  // of a double: its upper word
    case Op::ex2:
      return stored<T>(std::exp2(a));
    case Op::copysign:
      return stored<T>(std::copysign(b, a));
    default:
      fail("expected an instruction of floating-point numbers, got another");
  }
}

template <class T>
uint64_t Launch::whole(const Instruction& i, const uint64_t* r) const {
  // Wide enough for every product.
  using Wide = std::conditional_t<std::is_signed<T>::value, __int128, unsigned __int128>;
  constexpr unsigned size = 8 * sizeof(T);
  const T x = value_of<T>(r[i.of[0]]);
  const uint64_t second = i.of[1] == kNone ? 0 : r[i.of[1]];
  const Wide a = x, b = value_of<T>(second);
  const auto cut = [](Wide w) { return stored<T>(static_cast<T>(w)); };
  const unsigned by = static_cast<unsigned>(std::min<uint64_t>(static_cast<uint32_t>(second), size));
  switch (i.op) {
    case Op::add:
      return cut(a + b);
    case Op::sub:
      return cut(a - b);
    case Op::mul_lo:
      return cut(a * b);
    case Op::mul_hi:
      return cut((a * b) >> size);
    case Op::mul_wide:
      return static_cast<uint64_t>(a * b) & (size == 16 ? 0xffffffff : ~uint64_t{0});
    case Op::mad_lo:
      return cut(a * b + static_cast<Wide>(value_of<T>(r[i.of[2]])));
    case Op::div:
    case Op::rem:
      if (b == 0) fail("expected a divisor, got 0");
      return cut(i.op == Op::div ? a / b : a % b);
    case Op::min:
      return cut(std::min(a, b));
    case Op::max:
      return cut(std::max(a, b));
    case Op::neg:
      return cut(-a);
    case Op::abs:
      return cut(a < 0 ? -a : a);
    case Op::bit_and:
      return cut(a & b);
    case Op::bit_or:
      return cut(a | b);
    case Op::bit_xor:
      return cut(a ^ b);
    case Op::bit_not:
      return cut(~a);
    case Op::shl:
      return cut(static_cast<Wide>(static_cast<unsigned __int128>(a) << by));
    case Op::shr:
      return cut(a >> by);
    default:
      fail("expected an instruction of whole numbers, got another");
  }
}

void Launch::convert(const Instruction& i, uint64_t* r) const {
  const uint64_t from = r[i.of[0]];
  if (i.type == Type::bf16) {
    if (i.from != Type::f32 || i.rounding != Rounding::nearest)
      fail("expected float32 to round to bfloat16, got another");
    const auto word = static_cast<uint32_t>(from);
    r[i.to[0]] = std::isnan(value_of<float>(from)) ? 0x7fff : (word + 0x7fff + (word >> 16 & 1)) >> 16;
    return;
  }
  r[i.to[0]] = with_type(i.from, [&](auto of) -> uint64_t {
    return with_type(i.type, [&, of](auto to) -> uint64_t {
      using From = decltype(of);
      using To = decltype(to);
      const From x = value_of<From>(from);
      if constexpr (!std::is_floating_point<From>::value) {
        return stored(static_cast<To>(x));
      } else if constexpr (!std::is_floating_point<To>::value) {
        return stored(rounded<To>(x, i.rounding));
      } else {
        return stored(static_cast<To>(i.rounding == Rounding::integer_nearest ? std::nearbyint(x)
                                      : i.rounding == Rounding::integer_zero  ? std::trunc(x)
                                                                              : x));
      }
    });
  });
}

void Launch::access(const Instruction& i, Thread& thread) {
  const int size = size_of(i.type);
  char* at = reach(i, thread, size * i.count);
  for (int n = 0; n < i.count; ++n, at += size) {
    if (i.op == Op::st) {
      std::memcpy(at, &thread.registers[i.of[n + 1]], size);
      continue;
    }
    uint64_t& to = thread.registers[i.to[n]];
    to = 0;
    std::memcpy(&to, at, size);
    // A wider register takes the sign.
    if (i.type == Type::s8) to = static_cast<uint64_t>(int64_t{static_cast<int8_t>(to)});
    if (i.type == Type::s16) to = static_cast<uint64_t>(int64_t{static_cast<int16_t>(to)});
    if (i.type == Type::s32) to = static_cast<uint64_t>(int64_t{static_cast<int32_t>(to)});
  }
}

/// Where the thread's access goes, after a look whether it may.
char* Launch::reach(const Instruction& i, Thread& thread, int64_t bytes) {
  const uint64_t sum = thread.registers[i.of[0]] + static_cast<uint64_t>(i.offset);
  const uint64_t at = i.space == Space::shared ? static_cast<uint32_t>(sum) : sum;
  if (at % static_cast<uint64_t>(bytes) != 0) fail("expected an aligned address, got another");
  const bool writes = i.op == Op::st;
  const auto within = [&](int64_t size) {
    if (at > static_cast<uint64_t>(size) || bytes > size - static_cast<int64_t>(at))
      fail("expected an address within, got one outside");
  };
  const char* conflict = nullptr;
  char* place = nullptr;
  if (i.space == Space::param) {
    within(kernel_.parameters);
    if (writes) fail("expected parameters to be read, got a store");
    place = const_cast<char*>(static_cast<const char*>(parameters_)) + at;
  } else if (i.space == Space::local) {
    within(kernel_.local);
    place = thread.local.data() + at;
  } else if (i.space == Space::shared) {
    within(kernel_.shared);
    place = shared_.data() + at;
    conflict = traces_.touch(at, static_cast<size_t>(bytes), writes, {by_.launch, by_.epoch, 0, by_.thread});
  } else {
    place = reinterpret_cast<char*>(at);
    conflict = memory_.touch(place, static_cast<size_t>(bytes), writes, &by_);
  }
  if (conflict)
    fail((std::string("expected memory that this thread may ") + (writes ? "write" : "read") + ", but " +
          conflict)
             .c_str());
  return place;
}

/// "Matrix fragments for mma.m16n8k16", of .bf16: in a 16 x 16 matrix a thread's words q = 0 to 3 are two
/// columns from lane % 4 * 2 on, 8 more for q = 2 and 3, of row lane / 4, 8 more for q = 1 and 3; in a 16 x 8
/// one, of words 0 and 1, rows and columns the other way around. A thread's sums lie at row lane / 4, 8 more
/// for the last two.
void Launch::multiply(int first, const Instruction& i) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < kWarp; ++lane) {
    const uint64_t* r = threads_[first + lane].registers.data();
    const int row = lane / 4, column = lane % 4 * 2;
    for (int q = 0; q < 4; ++q) {
      for (int half = 0; half < 2; ++half)
        a[row + q % 2 * 8][column + half + q / 2 * 8] = bfloat16(r[i.of[q]], half);
    }
    for (int q = 0; q < 2; ++q) {
      for (int half = 0; half < 2; ++half) b[column + half + q * 8][row] = bfloat16(r[i.of[4 + q]], half);
    }
  }
  for (int lane = 0; lane < kWarp; ++lane) {
    uint64_t* r = threads_[first + lane].registers.data();
    uint64_t sums[4];
    for (int q = 0; q < 4; ++q) {
      const int row = lane / 4 + q / 2 * 8, column = lane % 4 * 2 + q % 2;
      double sum = static_cast<double>(value_of<float>(r[i.of[6 + q]]));
      for (int k = 0; k < 16; ++k) sum += static_cast<double>(a[row][k]) * static_cast<double>(b[k][column]);
      sums[q] = stored(static_cast<float>(sum));
    }
    for (int q = 0; q < 4; ++q) r[i.to[q]] = sums[q];
  }
}

/// Lanes 8 m to 8 m + 7 name the rows of matrix m; lane l takes columns l % 4 * 2 and the next of each one's
/// row l / 4, or rows of column l / 4.
void Launch::load_matrices(int first, const Instruction& i) {
  uint16_t matrices[4][8][8];
  for (int lane = 0; lane < kWarp; ++lane) {
    by_.thread = first + lane;
    std::memcpy(matrices[lane / 8][lane % 8], reach(i, threads_[by_.thread], 16), 16);
  }
  const bool transposed = i.op == Op::ldmatrix_trans;
  for (int lane = 0; lane < kWarp; ++lane) {
    const int row = lane / 4, column = lane % 4 * 2;
    for (int m = 0; m < 4; ++m) {
      const auto at = [&](int c) { return uint32_t{transposed ? matrices[m][c][row] : matrices[m][row][c]}; };
      threads_[first + lane].registers[i.to[m]] = at(column) | at(column + 1) << 16;
    }
  }
}

}  // namespace evenflow::ptx
