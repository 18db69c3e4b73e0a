#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <string>

#include "check_layer.hpp"
#include "isa_choice.hpp"
#include "kernels/bf16.hpp"
#include "kernels/cpu/kernels.hpp"
#include "kernels/kernel_set.hpp"

// Chains of convolutions as one kernel, against the same convolutions one after another.

namespace evenflow {

#if defined(__x86_64__)
[[gnu::weak]] const Bf16Stacks& stacks_amx();
#else
const Bf16Stacks& stacks_amx() {
  std::abort();  // no other processor has AMX
}
#endif

namespace test {
namespace {

constexpr double kLogsFactor = 3;

struct ChainCase {
  Shape in;
  std::vector<int64_t> widths;
  std::vector<int> kernels;
  bool scales = true;  ///< of the outputs

  /// Without scales dense chains have ways of their own.
  ChainCase plain() const {
    ChainCase c = *this;
    c.scales = false;
    return c;
  }
  bool dense() const { return std::count(kernels.begin(), kernels.end(), 3) == 0; }
};

// Small ones go convolution by convolution, the large by blocks of pixels, the 9x9 images forward by
// convolutions, backward by runs. Some dense ones have few enough weights to go forward with their samples
// side by side where they have no scales.
const ChainCase kChains[] = {{{2, 3, 3, 2}, {5, 7, 4}, {3, 1, 3}},
                             {{3, 4, 4, 6}, {33, 17, 12}, {3, 1, 3}},
                             {{1, 2, 2, 24}, {4, 4, 48}, {3, 1, 3}},
                             {{40, 1, 1, 1}, {37, 20, 2}, {1, 1, 1}},
                             {{7, 16, 16, 6}, {150, 151, 12}, {3, 1, 3}},
                             {{3000, 1, 1, 3}, {90, 90, 5}, {1, 1, 1}},
                             {{5, 6, 6, 3}, {6}, {3}},
                             {{50, 1, 1, 19}, {401, 366, 7}, {1, 1, 1}},
                             {{2500, 1, 1, 3}, {133, 131, 65, 2}, {1, 1, 1, 1}},
                             {{1501, 1, 1, 3}, {300, 50, 5}, {1, 1, 1}},
                             {{1501, 1, 1, 3}, {300, 2, 290, 5}, {1, 1, 1, 1}},
                             {{5, 9, 9, 12}, {100, 90, 24}, {3, 1, 3}},
                             {{1100, 1, 1, 42}, {257, 240, 33, 64}, {1, 1, 1, 1}},
                             {{128, 1, 1, 1}, {64, 64, 2}, {1, 1, 1}},
                             {{253, 1, 1, 1}, {37, 20, 2}, {1, 1, 1}},
                             {{61, 1, 1, 5}, {50, 33, 20, 1}, {1, 1, 1, 1}},
                             {{32, 1, 1, 8}, {8}, {1}},
                             {{2900, 1, 1, 2}, {37, 2, 64, 7}, {1, 1, 1, 1}},
                             {{96, 2, 2, 6}, {100, 15, 3}, {1, 1, 1}},
                             // One row in the last tile; by blocks with too few pixels for channel blocks.
                             {{3011, 1, 1, 3}, {90, 90, 5}, {1, 1, 1}},
                             {{210, 1, 1, 3}, {1300, 20, 5}, {1, 1, 1}},
                             // The last kernel widens, the first narrows: convolution by convolution.
                             {{4, 24, 24, 6}, {40, 40, 48}, {3, 1, 3}},
                             {{4, 24, 24, 6}, {4, 40, 12}, {3, 1, 3}},
                             {{4, 24, 24, 6}, {4, 8}, {3, 3}}};

template <class T>
struct Chain {
  std::vector<std::vector<T>> w, bias, scale, dw, dbias, dlogs;
  std::vector<StackUnit<T>> units;

  explicit Chain(const ChainCase& c, bool overwrite = false) {
    const size_t count = c.widths.size();
    Shape in = c.in;
    for (auto* v : {&w, &bias, &scale, &dw, &dbias, &dlogs}) v->resize(count);
    for (size_t u = 0; u < count; ++u) {
      StackUnit<T> unit;
      unit.dims.in = in;
      unit.dims.cout = c.widths[u];
      unit.dims.kernel = c.kernels[u];
      unit.dims.edge = c.kernels[u] == 3;
      const double range = 2 / std::sqrt(static_cast<double>(unit.dims.weight_size() / unit.dims.cout));
      const auto fill = [&](std::vector<T>& to, int64_t size, double low, double high) {
        const std::vector<double> v =
            random_values(size, 10 * u + static_cast<uint64_t>(size % 7), low, high);
        to.assign(v.begin(), v.end());
      };
      fill(w[u], unit.dims.weight_size(), -range, range);
      fill(bias[u], c.widths[u], -0.5, 0.5);
      fill(scale[u], c.widths[u], 0.5, 1.5);
      // What is overwritten may hold anything.
      dw[u].assign(w[u].size(), overwrite ? std::numeric_limits<T>::quiet_NaN() : T(0.25));
      dbias[u].assign(bias[u].size(), T(0.25));
      dlogs[u].assign(bias[u].size(), T(0.25));
      unit.w = w[u].data();
      unit.epilogue = {bias[u].data(), c.scales ? scale[u].data() : nullptr, u + 1 < count};
      unit.dw = dw[u].data();
      unit.overwrite = overwrite;
      unit.dbias = dbias[u].data();
      unit.dlogs = c.scales ? dlogs[u].data() : nullptr;
      unit.logs_factor = T(kLogsFactor);
      units.push_back(unit);
      in = in.with_channels(c.widths[u]);
    }
  }
  int count() const { return static_cast<int>(units.size()); }
  Shape output() const { return units.back().dims.in.with_channels(units.back().dims.cout); }
};

template <class T>
double largest_gap(const std::vector<T>& a, const std::vector<T>& b) {
  if (a.size() != b.size()) return HUGE_VAL;
  double gap = 0, size = 1;
  for (size_t i = 0; i < a.size(); ++i) {
    gap = larger(gap, std::abs(static_cast<double>(a[i]) - b[i]));
    size = std::max(size, std::abs(static_cast<double>(b[i])));
  }
  return gap / size;
}

template <class T>
void check_chain(const ChainCase& c, int threads, double bound) {
  CAPTURE(to_string(c.in));
  CAPTURE(threads);
  Context ctx("cpu", threads);
  const KernelSet<T>& kernels = ctx.kernels<T>();
  Chain<T> fused(c), plain(c);
  const int count = fused.count();
  const std::vector<double> values = random_values(c.in.size(), 3, -1, 1);
  const std::vector<T> x(values.begin(), values.end());
  const View<const T> in(x.data(), c.in);

  std::vector<std::vector<T>> outputs;
  View<const T> at = in;
  for (const StackUnit<T>& unit : plain.units) {
    outputs.emplace_back(static_cast<size_t>(unit.dims.in.pixels() * unit.dims.cout));
    const View<T> y(outputs.back().data(), unit.dims.in.with_channels(unit.dims.cout));
    kernels.net.conv_forward(ctx, unit.dims, at, unit.w, unit.epilogue, y);
    at = y;
  }
  std::vector<T> h(static_cast<size_t>(fused.output().size())), kept = h;
  std::vector<T> acts(
      static_cast<size_t>(activation_values(fused.units.data(), count, c.in.pixels(), sizeof(T)) + 1));
  kernels.net.stack_forward(ctx, fused.units.data(), count, false, in, nullptr, {h.data(), fused.output()});
  kernels.net.stack_forward(ctx, fused.units.data(), count, false, in, acts.data(),
                            {kept.data(), fused.output()});
  CHECK(h == outputs.back());  // to the last bit: every sum is in the same order
  CHECK(kept == h);
  for (int64_t column = 0; c.in.c == 1 && column < 2; ++column) {  // one of two features, outputs apart
    CAPTURE(column);
    constexpr T kElsewhere = T(7);
    const int64_t rows = c.in.n, outs = c.widths.back();
    std::vector<T> pairs(x.size() * 2, std::numeric_limits<T>::quiet_NaN()), apart(h), among, expected;
    for (int64_t i = 0; i < rows; ++i) pairs[static_cast<size_t>(2 * i + column)] = x[static_cast<size_t>(i)];
    const View<const T> feature(pairs.data() + column, c.in, 2);
    std::fill(apart.begin(), apart.end(), kElsewhere);
    kernels.net.stack_forward(ctx, fused.units.data(), count, false, feature, nullptr,
                              {apart.data(), fused.output()});
    CHECK(apart == h);
    among.assign(static_cast<size_t>(rows * (outs + 1)), kElsewhere);
    expected = among;
    for (int64_t i = 0; i < rows * outs; ++i) {
      expected[static_cast<size_t>(i / outs * (outs + 1) + i % outs)] = h[static_cast<size_t>(i)];
    }
    kernels.net.stack_forward(ctx, fused.units.data(), count, false, feature, nullptr,
                              {among.data(), fused.output(), outs + 1});
    CHECK(among == expected);
  }

  const std::vector<double> dh_values = random_values(fused.output().size(), 4, -1, 1);
  std::vector<T> dh(dh_values.begin(), dh_values.end()), dx(x.size(), T(0.5)), plain_dx = dx;
  std::vector<T> dy = dh;
  kernels.net.stack_backward(ctx, fused.units.data(), count, false, in, acts.data(),
                             {h.data(), fused.output()}, {dh.data(), fused.output()}, {dx.data(), c.in});
  for (int u = count; u-- > 0;) {
    const StackUnit<T>& unit = plain.units[static_cast<size_t>(u)];
    const Shape out = unit.dims.in.with_channels(unit.dims.cout);
    kernels.net.epilogue_backward(ctx, {outputs[static_cast<size_t>(u)].data(), out}, {dy.data(), out},
                                  unit.epilogue, unit.dbias, unit.dlogs, unit.logs_factor);
    const View<const T> below =
        u ? View<const T>(outputs[static_cast<size_t>(u - 1)].data(), unit.dims.in) : in;
    kernels.net.conv_backward_weights(ctx, unit.dims, below, {dy.data(), out}, unit.dw);
    std::vector<T> dbelow(static_cast<size_t>(unit.dims.in.size()));
    View<T> to(u ? dbelow.data() : plain_dx.data(), unit.dims.in);
    kernels.net.conv_backward_data(ctx, unit.dims, {dy.data(), out}, unit.w, to, u == 0);
    dy = dbelow;
  }
  CHECK(largest_gap(dx, plain_dx) < bound);
  for (size_t u = 0; u < fused.units.size(); ++u) {
    CAPTURE(u);
    CHECK(largest_gap(fused.dw[u], plain.dw[u]) < bound);
    CHECK(largest_gap(fused.dbias[u], plain.dbias[u]) < bound);
    CHECK(largest_gap(fused.dlogs[u], plain.dlogs[u]) < bound);
  }

  Chain<T> replaced(c, true);
  dh.assign(dh_values.begin(), dh_values.end());
  kernels.net.stack_backward(ctx, replaced.units.data(), count, false, in, acts.data(),
                             {h.data(), fused.output()}, {dh.data(), fused.output()}, {});
  for (size_t u = 0; u < fused.units.size(); ++u) {
    CAPTURE(u);
    for (T& value : replaced.dw[u]) value += T(0.25);
    CHECK(largest_gap(replaced.dw[u], plain.dw[u]) < bound);
  }
  CHECK(replaced.dbias == fused.dbias);
  CHECK(replaced.dlogs == fused.dlogs);
}

template <class T>
struct Result {
  std::vector<T> h, dx, dw, dbias, dlogs;  ///< gradients of all units
  bool operator==(const Result& o) const {
    return h == o.h && dx == o.dx && dw == o.dw && dbias == o.dbias && dlogs == o.dlogs;
  }
};

/// On numbers of float32, whatever T. split: by the chains that take them apart, whatever the weights' size.
template <class T>
Result<T> run_chain(const ChainCase& c, bool bf16, int threads, bool split = false, bool overwrite = false) {
  Context ctx("cpu", threads);
  const KernelSet<T>& kernels = ctx.kernels<T>();
  Chain<T> chain(c, overwrite);
  for (auto* tensors : {&chain.w, &chain.bias, &chain.scale}) {
    for (std::vector<T>& tensor : *tensors) {
      for (T& value : tensor) value = static_cast<float>(value);
    }
  }
  const auto rounded = [](const std::vector<double>& from) {
    const std::vector<float> to(from.begin(), from.end());
    return std::vector<T>(to.begin(), to.end());
  };
  const std::vector<T> x = rounded(random_values(c.in.size(), 3, -1, 1));
  const View<const T> in(x.data(), c.in);
  Result<T> r;
  r.h.resize(static_cast<size_t>(chain.output().size()));
  r.dx.assign(x.size(), T(0.5));
  std::vector<T> acts(static_cast<size_t>(
      activation_values(chain.units.data(), chain.count(), c.in.pixels(), bf16 ? 2 : sizeof(T)) + 1));
  const View<T> h(r.h.data(), chain.output());
  std::vector<T> dh = rounded(random_values(chain.output().size(), 4, -1, 1));
  const View<T> dy(dh.data(), chain.output()), dx(r.dx.data(), c.in);
  if constexpr (std::is_same<T, float>::value) {
    if (split) {
      const auto& calls = stacks_amx().split_f32;
      const StackUnit<T>& last = chain.units.back();
      calls.forward(ctx, chain.units.data(), chain.count(), in, acts.data(), h);
      kernels.net.epilogue_backward(ctx, h, dy, last.epilogue, last.dbias, last.dlogs, last.logs_factor);
      calls.backward(ctx, chain.units.data(), chain.count(), in, acts.data(), dy, dx);
    }
  }
  if (!split) {
    kernels.net.stack_forward(ctx, chain.units.data(), chain.count(), bf16, in, acts.data(), h);
    kernels.net.stack_backward(ctx, chain.units.data(), chain.count(), bf16, in, acts.data(), h, dy, dx);
  }
  for (const std::vector<T>& dw : chain.dw) r.dw.insert(r.dw.end(), dw.begin(), dw.end());
  for (const std::vector<T>& v : chain.dbias) r.dbias.insert(r.dbias.end(), v.begin(), v.end());
  for (const std::vector<T>& v : chain.dlogs) r.dlogs.insert(r.dlogs.end(), v.begin(), v.end());
  return r;
}

/// Of one chain, gradients of weights that were stored and such as were added to 0.25.
template <class T>
void check_overwritten(Result<T> stored, const Result<T>& added) {
  for (T& value : stored.dw) value += T(0.25);
  CHECK(largest_gap(stored.dw, added.dw) < 1e-6);
  CHECK(stored.dbias == added.dbias);
  CHECK(stored.dlogs == added.dlogs);
}

template <class T, class U>
double mean_square_gap(const std::vector<T>& a, const std::vector<U>& b) {
  if (a.size() != b.size()) return HUGE_VAL;
  double gap = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    gap += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    size += static_cast<double>(b[i]) * b[i];
  }
  return std::sqrt(gap / size);
}

}  // namespace

TEST_CASE("a chain of convolutions equals its parts, float64") {
  for (const ChainCase& c : kChains) {
    check_chain<double>(c, 1, 1e-12);
    check_chain<double>(c, 3, 1e-12);
    if (c.dense()) check_chain<double>(c.plain(), 2, 1e-12);
  }
}

TEST_CASE("a chain of convolutions equals its parts, float32") {
  const IsaChoice restored;
  // AMX takes numbers apart in chains alone.
  if (best_isa(IsaLevel::best) == IsaLevel::amx) IsaChoice::set("avx512");
  for (const ChainCase& c : kChains) {
    check_chain<float>(c, 1, 2e-5);
    check_chain<float>(c, 2, 2e-5);
    if (c.dense()) check_chain<float>(c.plain(), 3, 2e-5);
  }
}

template <class T>
void check_threads(const ChainCase& c, bool bf16, bool split = false) {
  CAPTURE(bf16);
  CAPTURE(split);
  const Result<T> one = run_chain<T>(c, bf16, 1, split);
  for (const int threads : {2, 3, 5}) {
    CAPTURE(threads);
    CHECK(run_chain<T>(c, bf16, threads, split) == one);
  }
}

TEST_CASE("threads change no bit of a chain that goes by blocks and runs of pixels") {
  // Several runs for any number of threads here, the last one shorter; then one that is no longer than a run.
  const ChainCase large[] = {{{9, 15, 15, 6}, {70, 66, 12}, {3, 1, 3}},
                             {{2500, 1, 1, 3}, {133, 131, 65, 2}, {1, 1, 1, 1}},
                             {{6, 8, 8, 24}, {240, 200, 48}, {3, 1, 3}}};
  const bool split = best_isa(IsaLevel::amx) == IsaLevel::amx;
  for (const ChainCase& c : large) {
    CAPTURE(to_string(c.in));
    check_threads<double>(c, false);
    check_threads<float>(c, false);
    check_threads<float>(c, true);
    if (split) check_threads<float>(c, false, true);
  }
}

TEST_CASE("threads that add up columns of one chain do not disturb each other") {
  const IsaChoice restored;
  if (best_isa(IsaLevel::best) == IsaLevel::amx) IsaChoice::set("avx512");  // as above
  for (int i = 0; i < 5; ++i) check_chain<float>({{4, 24, 24, 6}, {64, 32, 8}, {3, 3, 3}}, 3, 1e-4);
}

TEST_CASE("NaN in a small net stays where it is") {
  for (const std::vector<int64_t>& widths : {std::vector<int64_t>{64, 64, 3}, {64, 64, 2}, {5, 3}}) {
    Context ctx("cpu", 1);
    const ChainCase c{{64, 1, 1, 3}, widths, std::vector<int>(widths.size(), 1), false};
    Chain<float> chain(c);
    std::vector<float> x(64 * 3, 0.5f), h(static_cast<size_t>(chain.output().size()));
    x[3 * 5 + 1] = std::nanf("");
    ctx.kernels<float>().net.stack_forward(ctx, chain.units.data(), chain.count(), false, {x.data(), c.in},
                                           nullptr, {h.data(), chain.output()});
    for (int64_t i = 0; i < 64; ++i) CHECK(std::isnan(h[static_cast<size_t>(i * widths.back())]) == (i == 5));
  }
}

TEST_CASE("bfloat16 chains stay near float32, and threads change no bit") {
  for (const ChainCase& c : kChains) {
    CAPTURE(to_string(c.in));
    const Result<float> exact = run_chain<float>(c, false, 1), bf16 = run_chain<float>(c, true, 1);
    CHECK(mean_square_gap(bf16.h, exact.h) < 1e-2);
    CHECK(mean_square_gap(bf16.h, exact.h) > 1e-5);  // something was rounded
    // A share of about 2^-8 of the units, those nearest to zero, fire in one and not in the other, and each
    // carries its whole gradient: sqrt(2^-8) = 6 %.
    CHECK(mean_square_gap(bf16.dx, exact.dx) < 0.1);
    CHECK(mean_square_gap(bf16.dw, exact.dw) < 0.1);
    CHECK(run_chain<float>(c, true, 2) == bf16);
  }
}

TEST_CASE("products of pairs of bfloat16 numbers equal those widened to float32") {
  std::vector<const char*> sets;
  if (best_isa(IsaLevel::avx512_bf16) == IsaLevel::avx512_bf16) sets.push_back("avx512_bf16");
  if (best_isa(IsaLevel::amx) == IsaLevel::amx) sets.push_back("amx");
  if (sets.empty()) {
    MESSAGE("nothing compared: this machine has no products of pairs");
    return;
  }
  const IsaChoice restored;
  for (const ChainCase& c : kChains) {
    CAPTURE(to_string(c.in));
    IsaChoice::set("avx512");
    const Result<float> widened = run_chain<float>(c, true, 2);
    for (const char* isa : sets) {
      CAPTURE(isa);
      IsaChoice::set(isa);
      const Result<float> pairs = run_chain<float>(c, true, 2);
      // Sums in another order may round an activation to the neighbouring bfloat16 number.
      CHECK(mean_square_gap(pairs.h, widened.h) < 2e-4);
      CHECK(mean_square_gap(pairs.dx, widened.dx) < 5e-3);
      CHECK(mean_square_gap(pairs.dw, widened.dw) < 5e-3);
      check_overwritten(run_chain<float>(c, true, 2, false, true), pairs);
    }
  }
}

TEST_CASE("float32 by three bfloat16 parts is as exact as by its own instructions") {
  if (best_isa(IsaLevel::amx) != IsaLevel::amx) {
    MESSAGE("nothing compared: this machine has no AMX");
    return;
  }
  const IsaChoice restored;
  for (const ChainCase& c : kChains) {
    CAPTURE(to_string(c.in));
    const Result<double> exact = run_chain<double>(c, false, 2);
    IsaChoice::set("avx512");
    const Result<float> own = run_chain<float>(c, false, 2);
    const Result<float> parts = run_chain<float>(c, false, 2, true);
    // What is left out, 2^-24 of the whole on average, is as much as sums of few products lose by rounding.
    int64_t longest = 0;
    for (const StackUnit<float>& unit : Chain<float>(c).units)
      longest = std::max(longest, unit.dims.taps() * unit.dims.weight_rows());
    const auto bound = [&](double times, double own_gap) {
      return longest > 64 ? times * own_gap : std::max(times * own_gap, 4 * 0x1p-24);
    };
    CHECK(mean_square_gap(parts.h, exact.h) < bound(1.5, mean_square_gap(own.h, exact.h)));
    CHECK(mean_square_gap(parts.dx, exact.dx) < bound(1.5, mean_square_gap(own.dx, exact.dx)));
    CHECK(mean_square_gap(parts.dw, exact.dw) < bound(2, mean_square_gap(own.dw, exact.dw)));
    CHECK(run_chain<float>(c, false, 1, true) == parts);
    check_overwritten(run_chain<float>(c, false, 2, true, true), parts);
  }
}

TEST_CASE("a row of a dense chain has the same bits in any batch") {
  Context ctx("cpu", 2);
  const KernelSet<float>& kernels = ctx.kernels<float>();
  for (const ChainCase& c : {kChains[3], kChains[5], kChains[7], kChains[13].plain(), kChains[14].plain(),
                             kChains[15].plain(), kChains[17], kChains[17].plain()}) {
    CAPTURE(to_string(c.in));
    for (const double size : {1.0, 1e-19, 1e17}) {
      Chain<float> all(c), one({{1, 1, 1, c.in.c}, c.widths, c.kernels, c.scales});
      for (Chain<float>* chain : {&all, &one}) {
        for (std::vector<float>& bias : chain->bias) std::fill(bias.begin(), bias.end(), 0.0f);
      }
      const std::vector<double> values = random_values(c.in.size(), 3, -size, size);
      const std::vector<float> x(values.begin(), values.end());
      std::vector<float> h(static_cast<size_t>(all.output().size())),
          alone(static_cast<size_t>(c.widths.back()));
      kernels.net.stack_forward(ctx, all.units.data(), all.count(), false, {x.data(), c.in}, nullptr,
                                {h.data(), all.output()});
      for (const int64_t row : {int64_t{0}, c.in.n - 1}) {
        kernels.net.stack_forward(ctx, one.units.data(), one.count(), false,
                                  {x.data() + row * c.in.c, {1, 1, 1, c.in.c}}, nullptr,
                                  {alone.data(), one.output()});
        CHECK(std::equal(alone.begin(), alone.end(), h.begin() + row * c.widths.back()));
      }
    }
  }
}

TEST_CASE("rounding to bfloat16") {
  const auto bits = [](float x) { return to_bf16(x).bits; };
  CHECK(bits(1.0f) == 0x3f80);
  CHECK(bits(1.00390625f) == 0x3f80);  // halfway to the next: to even
  CHECK(bits(1.01171875f) == 0x3f82);  // halfway: to even, upwards
  CHECK(bits(1.00391f) == 0x3f81);     // above halfway
  CHECK(bits(-0.0f) == 0x8000);
  CHECK(bits(3.4e38f) == 0x7f80);  // overflows to infinity
  CHECK(std::isnan(to_float(to_bf16(std::nanf("")))));
  for (const float x : {1e-40f, -2.5f, 1.17549435e-38f, 12345.678f}) {
    CHECK(std::abs(to_float(to_bf16(x)) - x) <= std::abs(x) / 256 + 1e-40f);
  }
}

}  // namespace test
}  // namespace evenflow
