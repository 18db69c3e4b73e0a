#pragma once

#include <type_traits>

#include "kernels/bf16.hpp"
#include "kernels/device/exec.hpp"
#include "kernels/flow_program.hpp"
#include "kernels/kernel_set.hpp"
#include "kernels/ops/bounds.hpp"
#include "kernels/ops/channel.hpp"
#include "kernels/ops/coupling.hpp"
#include "kernels/ops/element.hpp"
#include "kernels/ops/small.hpp"

// A FlowProgram in one kernel: a block takes tiles of rows through all steps, in shared memory. Matrices that
// are known by their factors are a kernel before it.

namespace evenflow::device {

/// One channel of the rows of a tile. 16 bytes are read at once where there are as many.
template <class T, int rows>
struct alignas(rows * sizeof(T) < 16 ? rows * sizeof(T) : 16) TileChannel {
  T row[rows];
};

/// What a block holds: channels of its rows, those of a net's present and next activations, parts of sums.
template <class T, int rows, int parts, int lanes>
struct FlowTile {
  TileChannel<T, rows> x[FlowProgram::kDims];
  TileChannel<T, rows> h[2][FlowProgram::kWidth];
  T part[parts];
  double lane[lanes];
};

/// Rows x (n, dims), to out (n) = log p(x).
template <class T>
struct FlowDensities {
  static constexpr bool inverse = false;
  const T* x;
  int64_t x_stride;
  double* out;
};

/// Rows x (n, dims) from scaled draws of the base distribution. bad (blocks): values that are not finite.
template <class T>
struct FlowSamples {
  static constexpr bool inverse = true;
  T* x;
  int64_t x_stride;
  double* bad;
  double scale;  ///< a value of T
  uint64_t seed;
  uint64_t first;
};

/// Tile i of `rows` rows belongs to block i % blocks. One row has a large block to itself, whose threads
/// divide the sums of a dense unit; of several rows, a thread has whole sums. Either way a sum over inputs is
/// that of parts of kPart, added in order, and a row's sums over channels are those of kLanes lanes, added in
/// order: a row's results are the same bits in any tile.
template <class T, int rows, class Ends>
struct WholeFlow {
  static constexpr bool one_row = rows == 1;
  static constexpr bool inverse = Ends::inverse;
  static constexpr int threads = one_row ? 1024 : 256;
  static constexpr int kPart = 16;
  static constexpr int kLanes = 32;
  static constexpr int kParts = FlowProgram::kWidth / kPart;
  static_assert(kLanes * rows <= threads, "a thread has one lane of one row");

  using Shared = FlowTile<T, rows, one_row ? kParts * FlowProgram::kWidth : 1, kLanes * rows>;
  using Channel = TileChannel<T, rows>;
  struct Registers {
    int64_t tile;
    int step;    ///< -1: before the first
    int part;    ///< of the step
    int held;    ///< h[held] are the outputs of the last dense unit
    double sum;  ///< of the thread's lane: the row's log-density, or all tiles' values that are not finite
  };

  FlowSteps program;
  const T* params;
  const T* learned;  ///< of DeriveMatrices, null without any: W or its inverse (count, dims, dims)
  const double* learned_log_det;  ///< (count)
  int64_t n;
  int64_t blocks;
  int64_t tile_phases;
  Ends ends;

  EVENFLOW_HD int64_t tiles() const { return (n + rows - 1) / rows; }
  /// Phases of a tile: its load, all steps, its end.
  static int64_t phases_of(const FlowSteps& program) {
    int64_t count = 3;
    for (int s = 0; s < program.count; ++s) count += parts_of(program.steps[s]);
    return count;
  }

  EVENFLOW_HD int64_t phases(int64_t block) const {
    return (tiles() - block + blocks - 1) / blocks * tile_phases;
  }

  EVENFLOW_HD void run(int64_t phase, const Place& at, Registers& r, Shared& shared) const {
    if (phase == 0) r = {at.block, -1, 0, 0, 0};
    int parts = 1;
    if (r.step < 0) {
      load(at, r, shared);
    } else if (r.step < program.count) {
      parts = parts_of(program.steps[r.step]);
      take(program.steps[r.step], at, r, shared);
    } else {
      parts = 2;
      finish(at, r, shared);
    }
    if (++r.part < parts) return;
    r.part = 0;
    if (++r.step <= program.count) return;
    r.step = -1;
    r.tile += at.blocks;
  }

 private:
  /// Sums of products are one phase, or two where threads divide them.
  EVENFLOW_HD static int parts_of(const FlowStep& step) {
    constexpr int product = one_row ? 2 : 1;
    switch (step.op) {
      case FlowOp::dense:
        return product + (rounds_input(step) ? 1 : 0);
      case FlowOp::matrix:
        return product + 1;
      case FlowOp::permutation:
        return inverse ? 2 : 3;
      default:
        return 1;
    }
  }

  /// The first unit of a bfloat16 net: what later ones read is rounded where it is stored.
  EVENFLOW_HD static bool rounds_input(const FlowStep& step) {
    return (step.option & FlowStep::half) != 0 && step.stride != 0;
  }

  EVENFLOW_HD const T* parameter(const FlowStep& step, int i) const {
    return step.at[i] < 0 ? nullptr : params + step.at[i];
  }

  EVENFLOW_HD static T not_a_number() { return static_cast<T>(ops::bits_to_float(0x7fc00000)); }

  EVENFLOW_HD void take(const FlowStep& step, const Place& at, Registers& r, Shared& shared) const {
    switch (step.op) {
      case FlowOp::dense:
        return dense(step, at, r, shared);
      case FlowOp::coupling:
        return couple(step, at, r, shared);
      case FlowOp::matrix:
        return transform(step, at, r, shared);
      case FlowOp::permutation:
        return permute(step, at, r, shared);
      default:
        return scale_channels(step, at, r, shared);
    }
  }

  // Ends of a tile. Rows behind the last are zeros that nobody stores.

  EVENFLOW_HD void load(const Place& at, Registers& r, Shared& shared) const {
    const bool ready = params[program.initialized] != T(0);
    if constexpr (inverse) {
      const int quads = (program.dims + 3) / 4;
      const T scale = static_cast<T>(ends.scale);
      for (int i = at.thread; i < rows * quads; i += threads) {
        const int row = i / quads, quad = i % quads;
        double words[4], noise[4];
        draw(r.tile * rows + row, quad, words, noise);
        for (int k = 0; k < 4 && 4 * quad + k < program.dims; ++k) {
          shared.x[4 * quad + k].row[row] = ready ? scale * static_cast<T>(noise[k]) : not_a_number();
        }
      }
    } else {
      for (int i = at.thread; i < rows * program.dims; i += threads) {
        const int row = i / program.dims, c = i % program.dims;
        const int64_t from = r.tile * rows + row;
        shared.x[c].row[row] = from >= n ? T(0) : ready ? ends.x[from * ends.x_stride + c] : not_a_number();
      }
      r.sum = 0;
    }
  }

  EVENFLOW_HD void draw(int64_t row, int quad, double* words, double* noise) const {
    const uint32_t stream = static_cast<uint32_t>(Stream::prior);
    if (program.base == Base::logistic) {
      const ops::FillNoise<T, true> fill{ends.seed, stream, ends.first, T(1), program.dims, nullptr};
      fill.load(row, quad, words, 1);
      fill.compute(words, noise, nullptr);
    } else {
      const ops::FillNoise<T, false> fill{ends.seed, stream, ends.first, T(1), program.dims, nullptr};
      fill.load(row, quad, words, 1);
      fill.compute(words, noise, nullptr);
    }
  }

  EVENFLOW_HD void finish(const Place& at, Registers& r, Shared& shared) const {
    constexpr int lanes = kLanes * rows;
    if (r.part == 0) {
      if (at.thread >= lanes) return;
      if constexpr (inverse) {
        for (int i = at.thread; i < rows * program.dims; i += lanes) {
          const int row = i / program.dims, c = i % program.dims;
          const int64_t to = r.tile * rows + row;
          const T value = shared.x[c].row[row];
          if (to >= n) continue;
          ends.x[to * ends.x_stride + c] = value;
          r.sum += ops::NotFinite<T>{&value, 0}(0, 0).v[0];
        }
      } else {
        const int row = at.thread % rows;
        for (int c = at.thread / rows; c < program.dims; c += kLanes) {
          r.sum += static_cast<double>(base_log_prob(shared.x[c].row[row]));
        }
      }
      shared.lane[at.thread] = r.sum;
    } else if constexpr (inverse) {
      const bool last = r.tile + at.blocks >= tiles();
      if (!last || at.thread > 0) return;
      double total = 0;
      for (int l = 0; l < lanes; ++l) total += shared.lane[l];
      ends.bad[at.block] = total;
    } else {
      const int64_t to = r.tile * rows + at.thread;
      if (at.thread >= rows || to >= n) return;
      double total = 0;
      for (int l = 0; l < kLanes; ++l) total += shared.lane[l * rows + at.thread];
      ends.out[to] = total;
    }
  }

  EVENFLOW_HD T base_log_prob(T z) const {
    T unused, log_prob;
    if (program.base == Base::logistic) {
      ops::BaseLogProb<T, true>{1, nullptr, nullptr, T(0)}.compute(&z, &unused, &log_prob);
    } else {
      ops::BaseLogProb<T, false>{1, nullptr, nullptr, T(0)}.compute(&z, &unused, &log_prob);
    }
    return log_prob;
  }

  // Steps. A thread has one lane of one row, and every kLanes-th channel.

  EVENFLOW_HD void scale_channels(const FlowStep& step, const Place& at, Registers& r, Shared& shared) const {
    if (at.thread >= kLanes * rows) return;
    const int row = at.thread % rows;
    for (int k = at.thread / rows; k < step.count; k += kLanes) {
      T& value = shared.x[step.first + k * step.stride].row[row];
      if (step.op == FlowOp::bounds) {
        r.sum += ops::pass_bounds<inverse>(step.ends, step.factor, &value);
        continue;
      }
      T shift, scale;
      double log_scale;
      coefficients(step, k, &shift, &scale, &log_scale);
      if constexpr (inverse) {
        ops::ChannelInverse<T, ops::AllPixels>{{}, &value, 1, &shift, &scale, &value, 1}(0, 0);
      } else {
        ops::ChannelForward<T, ops::AllPixels>{{}, &value, 1, &shift, &scale, &value, 1}(0, 0);
        r.sum += log_scale;
      }
    }
  }

  EVENFLOW_HD void coefficients(const FlowStep& step, int k, T* shift, T* scale, double* log_scale) const {
    const T* a = parameter(step, 0);
    const T* b = parameter(step, 1) + k;
    if (a) a += k;
    if (step.op == FlowOp::log_scale) {
      ops::LogScaleCoefficients<T>{a, b, step.factor, shift, scale, log_scale}(0, 0);
    } else if (step.op == FlowOp::center) {
      *shift = -*a;
      *scale = T(1);
      *log_scale = k == 0 ? static_cast<double>(*parameter(step, 1)) : 0.0;
    } else if (step.op == FlowOp::standard) {
      ops::StandardCoefficients<T>{a, b, shift, scale, log_scale}(0, 0);
    } else {
      ops::MomentCoefficients<T>{a, b, step.factor, shift, scale, log_scale}(0, 0);
    }
  }

  EVENFLOW_HD void couple(const FlowStep& step, const Place& at, Registers& r, Shared& shared) const {
    switch (static_cast<CouplingLaw>(step.option)) {
      case CouplingLaw::additive:
        return couple_by<ops::AdditiveLaw>(step, at, r, shared);
      case CouplingLaw::glow:
        return couple_by<ops::GlowLaw>(step, at, r, shared);
      case CouplingLaw::real_nvp:
        return couple_by<ops::RealNvpLaw>(step, at, r, shared);
      case CouplingLaw::bounded:
        return couple_by<ops::BoundedLaw>(step, at, r, shared);
      case CouplingLaw::gaussian:
        return couple_by<ops::GaussianLaw>(step, at, r, shared);
    }
  }

  template <class Law>
  EVENFLOW_HD void couple_by(const FlowStep& step, const Place& at, Registers& r, Shared& shared) const {
    if (at.thread >= kLanes * rows) return;
    const int row = at.thread % rows;
    std::conditional_t<inverse, ops::CouplingInverse<T, Law>, ops::CouplingForward<T, Law>> law{};
    law.gain.slope_at = parameter(step, 0);
    law.gain.offset_at = parameter(step, 1);
    law.prepare();
    const Channel* h = shared.h[r.held];
    for (int k = at.thread / rows; k < step.count; k += kLanes) {
      T& value = shared.x[step.first + k * step.stride].row[row];
      const int shift = k * step.h_step;
      const T in[4] = {value, h[shift].row[row], h[shift + step.r_offset].row[row], T(1)};
      T log_det;
      law.compute(in, &value, &log_det);
      r.sum += inverse ? 0.0 : static_cast<double>(log_det);
    }
  }

  /// The way back begins with NaN, which is what stays where an order that is none names no channel.
  EVENFLOW_HD void permute(const FlowStep& step, const Place& at, Registers& r, Shared& shared) const {
    const T* order = parameter(step, 0);
    Channel* copy = shared.h[r.held];
    Channel* left = shared.h[1 - r.held];  // what no channel was taken from; NaN, or 0
    for (int i = at.thread; i < step.count * rows; i += threads) {
      const int c = i / rows, row = i % rows;
      T& value = shared.x[c].row[row];
      if (r.part == 0) {
        copy[c].row[row] = value;
        (inverse ? value : left[c].row[row]) = not_a_number();
        continue;
      }
      if (r.part == 2) {  // a channel that is named twice leaves another out
        if (left[c].row[row] != T(0)) value = not_a_number();
        continue;
      }
      const T stored = order[c];
      const bool named = stored >= T(0) && stored < static_cast<T>(step.count);
      const int other = named ? static_cast<int>(stored) : 0;
      const bool whole = named && static_cast<T>(other) == stored;
      if (!inverse) {
        value = whole ? copy[other].row[row] : not_a_number();
        if (whole) left[other].row[row] = T(0);
      } else if (whole) {
        shared.x[other].row[row] = copy[c].row[row];
      }
    }
  }

  // Dense units and matrices. Weights are (inputs, outputs): neighbouring threads read neighbouring ones.

  /// act(in * weight + bias), in the places of h that are not held.
  struct Unit {
    const T* weight;
    const T* bias;  ///< or null
    const Channel* in;
    int in_step;
    int option;  ///< bits of FlowStep::Dense
  };

  EVENFLOW_HD void dense(const FlowStep& step, const Place& at, Registers& r, Shared& shared) const {
    Channel* held = shared.h[r.held];
    const bool rounds = rounds_input(step);
    if (rounds && r.part == 0) {
      for (int i = at.thread; i < step.count * rows; i += threads) {
        const int c = i / rows, row = i % rows;
        held[c].row[row] = rounded(shared.x[step.first + c * step.stride].row[row]);
      }
      return;
    }
    Unit unit{parameter(step, 0), parameter(step, 1), held, 1, step.option};
    if (step.stride && !rounds) {
      unit.in = shared.x + step.first;
      unit.in_step = step.stride;
    }
    multiply(step, unit, rounds ? r.part - 1 : r.part, at, r, shared);
  }

  EVENFLOW_HD void transform(const FlowStep& step, const Place& at, Registers& r, Shared& shared) const {
    const bool stored = step.option < 0;
    if (r.part + 1 < parts_of(step)) {
      const T* matrix =
          stored ? parameter(step, inverse ? 1 : 0) : learned + step.option * step.count * step.count;
      return multiply(step, {matrix, nullptr, shared.x, 1, 0}, r.part, at, r, shared);
    }
    const Channel* out = shared.h[r.held];
    for (int i = at.thread; i < step.count * rows; i += threads) {
      shared.x[i / rows].row[i % rows] = out[i / rows].row[i % rows];
    }
    if (!inverse && !stored && at.thread < rows) r.sum += learned_log_det[step.option];  // the first lane's
  }

  EVENFLOW_HD void multiply(const FlowStep& step, const Unit& unit, int part, const Place& at, Registers& r,
                            Shared& shared) const {
    const int parts = (step.count + kPart - 1) / kPart;
    Channel* out = shared.h[1 - r.held];
    if constexpr (one_row) {
      if (part == 0) {
        for (int i = at.thread; i < parts * step.width; i += threads) {
          T sum[1];
          add_part(step, unit, i % step.width, i / step.width, 0, sum);
          shared.part[i] = sum[0];
        }
        return;
      }
      for (int j = at.thread; j < step.width; j += threads) {
        T total = T(0);
        for (int p = 0; p < parts; ++p) total += shared.part[p * step.width + j];
        out[j].row[0] = activated(unit, j, total);
      }
    } else if (step.width * (rows / 4) < threads) {
      multiply_rows<1>(step, unit, at, parts, out);
    } else {
      multiply_rows<4>(step, unit, at, parts, out);
    }
    r.held = 1 - r.held;
  }

  /// An output of `some` rows at a time: few where there are few outputs, so that more threads have work.
  template <int some>
  EVENFLOW_HD void multiply_rows(const FlowStep& step, const Unit& unit, const Place& at, int parts,
                                 Channel* out) const {
    for (int i = at.thread; i < step.width * (rows / some); i += threads) {
      const int j = i % step.width, first = i / step.width * some;
      T total[some] = {};
      for (int p = 0; p < parts; ++p) {
        T sum[some];
        add_part(step, unit, j, p, first, sum);
        for (int k = 0; k < some; ++k) total[k] += sum[k];
      }
      for (int k = 0; k < some; ++k) out[j].row[first + k] = activated(unit, j, total[k]);
    }
  }

  /// sum = the products of a part's inputs with output j's weights, for rows first, first + 1, ...
  template <int some>
  EVENFLOW_HD void add_part(const FlowStep& step, const Unit& unit, int j, int part, int first,
                            T (&sum)[some]) const {
    const int begin = part * kPart, width = step.width;
    const bool half = (unit.option & FlowStep::half) != 0;
    const T* weight = unit.weight + j;
    for (int k = 0; k < some; ++k) sum[k] = T(0);
    if (begin + kPart <= step.count) {
      T w[kPart];  // all on their way before the first is needed
      for (int i = 0; i < kPart; ++i) w[i] = weight[(begin + i) * width];
      if (half) {
        for (int i = 0; i < kPart; ++i) w[i] = rounded(w[i]);
      }
      for (int i = 0; i < kPart; ++i) {
        const Channel& channel = unit.in[(begin + i) * unit.in_step];
        for (int k = 0; k < some; ++k) sum[k] += w[i] * channel.row[first + k];
      }
      return;
    }
    for (int i = begin; i < step.count; ++i) {
      const T w = half ? rounded(weight[i * width]) : weight[i * width];
      for (int k = 0; k < some; ++k) sum[k] += w * unit.in[i * unit.in_step].row[first + k];
    }
  }

  /// Hidden units, which alone have ReLU, store what they round.
  EVENFLOW_HD T activated(const Unit& unit, int j, T sum) const {
    T value = unit.bias ? sum + unit.bias[j] : sum;
    if ((unit.option & FlowStep::relu) == 0) return value;
    if (value < T(0)) value = T(0);
    return (unit.option & FlowStep::half) != 0 ? rounded(value) : value;
  }

  /// A number as bfloat16 has it. There is none in a float64 model.
  EVENFLOW_HD static T rounded(T value) {
    if constexpr (std::is_same<T, float>::value) {
      return to_float(to_bf16(value));
    } else {
      return value;
    }
  }
};

}  // namespace evenflow::device
