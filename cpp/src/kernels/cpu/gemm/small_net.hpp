#pragma once

#include "kernels/cpu/gemm/row_strips.hpp"
#include "kernels/cpu/gemm/rows.hpp"

// A dense net with few weights. Activations are (channels, samples), so vectors run along samples. Each
// layer's output is the next layer's input without copying, weights are read in place, and a layer with one
// or two outputs still fills vectors.

namespace evenflow::gemm {

/// c = act(sums + bias), with one bias per row.
template <class T>
struct ActivateRows {
  T* c;
  int64_t ldc;
  const T* bias;
  T least;  ///< smallest result: 0 for ReLU, else -infinity
  template <class Isa>
  EVENFLOW_INLINE void queue_prefetch(int64_t, int64_t, int64_t, PrefetchQueue&) const {}
  template <class Isa, int R, class X, class Value>
  EVENFLOW_INLINE void columns(int rows, int64_t m0, int64_t n, const Value& value) const {
    const X floor = X{} + least;
    const T* shifts = bias + m0;
    T* out = c + m0 * ldc + n;
    const int64_t stride = ldc;
    each_row<R>(rows, [&](int i) __attribute__((always_inline)) {
      const X v = value(i) + shifts[i];
      LoadStore<Isa, X>::store(v < floor ? floor : v, out + i * stride);
    });
  }
};

/// Forward pass without kept activations. Sums are added in the same order as in other products of the
/// instruction set, so a sample gets the same bits either way.
template <class Isa, class T>
class SmallNet {
 public:
  static constexpr bool exists = RegisterTile<Isa, T>::blocked;

  /// Whether this pass is possible (no output has a scale) and pays: the weights fit a core's caches, the
  /// last vectors are nearly full, and rows of input and output are short, because they are transposed.
  static bool fits(const StackUnit<T>* units, int count, int64_t samples) {
    constexpr int64_t kBytes = 96 << 10, kChannels = 8;
    int64_t weights = 0;
    for (int u = 0; u < count; ++u) {
      if (units[u].epilogue.scale) return false;
      weights += units[u].dims.weight_size();
    }
    const int64_t empty = (samples + kSamples - 1) / kSamples * kSamples - samples;
    return weights * static_cast<int64_t>(sizeof(T)) <= kBytes && empty <= samples / 8 &&
           units[0].dims.in.c <= kChannels && units[count - 1].dims.cout <= kChannels;
  }

  SmallNet(WorkspaceScope& scope, const StackUnit<T>* units, int count)
      : count_(count), layers_(scope.take<Layer>(count)) {
    for (int u = 0; u < count; ++u) {
      layers_[u] = layer(scope, units[u]);
      widest_ = ops::max_of(widest_, ops::max_of(units[u].dims.in.c, units[u].dims.cout));
    }
  }

  /// Elements of scratch memory per thread.
  int64_t scratch_size() const { return 2 * widest_ * kSamples + kSamples * L; }

  /// Computes h (end - begin, outputs) for samples [begin, end) of x.
  void run(const Strided<const T>& x, const Strided<T>& h, int64_t begin, int64_t end, T* scratch) const {
    T *from = scratch, *to = scratch + widest_ * kSamples, *rows = scratch + 2 * widest_ * kSamples;
    for (int64_t first = begin; first < end; first += kSamples) {
      const int64_t samples = ops::min_of<int64_t>(kSamples, end - first);
      columns_of(x.from_row(first), layers_[0].inputs, samples, from);
      for (int u = 0; u < count_; ++u) {
        multiply(layers_[u], from, to);
        T* const read = from;
        from = to;
        to = read;
      }
      rows_of(from, samples, h.from_row(first), layers_[count_ - 1].outputs, rows);
    }
  }

 private:
  using S = RegisterTile<Isa, T>;
  using Vector = typename S::Vector;
  static constexpr int kSamples = S::cols, L = S::lanes;
  static constexpr int64_t kThin = 2;  ///< most outputs whose sums run over every L-th input first

  /// columns (channels, kSamples) from the first `samples` rows of x, zero-padded.
  static void columns_of(const Strided<const T>& x, int64_t channels, int64_t samples, T* columns) {
    for (int64_t c = 0; channels <= kThin && c < channels; ++c) {
      T* to = columns + c * kSamples;
      for (int64_t i = 0; i < samples; ++i) to[i] = x.data[i * x.stride + c];
      for (int64_t i = samples; i < kSamples; ++i) to[i] = T(0);
    }
    for (int64_t i0 = 0; channels > kThin && i0 < kSamples; i0 += L) {
      const T* rows[L];
      const int64_t count = ops::max_of<int64_t>(0, ops::min_of<int64_t>(L, samples - i0));
      for (int64_t i = 0; i < count; ++i) rows[i] = x.data + (i0 + i) * x.stride;
      pack_transposed<Isa, T>(columns + i0, kSamples, rows, count, channels);
    }
  }

  /// The reverse: rows of h from columns. scratch (kSamples, L).
  static void rows_of(const T* columns, int64_t samples, const Strided<T>& h, int64_t channels, T* scratch) {
    if (samples == kSamples && channels == 2 && h.stride == 2) {  // becomes shuffles
      T* const to = h.data;
      for (int64_t i = 0; i < kSamples; ++i) to[2 * i] = columns[i], to[2 * i + 1] = columns[kSamples + i];
      return;
    }
    for (int64_t c = 0; channels <= kThin && c < channels; ++c) {
      for (int64_t i = 0; i < samples; ++i) h.data[i * h.stride + c] = columns[c * kSamples + i];
    }
    for (int64_t c0 = 0; channels > kThin && c0 < channels; c0 += L) {
      const T* from[L];
      const int64_t count = ops::min_of<int64_t>(L, channels - c0);
      for (int64_t c = 0; c < count; ++c) from[c] = columns + (c0 + c) * kSamples;
      pack_transposed<Isa, T>(scratch, L, from, count, samples);
      for (int64_t i = 0; i < samples; ++i) copy_run(h.data + i * h.stride + c0, scratch + i * L, count);
    }
  }

  /// y = act(x w + bias).
  struct Layer {
    int64_t inputs, outputs;
    Operand<T> w;          ///< (inputs, outputs)
    int64_t strips, tall;  ///< strips of outputs; see RowStrips
    T* bias;
    T least;
    EVENFLOW_INLINE ActivateRows<T> finish(T* y) const { return {y, kSamples, bias, least}; }
  };

  static int height(int64_t rows) { return rows > S::low_rows ? S::rows : S::low_rows; }

  static Layer layer(WorkspaceScope& scope, const StackUnit<T>& unit) {
    const int64_t k = unit.dims.in.c, n = unit.dims.cout;
    const Epilogue<T>& e = unit.epilogue;
    const RowStrips strips = RowStrips::of<Isa, T>(n);
    Layer layer{k,
                n,
                {unit.w, n},
                strips.count(),
                0,
                scope.take<T>(n),
                e.relu ? T(0) : -std::numeric_limits<T>::infinity()};
    for (int64_t j = 0; j < n; ++j) layer.bias[j] = e.bias ? e.bias[j] : T(0);
    for (int64_t t = 0; t < strips.count(); ++t) {
      layer.tall += height(strips.row(t + 1) - strips.row(t)) == S::rows;
    }
    const int64_t end = layer.tall * S::rows + (layer.strips - layer.tall) * S::low_rows;
    if (end == n || n <= kThin) return layer;
    // The last tile reads more columns than there are.
    T* w = scope.take<T>(k * end);
    for (int64_t p = 0; p < k; ++p) {
      copy_run(w + p * end, unit.w + p * n, n);
      for (int64_t j = n; j < end; ++j) w[p * end + j] = T(0);
    }
    layer.w = {w, end};
    return layer;
  }

  /// y (outputs, kSamples) from x (inputs, kSamples).
  static void multiply(const Layer& layer, const T* x, T* y) {
    if (layer.outputs == 1) return multiply_thin<1>(layer, x, y);
    if (layer.outputs == 2) return multiply_thin<2>(layer, x, y);
    const ActivateRows<T> finish = layer.finish(y);
    MicrokernelArgs<T> args;
    args.k = layer.inputs;
    args.b = {x, kSamples};
    args.cols = kSamples;
    for (int64_t t = 0; t < layer.strips; ++t, args.m0 += args.rows) {
      const int64_t rows = t < layer.tall ? S::rows : S::low_rows;
      args.rows = ops::min_of(rows, layer.outputs - args.m0);
      args.a = {layer.w.data + args.m0, layer.w.stride};
      if (rows == S::rows) {
        microkernel<Isa, T, S::rows, 2, true, false>(args, finish);
      } else {
        microkernel<Isa, T, S::low_rows, 2, true, false>(args, finish);
      }
    }
  }

  EVENFLOW_INLINE static Vector load(const T* p) { return *reinterpret_cast<const Vector*>(p); }

  /// Stores output j for both vectors of samples.
  EVENFLOW_INLINE static void put(const ActivateRows<T>& finish, int64_t j, Vector low, Vector high) {
    using Value = typename S::Value;
    finish.template columns<Isa, 1, Value>(1, j, 0, [&](int) -> Value { return low; });
    finish.template columns<Isa, 1, Value>(1, j, L, [&](int) -> Value { return high; });
  }

  template <int outputs>
  struct Sums {
    Vector of[outputs][2];
  };

  /// Sums over every step-th input from `first` on. Steps from L on add in order, smaller ones by halves, as
  /// multiply_columns does.
  template <int outputs, int first, int step>
  EVENFLOW_INLINE static Sums<outputs> sum(const Layer& layer, const T* x) {
    Sums<outputs> sums = {};
    if constexpr (step < L) {
      sums = sum<outputs, first, 2 * step>(layer, x);
      const Sums<outputs> others = sum<outputs, first + step, 2 * step>(layer, x);
#pragma GCC unroll 2
      for (int j = 0; j < outputs; ++j) {
        sums.of[j][0] += others.of[j][0];
        sums.of[j][1] += others.of[j][1];
      }
    } else {
      for (int64_t p = first; p < layer.inputs; p += L) {
        const Vector low = load(x + p * kSamples), high = load(x + p * kSamples + L);
        const T* w = layer.w.data + p * layer.w.stride;
#pragma GCC unroll 2
        for (int j = 0; j < outputs; ++j) {
          sums.of[j][0] += low * w[j];
          sums.of[j][1] += high * w[j];
        }
      }
    }
    return sums;
  }

  template <int outputs>
  __attribute__((noinline)) static void multiply_thin(const Layer& layer, const T* x, T* y) {
    const Sums<outputs> sums = sum<outputs, 0, 1>(layer, x);
    for (int j = 0; j < outputs; ++j) put(layer.finish(y), j, sums.of[j][0], sums.of[j][1]);
  }

  int count_;
  Layer* layers_;
  int64_t widest_ = 1;
};

}  // namespace evenflow::gemm
