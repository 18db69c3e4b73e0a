#pragma once

#include <cmath>

#include "evenflow/error.hpp"
#include "evenflow/layers.hpp"
#include "kernels/ops/math.hpp"

namespace evenflow::ops::laws {

/// Monotone rational-quadratic spline (Durkan, Bekasov, Murray and Papamakarios 2019): `bins` bins on
/// [low, high] in x and in y, outside of which y = x. A value's numbers are raw widths and heights of the
/// bins (a softmax makes shares of them), then raw slopes at the knots between bins (a softplus makes them
/// positive); with free ends also at `low` and `high`, where the slope is 1 otherwise.
struct Spline {
  static constexpr const char* name = "spline";
  static constexpr bool for_tables = true;
  static constexpr int shared = 0;
  static constexpr int most_bins = static_cast<int>(LawOptions::kMostBins);
  static constexpr double least = 1e-3;                     ///< share of a bin, and slope at a knot
  static constexpr double unit_slope = 0.5397424172369522;  ///< raw: least + softplus of it is 1

  int bins = 8;
  double low = -4, high = 4;
  bool free_ends = false;

  Spline() = default;
  explicit Spline(const LawOptions& options)
      : bins(static_cast<int>(options.bins)),
        low(options.unit_interval ? 0 : -options.bound),
        high(options.unit_interval ? 1 : options.bound),
        free_ends(options.unit_interval) {
    if (options.bins < 1 || options.bins > most_bins) {
      fail<ConfigError>("spline", "expected bins in 1 ... ", most_bins, ", got ", options.bins);
    }
    if (!(high > 0) || !std::isfinite(high)) {
      fail<ConfigError>("spline", "expected a positive, finite bound, got ", options.bound);
    }
  }

  EVENFLOW_INLINE int parameters() const { return 3 * bins + (free_ends ? 1 : -1); }

  /// Shares of the bins along x or y.
  template <class V>
  struct Shares {
    V exps[most_bins];
    V total;
    V before, own;  ///< sum of exps before the bin of the point, and the bin's

    /// `raw`: the first number's place.
    template <class P>
    EVENFLOW_INLINE Shares(const P& p, int raw, int bins) : total(0), before(0), own(0) {
      V most = p(raw);
      for (int k = 1; k < bins; ++k) most = max_of(most, V(p(raw + k)));
      for (int k = 0; k < bins; ++k) {
        exps[k] = exp(p(raw + k) - most);
        total = total + exps[k];
      }
    }
  };

  template <class V>
  struct Point {
    V x, y, log, slope;
    V inside;                 ///< 1, or 0 where y = x
    V theta;                  ///< place in the bin, 0 to 1
    V bin;                    ///< its number
    V width, height, d0, d1;  ///< the bin's sizes and the slopes at its ends
    V raw0, raw1;             ///< raw slopes
    Shares<V> widths, heights;
  };

  template <class V, class P>
  EVENFLOW_INLINE Point<V> at_input(V x, const P& p) const {
    const V within = in_box(x);
    V left, bottom;
    Point<V> at = find<true>(x, within, p, left, bottom);
    at.theta = min_of(max_of((within - left) / at.width, V(0)), V(1));
    finish(at);
    at.x = x;
    at.y = select(at.inside > V(0), in_box(bottom + at.height * ratio(at)), x);
    return at;
  }

  template <class V, class P>
  EVENFLOW_INLINE Point<V> at_output(V y, const P& p) const {
    const V within = in_box(y);
    V left, bottom;
    Point<V> at = find<false>(y, within, p, left, bottom);
    // r D = N is a quadratic equation of theta; its root without cancellation.
    const V s = at.height / at.width, r = (within - bottom) / at.height, t = at.d0 + at.d1 - 2 * s;
    const V a = s - at.d0 + r * t, b = at.d0 - r * t, c = -s * r;
    const V root = sqrt(max_of(b * b - 4 * a * c, V(0)));
    const V theta = select(b >= V(0), 2 * c / (-b - root), (root - b) / (2 * a));
    at.theta = min_of(max_of(theta, V(0)), V(1));
    finish(at);
    at.y = y;
    at.x = select(at.inside > V(0), in_box(left + at.width * at.theta), y);
    return at;
  }

  template <class V, class P, class DP>
  EVENFLOW_INLINE V backward(const Point<V>& at, const P&, V dy, V dlog, const DP& dp, V*) const {
    const V gy = dy * at.inside, gl = dlog * at.inside;
    const V th = at.theta, back = 1 - th, u = th * back, bend = 1 - 2 * th;
    const V s = at.height / at.width, t = at.d0 + at.d1 - 2 * s;
    const V n = s * th * th + at.d0 * u, d = s + t * u;
    const V m = at.d1 * th * th + 2 * s * u + at.d0 * back * back;
    const V per_d = 1 / d, per_m = 1 / m, ratio = n * per_d;
    // y = bottom + height N / D and log slope = log(s^2 M / D^2), by theta, s, d0 and d1.
    const V gr = gy * at.height * per_d, gm = gl * per_m, gd = gr * ratio + 2 * gl * per_d;
    const V by_theta = gy * at.slope * at.width + gm * (2 * (at.d1 * th + s * bend - at.d0 * back)) -
                       2 * gl * per_d * t * bend;
    const V by_s = gr * th * th + 2 * gm * u - gd * (1 - 2 * u) + 2 * gl / s;
    const V by_d0 = gr * u + gm * back * back - gd * u, by_d1 = gm * th * th - gd * u;
    // theta = (x - left) / width and s = height / width.
    const V dx = by_theta / at.width;
    const V by_height = gy * ratio + by_s / at.width, by_width = -(by_s * s + by_theta * th) / at.width;
    share_gradients(at.widths, at.bin, -dx, by_width, 0, dp);
    share_gradients(at.heights, at.bin, gy, by_height, bins, dp);
    const V raw0 = by_d0 * sigmoid(at.raw0), raw1 = by_d1 * sigmoid(at.raw1);
    const int first = free_ends ? 0 : 1, slopes = parameters() - 2 * bins;
    for (int j = 0; j < slopes; ++j) {
      const V knot = V(Element<V>(j + first));
      dp(2 * bins + j, select(knot == at.bin, raw0, select(knot == at.bin + 1, raw1, V(0))));
    }
    return select(at.inside > V(0), dx, dy);
  }

 private:
  /// Rounding must not take a value out of the box, outside of which another formula holds.
  template <class V>
  EVENFLOW_INLINE V in_box(V value) const {
    using E = Element<V>;
    return min_of(max_of(value, V(E(low))), V(E(high)));
  }

  /// The bin that holds `within` along x, or along y; `left` and `bottom` are its corner.
  template <bool along_x, class V, class P>
  EVENFLOW_INLINE Point<V> find(V value, V within, const P& p, V& left, V& bottom) const {
    using E = Element<V>;
    const E floor = E(least * (high - low)), rest = E((1 - least * bins) * (high - low));
    Shares<V> widths(p, 0, bins), heights(p, bins, bins);
    const V per_width = rest / widths.total, per_height = rest / heights.total;
    const V one = V(1), zero = V(0);
    V x0 = V(E(low)), y0 = V(E(low)), sum_x = zero, sum_y = zero;
    V raw0 = free_ends ? V(p(2 * bins)) : V(E(unit_slope));
    left = x0;
    bottom = y0;
    Point<V> at{zero, zero, zero, one, zero, zero, zero, one, one, one, one, zero, zero, widths, heights};
    for (int k = 0; k < bins; ++k) {
      const bool last = k + 1 == bins;
      const V next_x = sum_x + widths.exps[k], next_y = sum_y + heights.exps[k];
      const V x1 = last ? V(E(high)) : E(low) + floor * E(k + 1) + per_width * next_x;
      const V y1 = last ? V(E(high)) : E(low) + floor * E(k + 1) + per_height * next_y;
      const V raw1 = free_ends ? V(p(2 * bins + k + 1)) : last ? V(E(unit_slope)) : V(p(2 * bins + k));
      const auto here = within >= (along_x ? x0 : y0);
      left = select(here, x0, left);
      bottom = select(here, y0, bottom);
      at.width = select(here, x1 - x0, at.width);
      at.height = select(here, y1 - y0, at.height);
      at.raw0 = select(here, raw0, at.raw0);
      at.raw1 = select(here, raw1, at.raw1);
      at.bin = select(here, V(E(k)), at.bin);
      at.widths.before = select(here, sum_x, at.widths.before);
      at.widths.own = select(here, widths.exps[k], at.widths.own);
      at.heights.before = select(here, sum_y, at.heights.before);
      at.heights.own = select(here, heights.exps[k], at.heights.own);
      x0 = x1;
      y0 = y1;
      sum_x = next_x;
      sum_y = next_y;
      raw0 = raw1;
    }
    at.d0 = E(least) + softplus(at.raw0);
    at.d1 = E(least) + softplus(at.raw1);
    at.inside = select(value >= V(E(low)), one, zero) * select(value <= V(E(high)), one, zero);
    return at;
  }

  /// N / D: the way up in the bin, 0 to 1.
  template <class V>
  EVENFLOW_INLINE static V ratio(const Point<V>& at) {
    const V s = at.height / at.width, u = at.theta * (1 - at.theta);
    return (s * at.theta * at.theta + at.d0 * u) / (s + (at.d0 + at.d1 - 2 * s) * u);
  }

  /// The slope, from theta.
  template <class V>
  EVENFLOW_INLINE static void finish(Point<V>& at) {
    const V s = at.height / at.width, th = at.theta, back = 1 - th, u = th * back;
    const V part = s / (s + (at.d0 + at.d1 - 2 * s) * u);
    const V slope = part * part * (at.d1 * th * th + 2 * s * u + at.d0 * back * back);
    at.slope = select(at.inside > V(0), slope, V(1));
    at.log = log(at.slope);
  }

  /// From gradients by the bin's first edge and by its size, those of the raw numbers of all bins.
  template <class V, class DP>
  EVENFLOW_INLINE void share_gradients(const Shares<V>& of, V bin, V by_edge, V by_size, int raw,
                                       const DP& dp) const {
    using E = Element<V>;
    const V unit = E((1 - least * bins) * (high - low)) / of.total;
    const V mean = (by_edge * of.before + by_size * of.own) / of.total;
    for (int k = 0; k < bins; ++k) {
      const V number = V(E(k));
      const V by_share = select(number < bin, by_edge, select(number == bin, by_size, V(0)));
      dp(raw + k, unit * of.exps[k] * (by_share - mean));
    }
  }
};

}  // namespace evenflow::ops::laws
