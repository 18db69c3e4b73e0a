#pragma once

#include <type_traits>

namespace evenflow::ops {

/// Calls f with the flag as a type, by which a functor can be chosen.
template <class F>
[[gnu::always_inline]] inline void with_flag(bool flag, const F& f) {
  if (flag) return f(std::true_type());
  f(std::false_type());
}

}  // namespace evenflow::ops
