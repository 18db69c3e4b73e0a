#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/cpu/choose_isa.hpp"
#include "kernels/ops/math.hpp"
#include "larger.hpp"

namespace evenflow::test {
namespace {

/// Largest error in units of the last place of the float32 result, over `count` points of [low, high].
template <class F, class G>
double worst_ulp(double low, double high, const F& ours, const G& truth, int count = 200000) {
  double worst = 0;
  for (int i = 0; i <= count; ++i) {
    const float x = static_cast<float>(low + (high - low) * i / count);
    const double want = truth(static_cast<double>(x));
    const float rounded = std::abs(static_cast<float>(want));
    const double ulp =
        static_cast<double>(std::nextafter(rounded, std::numeric_limits<float>::infinity())) - rounded;
    worst = larger(worst, std::abs(static_cast<double>(ours(x)) - want) / ulp);
  }
  return worst;
}

TEST_CASE("float32 elementary functions, in units of the last place") {
  CHECK(worst_ulp(-87, 88, [](float x) { return ops::exp(x); }, [](double x) { return std::exp(x); }) < 2);
  CHECK(
      worst_ulp(1e-30, 1e-3, [](float x) { return ops::log(x); }, [](double x) { return std::log(x); }) < 2);
  CHECK(worst_ulp(1e-3, 1e4, [](float x) { return ops::log(x); }, [](double x) { return std::log(x); }) < 2);
  CHECK(worst_ulp(0, 2, [](float x) { return ops::log1p(x); }, [](double x) { return std::log1p(x); }) < 4);
  CHECK(worst_ulp(-10, 10, [](float x) { return ops::tanh(x); }, [](double x) { return std::tanh(x); }) < 3);
  CHECK(worst_ulp(
            -80, 80, [](float x) { return ops::sigmoid(x); },
            [](double x) { return 1 / (1 + std::exp(-x)); }) < 3);
  for (const double low : {-1e-6, -1.0, -100.0}) {
    CHECK(
        worst_ulp(low, 0, [](float x) { return ops::expm1(x); }, [](double x) { return std::expm1(x); }) < 5);
  }
  CHECK(worst_ulp(
            -80, 80, [](float x) { return ops::softplus(x); },
            [](double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); }) < 5);
}

TEST_CASE("the functions behind noise are as good as the C library's, for all that 32 bits can say") {
  double log_error = 0, wave_error = 0;
  const auto check = [&](uint32_t word) {
    const double u = (word + 0.5) / 4294967296.0, angle = 6.283185307179586476925 * u;
    double sine, cosine;
    ops::noise_sine(u, &sine, &cosine);
    log_error = larger(log_error, std::abs(ops::noise_log(u) / std::log(u) - 1));
    wave_error = larger(wave_error, std::abs(sine - std::sin(angle)));
    wave_error = larger(wave_error, std::abs(cosine - std::cos(angle)));
  };
  for (uint32_t i = 0; i < 2000; ++i) {  // where the logarithm is steep, and where it vanishes
    check(i);
    check(~i);
  }
  for (uint64_t word = 0; word < (uint64_t{1} << 32); word += 8191) check(static_cast<uint32_t>(word));
  CHECK(log_error < std::ldexp(1, -51));
  CHECK(wave_error < std::ldexp(1, -49));  // the angle's rounding alone is 2^-51
}

TEST_CASE("float32 elementary functions at the ends of their range") {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  CHECK(ops::exp(inf) == inf);
  CHECK(ops::exp(-inf) == 0.0f);
  CHECK(ops::exp(100.0f) == inf);
  CHECK(ops::exp(0.0f) == 1.0f);
  CHECK(std::isnan(ops::exp(nan)));
  CHECK(ops::log(0.0f) == -inf);
  CHECK(ops::log(inf) == inf);
  CHECK(std::isnan(ops::log(-1.0f)));
  CHECK(std::isnan(ops::log(nan)));
  CHECK(ops::log(1e-40f) == doctest::Approx(std::log(1e-40f)));
  CHECK(ops::tanh(inf) == 1.0f);
  CHECK(ops::tanh(-inf) == -1.0f);
  CHECK(std::isnan(ops::tanh(nan)));
  CHECK(ops::sigmoid(-200.0f) >= 0.0f);
  CHECK(ops::sigmoid(-200.0f) <= std::numeric_limits<float>::min());
  CHECK(ops::softplus(200.0f) == 200.0f);
  CHECK(ops::softplus(-200.0f) == 0.0f);
}

TEST_CASE("the instruction set: the fastest not above the one asked for") {
  using Level = IsaLevel;
  const auto chosen = [](const IsaSupport& has) {
    std::vector<Level> out;
    for (const Level wanted :
         {Level::baseline, Level::avx2, Level::avx512, Level::avx512_bf16, Level::amx, Level::best}) {
      out.push_back(choose_isa(wanted, has));
    }
    return out;
  };
  using Levels = std::vector<Level>;
  const Level base = Level::baseline, avx2 = Level::avx2, avx512 = Level::avx512, pairs = Level::avx512_bf16,
              amx = Level::amx;
  CHECK(chosen({}) == Levels{base, base, base, base, base, base});
  CHECK(chosen({true}) == Levels{base, avx2, avx2, avx2, avx2, avx2});
  CHECK(chosen({true, true}) == Levels{base, avx2, avx512, avx512, avx512, avx512});
  // AMD from Zen 4 on; Intel's Cooper Lake, or a system that does not let programs use AMX; Sapphire Rapids.
  CHECK(chosen({true, true, true}) == Levels{base, avx2, avx512, pairs, pairs, pairs});
  CHECK(chosen({true, true, true, false, true}) == Levels{base, avx2, avx512, pairs, avx512, avx512});
  CHECK(chosen({true, true, true, true, true}) == Levels{base, avx2, avx512, pairs, amx, amx});
}

}  // namespace
}  // namespace evenflow::test
