#pragma once

#include "kernels/coupling/laws/fixed.hpp"
#include "kernels/ops/checkerboard.hpp"
#include "kernels/ops/functor.hpp"
#include "kernels/ops/math.hpp"

// How a law is applied to the values of an array, in either direction, and the gradients of both.

namespace evenflow::ops {

/// Where a coupling's values and their numbers are. Rows are pixels.
struct CouplingMap {
  int64_t width = 1;  ///< pixels in a line of the image
  int64_t height = 1;
  int64_t value_step = 1;   ///< in h, from a value's first number to the next value's
  int64_t number_step = 1;  ///< in h, from a value's number to its next one
  int parity = -1;          ///< checkerboards: (i + j) % 2 of changed pixels; -1: every pixel

  EVENFLOW_INLINE bool active(int64_t row) const {
    return parity < 0 || on_parity(row, width, height, parity);
  }

  /// Whose pixel that is. A division takes as long as the rest of a row.
  EVENFLOW_INLINE int64_t sample(int64_t row) const {
    const int64_t pixels = width * height;
    return pixels == 1 ? row : row / pixels;
  }
};

/// Rows of numbers, `stride` apart.
template <class T>
struct Rows {
  T* data;
  int64_t stride;
  EVENFLOW_INLINE T* at(int64_t row, int64_t c) const { return data + row * stride + c; }
};

/// What a law reads of a value's numbers, which are `step` apart.
template <class V>
struct ReadNumbers {
  const Element<V>* first;
  int64_t step;
  const Element<V>* all;  ///< what all values share
  EVENFLOW_INLINE V operator()(int i) const { return loaded<V>(first + i * step); }
  EVENFLOW_INLINE V shared(int i) const { return V(all[i]); }
};

/// Where a law's gradients of them go: 0 for values that do not change.
template <class V>
struct WriteNumbers {
  Element<V>* first;
  int64_t step;
  V active;
  EVENFLOW_INLINE void operator()(int i, V value) const {
    keep(select(active > V(0), value, V(0)), first + i * step);
  }
};

struct IgnoreNumbers {
  template <class V>
  EVENFLOW_INLINE void operator()(int, V) const {}
};

/// What all maps of a coupling's values have (see ops/functor.hpp for maps). Their groups are samples.
template <class T, class Law>
struct CouplingValues {
  CouplingMap map;
  Law law;
  Rows<const T> h;
  const T* shared_at[Law::shared + 1];  ///< null: the default
  T shared[Law::shared + 1];

  EVENFLOW_INLINE void prepare() {
    for (int i = 0; i < Law::shared; ++i) {
      if (shared_at[i]) shared[i] = *shared_at[i];
    }
  }

  EVENFLOW_INLINE ReadNumbers<T> numbers(int64_t row, int64_t c) const {
    return {h.at(row, c * map.value_step), map.number_step, shared};
  }
  template <class Gather>
  EVENFLOW_INLINE void load_numbers(const Run& run, T* in, int64_t room, const Gather& gather) const {
    for (int i = 0; i < law.parameters(); ++i) {
      gather(run, h.data + i * map.number_step, h.stride, map.value_step, in + i * room);
    }
  }
  template <class Gather>
  EVENFLOW_INLINE void load_active(const Run& run, T* in, const Gather& gather) const {
    const T all = T(1);
    if (map.parity < 0) return gather(run, &all, 0, 0, in);
    load_by_row(run, [&](int64_t row) { return map.active(row) ? T(1) : T(0); }, in, gather);
  }
  /// Values of rows, one for each element of a run.
  template <class Value, class Gather>
  EVENFLOW_INLINE static void load_by_row(const Run& run, const Value& value, T* to, const Gather& gather) {
    T values[Run::kMost];
    const int64_t rows = (run.col + run.count + run.cols - 1) / run.cols;
    for (int64_t i = 0; i < rows; ++i) values[i] = value(run.row + i);
    gather(Run{0, run.col, run.cols, run.count}, values, 1, 0, to);
  }
};

/// x -> y, or y -> x with inverse; sums: log |d out / d in|.
template <class T, class Law, bool inverse>
struct CouplingApply : CouplingValues<T, Law> {
  static constexpr int sums = 1;
  Rows<const T> from;
  Rows<T> to;

  template <class V, class P>
  EVENFLOW_INLINE V apply(V value, V active, const P& p, V* sum) const {
    const auto on = active > V(0);
    if constexpr (inverse) {
      const auto at = this->law.at_output(value, p);
      *sum = select(on, -at.log, V(0));
      return select(on, at.x, value);
    } else {
      const auto at = this->law.at_input(value, p);
      *sum = select(on, at.log, V(0));
      return select(on, at.y, value);
    }
  }

  EVENFLOW_INLINE void element(int64_t row, int64_t c, T* sum) const {
    const T active = this->map.active(row) ? T(1) : T(0);
    *to.at(row, c) = apply(*from.at(row, c), active, this->numbers(row, c), sum);
  }

  EVENFLOW_INLINE int inputs() const { return 2 + this->law.parameters(); }
  EVENFLOW_INLINE int outputs() const { return 1; }
  template <class Gather>
  EVENFLOW_INLINE void load_run(const Run& run, T* in, int64_t room, const Gather& gather) const {
    gather(run, from.data, from.stride, 1, in);
    this->load_active(run, in + room, gather);
    this->load_numbers(run, in + 2 * room, room, gather);
  }
  template <class V>
  EVENFLOW_INLINE void compute(const T* in, T* out, T* sum, int64_t room) const {
    V log;
    const ReadNumbers<V> p{in + 2 * room, room, this->shared};
    keep(apply(loaded<V>(in), loaded<V>(in + room), p, &log), out);
    keep(log, sum);
  }
  template <class Scatter>
  EVENFLOW_INLINE void store_run(const Run& run, const T* out, int64_t, const Scatter& scatter) const {
    scatter(run, out, to.data, to.stride, 1);
  }
};

/// From the outputs of CouplingApply and the gradients by them and by its log-slopes, its inputs and the
/// gradients by these and by the numbers; sums: the gradients by the shared numbers. known: `to` holds the
/// inputs already, and stays.
template <class T, class Law, bool inverse, bool known>
struct CouplingBackward : CouplingValues<T, Law> {
  static constexpr int sums = Law::shared;
  Rows<const T> from;
  Rows<const T> dfrom;
  const double* dlogdet;
  Rows<T> to;
  Rows<T> dto;
  Rows<T> dh;

  /// Of each value's numbers, how many get gradients.
  EVENFLOW_INLINE int gradients() const {
    return std::is_base_of<laws::FixedLaw, Law>::value ? 0 : this->law.parameters();
  }

  /// The point of the law from the side where the inputs are, if they are known; else from the other side.
  template <class V, class P>
  EVENFLOW_INLINE auto point(V value, [[maybe_unused]] V input, const P& p) const {
    if constexpr (known == inverse) {
      return this->law.at_output(known ? input : value, p);
    } else {
      return this->law.at_input(known ? input : value, p);
    }
  }

  template <class V, class P, class DP>
  EVENFLOW_INLINE V apply(V value, V input, V active, V d, V dlog, const P& p, const DP& dp, V* dvalue,
                          V* sum) const {
    const auto on = active > V(0);
    V dshared[Law::shared + 1];
    V result, dresult;
    if constexpr (inverse) {
      // Of the inverse x(y, p): its slope is 1 / slope, and its log-slope -log moves with y as x does.
      const auto at = point(value, input, p);
      const V bend = this->law.backward(at, p, V(0), -dlog, IgnoreNumbers(), dshared);
      dresult = (d + bend) / at.slope;
      this->law.backward(at, p, -dresult, -dlog, dp, dshared);
      result = at.y;
    } else {
      const auto at = point(value, input, p);
      dresult = this->law.backward(at, p, d, dlog, dp, dshared);
      result = at.x;
    }
    for (int i = 0; i < Law::shared; ++i) sum[i] = select(on, dshared[i], V(0));
    *dvalue = select(on, dresult, d);
    return select(on, result, value);
  }

  EVENFLOW_INLINE void element(int64_t row, int64_t c, T* sum) const {
    const T active = this->map.active(row) ? T(1) : T(0);
    const WriteNumbers<T> dp{dh.at(row, c * this->map.value_step), this->map.number_step, active};
    T dvalue;
    *to.at(row, c) =
        apply(*from.at(row, c), known ? *to.at(row, c) : T(0), active, *dfrom.at(row, c),
              static_cast<T>(dlogdet[this->map.sample(row)]), this->numbers(row, c), dp, &dvalue, sum);
    *dto.at(row, c) = dvalue;
  }

  EVENFLOW_INLINE int inputs() const { return 4 + known + this->law.parameters(); }
  EVENFLOW_INLINE int outputs() const { return 2 + gradients(); }
  template <class Gather>
  EVENFLOW_INLINE void load_run(const Run& run, T* in, int64_t room, const Gather& gather) const {
    gather(run, from.data, from.stride, 1, in);
    this->load_active(run, in + room, gather);
    gather(run, dfrom.data, dfrom.stride, 1, in + 2 * room);
    if (this->map.width * this->map.height == 1) {
      gather(run, dlogdet, 1, 0, in + 3 * room);
    } else {
      this->load_by_row(
          run, [&](int64_t row) { return static_cast<T>(dlogdet[this->map.sample(row)]); }, in + 3 * room,
          gather);
    }
    if constexpr (known) gather(run, to.data, to.stride, 1, in + 4 * room);
    this->load_numbers(run, in + (4 + known) * room, room, gather);
  }
  template <class V>
  EVENFLOW_INLINE void compute(const T* in, T* out, T* sum, int64_t room) const {
    V dvalue, dshared[Law::shared + 1];
    const V active = loaded<V>(in + room);
    const ReadNumbers<V> p{in + (4 + known) * room, room, this->shared};
    const WriteNumbers<V> dp{out + 2 * room, room, active};
    keep(apply(loaded<V>(in), known ? loaded<V>(in + 4 * room) : V(0), active, loaded<V>(in + 2 * room),
               loaded<V>(in + 3 * room), p, dp, &dvalue, dshared),
         out);
    keep(dvalue, out + room);
    for (int i = 0; i < Law::shared; ++i) keep(dshared[i], sum + i * room);
  }
  template <class Scatter>
  EVENFLOW_INLINE void store_run(const Run& run, const T* out, int64_t room, const Scatter& scatter) const {
    scatter(run, out, to.data, to.stride, 1);
    scatter(run, out + room, dto.data, dto.stride, 1);
    for (int i = 0; i < gradients(); ++i) {
      scatter(run, out + (2 + i) * room, dh.data + i * this->map.number_step, dh.stride,
              this->map.value_step);
    }
  }
};

/// Gradients by shared numbers, from sums of a sample or of many.
template <class T, int n>
struct AddShared {
  static constexpr int sums = n;
  T* to[n];  ///< null: not wanted
  EVENFLOW_INLINE void operator()(int64_t, const double* sum, int64_t step) const {
    for (int i = 0; i < n; ++i) {
      if (to[i]) *to[i] += static_cast<T>(sum[i * step]);
    }
  }
};

}  // namespace evenflow::ops
