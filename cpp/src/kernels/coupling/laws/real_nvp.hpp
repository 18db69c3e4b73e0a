#pragma once

#include "kernels/coupling/laws/linear.hpp"

namespace evenflow::ops::laws {

/// y = (x + t) exp(g tanh r + g'), with the gain g and the offset g' shared by all values of a layer (Dinh,
/// Sohl-Dickstein and Bengio 2016, official code).
struct RealNvp {
  static constexpr const char* name = "real_nvp";
  static constexpr bool for_tables = false;
  static constexpr int shared = 2;
  static constexpr const char* shared_names[] = {"gain", "offset"};
  static constexpr double shared_defaults[] = {1, 0};
  EVENFLOW_INLINE int parameters() const { return 2; }

  template <class V>
  struct Point {
    V x, y, log, slope;
    V ds_dr, tanh;
  };

  template <class V, class P>
  EVENFLOW_INLINE Point<V> at_input(V x, const P& p) const {
    const V h = tanh(p(1)), s = p.shared(0) * h + p.shared(1), e = exp(s);
    return {x, (x + p(0)) * e, s, e, p.shared(0) * (1 - h * h), h};
  }
  template <class V, class P>
  EVENFLOW_INLINE Point<V> at_output(V y, const P& p) const {
    const V h = tanh(p(1)), s = p.shared(0) * h + p.shared(1), e = exp(s);
    return {y / e - p(0), y, s, e, p.shared(0) * (1 - h * h), h};
  }
  template <class V, class P, class DP>
  EVENFLOW_INLINE V backward(const Point<V>& at, const P&, V dy, V dlog, const DP& dp, V* dshared) const {
    const V dx = dy * at.slope, ds = dy * at.y + dlog;
    dp(0, dx);
    dp(1, ds * at.ds_dr);
    dshared[0] = ds * at.tanh;
    dshared[1] = ds;
    return dx;
  }
};

}  // namespace evenflow::ops::laws
