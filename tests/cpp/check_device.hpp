#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "check_layer.hpp"
#include "emulator.hpp"

// The emulated device beside the CPU, or the real one that EVENFLOW_TEST_DEVICE names: for the cases of the
// suite "any device", which ask the emulator nothing.

namespace evenflow::test {

/// The largest error, relative to what is wanted where that is more than one.
template <class T>
double gap(const std::vector<T>& got, const std::vector<T>& wanted) {
  if (got.size() != wanted.size()) return HUGE_VAL;
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double truth = static_cast<double>(wanted[i]);
    worst = larger(worst, std::abs(static_cast<double>(got[i]) - truth) / std::max(1.0, std::abs(truth)));
  }
  return worst;
}

template <class T>
std::vector<T> random_of(int64_t n, uint64_t seed, double low = -1, double high = 1) {
  const std::vector<double> v = random_values(n, seed, low, high);
  return std::vector<T>(v.begin(), v.end());
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

/// Two levels of a step each, of images 4 x 4 x 2.
inline GlowConfig small_glow() {
  GlowConfig g;
  g.shape = {0, 4, 4, 2};
  g.levels = 2;
  g.steps = 1;
  g.hidden = 6;
  return g;
}

/// Rows of six columns.
inline NiceConfig small_nice() {
  NiceConfig n;
  n.shape = {0, 1, 1, 6};
  n.hidden = {9};
  return n;
}

/// run(ctx) on the CPU and on the emulated device in every order, or on the real one twice: near the CPU's,
/// and the same bits.
template <class T>
void check_same(double bound, const std::function<std::vector<T>(Context&, const std::string&)>& run) {
  Context cpu("cpu", 1);
  const std::vector<T> wanted = run(cpu, "cpu");
  std::vector<T> first;
  if (const char* name = std::getenv("EVENFLOW_TEST_DEVICE")) {
    for (int again = 0; again < 2; ++again) {
      Context device(name);
      const std::vector<T> got = run(device, name);
      if (!again) first = got;
      CHECK(gap(got, wanted) <= bound);
      CHECK(same_bits(got, first));
    }
    return;
  }
  install_emulator();
  for (const Emulator::Order order : kOrders) {
    Emulator::get().order = order;
    {
      Context device("emulated");
      const std::vector<T> got = run(device, "emulated");
      if (order == Emulator::ascending) {
        CHECK(gap(got, wanted) <= bound);
        first = got;
      }
      CHECK(same_bits(got, first));
    }
    CHECK(Emulator::get().live() == 0);  // all memory came back
  }
  Emulator::get().order = Emulator::ascending;
}

template <class T>
void append(std::vector<T>& to, const std::vector<T>& from) {
  to.insert(to.end(), from.begin(), from.end());
}
template <class T>
void append_doubles(std::vector<T>& to, const std::vector<double>& from) {
  for (const double v : from) to.push_back(static_cast<T>(v));
}

/// How an array lies in memory: numbers before it, and between its rows.
struct Place {
  int64_t before;
  int64_t between;
};
// Next to each other; apart, and beginning at a line of memory or not; a stride alone.
constexpr Place kPlaces[] = {{0, 0}, {4, 8}, {1, 4}, {0, 3}};

/// A view into an array of its own, with what lies around it.
template <class T>
struct Placed {
  View<T> view;
  T* all;
  int64_t size;

  Placed(Arrays& a, const Shape& shape, const Place& place, uint64_t seed, double low = -1, double high = 1) {
    const int64_t stride = shape.c + place.between;
    size = place.before + shape.pixels() * stride;
    all = a.put(random_of<T>(size, seed, low, high));
    view = View<T>(all + place.before, shape, stride);
  }
};

template <class T>
void append_all(std::vector<T>& to, Arrays& a, const std::vector<Placed<T>>& from) {
  for (const Placed<T>& p : from) append(to, a.get(p.all, p.size));
}

}  // namespace evenflow::test
