#include "check_layer.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <sstream>

#include "core/linalg.hpp"
#include "laws.hpp"

namespace evenflow::test {
namespace {

double worst(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return HUGE_VAL;
  double w = 0;
  for (size_t i = 0; i < a.size(); ++i) w = larger(w, std::abs(a[i] - b[i]) / std::max(1.0, std::abs(b[i])));
  return w;
}

void expect(Report& report, const std::string& what, double error, double bound) {
  if (error <= bound) return;
  std::ostringstream text;
  text << what << ": error " << error << ", bound " << bound;
  report.push_back(text.str());
}

/// One set of parameters and inputs, and the loss <g, z> + <h, logdet>.
class LayerCheck {
 public:
  explicit LayerCheck(const LayerCase& c)
      : case_(c),
        ctx_("cpu", 1),
        x_(inputs()),
        fixture_(c.make64(), 7, x_view(), c.noise),
        layer_(*fixture_.layer) {
    n_ = c.batch;
    size_ = n_ * layer_.input_shape().per_sample();
    g_ = random_values(size_, 11, -1, 1);
    h_ = random_values(n_, 12, -1, 1);
    for (int64_t i = 0; i < n_; ++i)
      labels_.push_back(static_cast<int32_t>(i % std::max<int64_t>(1, c.classes)));
    context_ = random_values(n_ * c.context, 13, -1, 1);
    stats_.assign(static_cast<size_t>(fixture_.layout->stats_size() + 1), 0.0);
  }

  Report run() {
    round_trip();
    backward_checks();
    differences();
    if (!case_.training) {
      jacobian();
      inverse_differences();
    }
    strided();
    aliasing();
    float32_and_threads();
    return report_;
  }

 private:
  std::vector<double> inputs() {
    const auto layer = case_.make64();
    return random_values(case_.batch * layer->input_shape().per_sample(), 4, case_.low, case_.high);
  }
  View<const double> x_view() {
    return View<const double>(x_.data(), case_.make64()->input_shape().with_batch(case_.batch));
  }
  Shape in() const { return layer_.input_shape().with_batch(n_); }
  Shape out() const { return layer_.output_shape().with_batch(n_); }

  Params<double> params(double* kept = nullptr, bool known = false) {
    Params<double> p = fixture_.arena->params();
    p.given.labels = labels_.data();
    p.given.context = context_.data();
    mode_.batch_stats = case_.training ? stats_.data() : nullptr;
    mode_.kept = kept;
    mode_.known = known;
    p.mode = &mode_;
    return p;
  }

  void forward(const std::vector<double>& x, std::vector<double>& z, std::vector<double>& logdet) {
    z.assign(static_cast<size_t>(size_), -7.0);
    logdet.assign(static_cast<size_t>(n_), 0.0);
    layer_.forward(ctx_, params(), {x.data(), in()}, {z.data(), out()}, logdet.data());
  }

  double weighted(const std::vector<double>& values, const std::vector<double>& logdet) const {
    return std::inner_product(g_.begin(), g_.end(), values.begin(), 0.0) +
           std::inner_product(h_.begin(), h_.end(), logdet.begin(), 0.0);
  }

  double loss(const std::vector<double>& x) {
    std::vector<double> z, logdet;
    forward(x, z, logdet);
    return weighted(z, logdet);
  }

  double inverse_loss(const std::vector<double>& z) {
    std::vector<double> x(static_cast<size_t>(size_)), logdet(static_cast<size_t>(n_), 0.0);
    layer_.inverse(ctx_, params(), {z.data(), out()}, {x.data(), in()}, logdet.data());
    return weighted(x, logdet);
  }

  void backward(std::vector<double>& x, std::vector<double>& dx, double* kept) {
    x.assign(static_cast<size_t>(size_), -7.0);
    dx.assign(static_cast<size_t>(size_), -7.0);
    layer_.backward(ctx_, params(kept), {z_.data(), out()}, {g_.data(), out()}, h_.data(), {x.data(), in()},
                    {dx.data(), in()});
  }

  void round_trip() {
    forward(x_, z_, logdet_);
    std::vector<double> x(static_cast<size_t>(size_)), back(static_cast<size_t>(n_), 0.5), again, det;
    layer_.inverse(ctx_, params(), {z_.data(), out()}, {x.data(), in()}, back.data());
    expect(report_, "1 inverse(forward(x))", worst(x, x_), 1e-12);
    for (int64_t i = 0; i < n_; ++i) back[i] += logdet_[i] - 0.5;  // 0.5 was there
    expect(report_, "1 log-dets cancel", worst(back, std::vector<double>(back.size(), 0.0)), 1e-11);
    std::vector<double> added(static_cast<size_t>(n_), 0.5), z_again(static_cast<size_t>(size_));
    layer_.forward(ctx_, params(), {x_.data(), in()}, {z_again.data(), out()}, added.data());
    for (int64_t i = 0; i < n_; ++i) added[i] -= 0.5;
    expect(report_, "1 log-dets are added", worst(added, logdet_), 1e-12);
    if (case_.training) return;  // the moments of another batch
    std::vector<double> z = random_values(size_, 5, case_.latent_low, case_.latent_high);
    const std::vector<double> wanted = z;
    layer_.inverse(ctx_, params(), {z.data(), out()}, {x.data(), in()}, back.data());
    forward(x, again, det);
    expect(report_, "1 forward(inverse(z))", worst(again, wanted), 1e-12);
  }

  void backward_checks() {
    forward(x_, z_, logdet_);
    ParamArena<double>& arena = *fixture_.arena;
    zero_grad(ctx_, arena);
    std::vector<double> x, second_x, second_dx;
    backward(x, dx_, nullptr);
    expect(report_, "2 backward rebuilds x", worst(x, x_), 1e-12);
    const int64_t trainable = fixture_.layout->trainable_size();
    grads_.assign(arena.grads(), arena.grads() + trainable);
    backward(second_x, second_dx, nullptr);
    std::vector<double> doubled(arena.grads(), arena.grads() + trainable), half = grads_;
    for (double& v : half) v *= 2;
    expect(report_, "6 backward twice doubles gradients", worst(doubled, half), 1e-14);
    expect(report_, "6 backward twice gives the same dx", worst(second_dx, dx_), 0);

    std::vector<double> kept(static_cast<size_t>(layer_.kept_size(n_) + 1)), z(static_cast<size_t>(size_));
    std::vector<double> det(static_cast<size_t>(n_), 0.0);
    layer_.forward(ctx_, params(kept.data()), {x_.data(), in()}, {z.data(), out()}, det.data());
    zero_grad(ctx_, arena);
    backward(second_x, second_dx, kept.data());
    expect(report_, "6 kept activations rebuild x", worst(second_x, x_), 1e-12);
    expect(report_, "6 kept activations give the same dx", worst(second_dx, dx_), 1e-14);
    expect(report_, "6 keeping activations changes no output", worst(z, z_), 1e-14);
    expect(report_, "6 keeping activations changes no log-det", worst(det, logdet_), 1e-12);
    expect(report_, "6 kept activations give the same gradients",
           worst(std::vector<double>(arena.grads(), arena.grads() + trainable), grads_), 1e-14);

    Params<double> inputs_alone = params();
    inputs_alone.grads = nullptr;
    layer_.backward(ctx_, inputs_alone, {z_.data(), out()}, {g_.data(), out()}, h_.data(),
                    {second_x.data(), in()}, {second_dx.data(), in()});
    expect(report_, "6 without parameter gradients the same dx", worst(second_dx, dx_), 0);
  }

  static constexpr double kStep = 1e-6;  // small, so that few steps cross the kink of a ReLU

  /// Central differences of `value` by each of the numbers `at`.
  template <class F>
  static std::vector<double> slopes(std::vector<double>& at, const F& value) {
    std::vector<double> out;
    for (double& number : at) {
      const double was = number;
      number = was + kStep;
      const double up = value();
      number = was - kStep;
      out.push_back((up - value()) / (2 * kStep));
      number = was;
    }
    return out;
  }

  void differences() {
    compare("3 dx", dx_, "4 gradient of ", grads_, x_, [&](const std::vector<double>& x) { return loss(x); });
    std::vector<double> dcontext(context_.size()), x(static_cast<size_t>(size_)), dx(x);
    Params<double> p = params();
    p.given.dcontext = dcontext.data();
    layer_.backward(ctx_, p, {z_.data(), out()}, {g_.data(), out()}, h_.data(), {x.data(), in()},
                    {dx.data(), in()});
    const std::vector<double> numeric = slopes(context_, [&] { return loss(x_); });
    expect(report_, "3 gradient of the context", worst(dcontext, numeric), 1e-7);
  }

  /// Of a tensor; where it has more numbers than these, directions are random and a wrong gradient of any
  /// number shows in each.
  static constexpr int64_t kDirections = 4;

  /// Gradients by `at` and by every parameter against central differences of `value`.
  template <class Loss>
  void compare(const std::string& what, const std::vector<double>& dat, const std::string& by,
               const std::vector<double>& grads, std::vector<double> at, const Loss& value) {
    expect(report_, what, worst(dat, slopes(at, [&] { return value(at); })), 1e-7);
    for (const ParamLayout::Entry& entry : fixture_.layout->entries()) {
      if (entry.offset >= fixture_.layout->trainable_size()) continue;
      double* const values = fixture_.arena->values() + entry.offset;
      const std::vector<double> was(values, values + entry.size);
      double error = 0;
      for (int64_t k = 0; k < std::min(entry.size, kDirections); ++k) {
        std::vector<double> along = random_values(entry.size, 20 + static_cast<uint64_t>(k), -1, 1);
        if (entry.size <= kDirections) {
          std::fill(along.begin(), along.end(), 0.0);
          along[k] = 1;
        }
        const auto moved = [&](double shift) {
          for (int64_t i = 0; i < entry.size; ++i) values[i] = was[i] + shift * along[i];
          return value(at);
        };
        const double up = moved(kStep), slope = (up - moved(-kStep)) / (2 * kStep);
        std::copy(was.begin(), was.end(), values);
        const double wanted =
            std::inner_product(along.begin(), along.end(), grads.begin() + entry.offset, 0.0);
        error = larger(error, std::abs(slope - wanted) / std::max(1.0, std::abs(slope)));
      }
      expect(report_, by + entry.name, error, 1e-7);
    }
  }

  void inverse_differences() {
    forward(x_, z_, logdet_);
    ParamArena<double>& arena = *fixture_.arena;
    zero_grad(ctx_, arena);
    std::vector<double> z(static_cast<size_t>(size_), -7.0), dz = z;
    layer_.inverse_backward(ctx_, params(), {x_.data(), in()}, {g_.data(), in()}, h_.data(),
                            {z.data(), out()}, {dz.data(), out()});
    expect(report_, "9 inverse_backward rebuilds z", worst(z, z_), 1e-12);
    const std::vector<double> grads(arena.grads(), arena.grads() + fixture_.layout->trainable_size());
    compare("9 dz of the inverse", dz, "9 gradient of the inverse by ", grads, z_,
            [&](const std::vector<double>& at) { return inverse_loss(at); });
    std::vector<double> kept(static_cast<size_t>(layer_.kept_size(n_) + 1)), known = z_, known_dz = dz;
    std::vector<double> det(static_cast<size_t>(n_), 0.0), rebuilt(static_cast<size_t>(size_));
    layer_.inverse(ctx_, params(kept.data()), {z_.data(), out()}, {rebuilt.data(), in()}, det.data());
    zero_grad(ctx_, arena);
    layer_.inverse_backward(ctx_, params(kept.data(), true), {x_.data(), in()}, {g_.data(), in()}, h_.data(),
                            {known.data(), out()}, {known_dz.data(), out()});
    expect(report_, "9 with known z the same z", worst(known, z_), 1e-12);
    expect(report_, "9 with known z the same dz", worst(known_dz, dz), 1e-9);
    expect(report_, "9 with known z the same gradients",
           worst(std::vector<double>(arena.grads(), arena.grads() + grads.size()), grads), 1e-9);
    if (!layer_.in_place()) return;
    std::vector<double> x = x_, dx = g_;
    layer_.inverse_backward(ctx_, params(), {x.data(), in()}, {dx.data(), in()}, h_.data(), {x.data(), out()},
                            {dx.data(), out()});
    expect(report_, "9 inverse_backward in place, z", worst(x, z_), 1e-12);
    expect(report_, "9 inverse_backward in place, dz", worst(dx, dz), 1e-14);
  }

  /// Row j of sample i's Jacobian = dx for dz = e_j, dlogdet = 0.
  void jacobian() {
    const int64_t d = layer_.input_shape().per_sample();
    forward(x_, z_, logdet_);
    const std::vector<double> zeros(static_cast<size_t>(n_), 0.0);
    std::vector<linalg::Matrix> rows(static_cast<size_t>(n_), linalg::Matrix(static_cast<size_t>(d * d)));
    std::vector<double> x(static_cast<size_t>(size_)), dx(static_cast<size_t>(size_)),
        dz(static_cast<size_t>(size_));
    for (int64_t j = 0; j < d; ++j) {
      std::fill(dz.begin(), dz.end(), 0.0);
      for (int64_t i = 0; i < n_; ++i) dz[i * d + j] = 1;
      layer_.backward(ctx_, params(), {z_.data(), out()}, {dz.data(), out()}, zeros.data(), {x.data(), in()},
                      {dx.data(), in()});
      for (int64_t i = 0; i < n_; ++i) std::copy_n(&dx[i * d], d, &rows[i][j * d]);
    }
    std::vector<double> probed(static_cast<size_t>(n_), 0.0);
    for (int64_t i = 0; i < n_; ++i) probed[i] = log_abs_det(rows[i], d);
    expect(report_, "5 log-det against the probed Jacobian", worst(probed, logdet_), 1e-10);
    linalg::Matrix columns(static_cast<size_t>(d * d));
    for (int64_t k = 0; k < d; ++k) {  // of sample 0
      std::vector<double> moved = x_, up, down, det;
      moved[k] += 1e-5;
      forward(moved, up, det);
      moved[k] -= 2e-5;
      forward(moved, down, det);
      for (int64_t j = 0; j < d; ++j) columns[j * d + k] = (up[j] - down[j]) / 2e-5;
    }
    expect(report_, "5 log-det against differences", std::abs(log_abs_det(columns, d) - logdet_[0]), 1e-6);
  }

  static double log_abs_det(const linalg::Matrix& m, int64_t d) {
    const linalg::Lu f = linalg::lu(m, d);
    double total = 0;
    for (int64_t k = 0; k < d; ++k) total += std::log(std::abs(f.upper[k * d + k]));
    return total;
  }

  /// Channels of a wider array, `after` more behind them.
  struct Slice {
    Slice(const Shape& s, int64_t after, const std::vector<double>& values = {})
        : shape(s), stride(s.c + 1 + after), all(static_cast<size_t>(s.pixels() * stride), kAround) {
      for (int64_t r = 0; !values.empty() && r < shape.pixels(); ++r) {
        std::copy_n(&values[r * shape.c], shape.c, &all[r * stride + 1]);
      }
    }
    View<double> view() { return {all.data() + 1, shape, stride}; }
    std::vector<double> values() const {
      std::vector<double> v;
      for (int64_t r = 0; r < shape.pixels(); ++r) {
        const double* const row = &all[r * stride + 1];
        v.insert(v.end(), row, row + shape.c);
      }
      return v;
    }
    bool untouched() const {
      for (int64_t r = 0; r < shape.pixels(); ++r) {
        const double* const row = &all[r * stride];
        if (row[0] != kAround || std::any_of(row + 1 + shape.c, row + stride, differs)) return false;
      }
      return true;
    }
    static bool differs(double v) { return v != kAround; }

    static constexpr double kAround = -9;
    Shape shape;
    int64_t stride;
    std::vector<double> all;
  };

  void strided() {
    forward(x_, z_, logdet_);
    Slice x(in(), 2, x_), z(out(), 1), dz(out(), 3, g_), back(in(), 1), dx(in(), 2);
    std::vector<double> det(static_cast<size_t>(n_), 0.0);
    layer_.forward(ctx_, params(), x.view(), z.view(), det.data());
    expect(report_, "7 strided views", worst(z.values(), z_), 1e-14);
    layer_.inverse(ctx_, params(), z.view(), back.view(), det.data());
    expect(report_, "7 strided views of the inverse", worst(back.values(), x_), 1e-12);
    layer_.backward(ctx_, params(), z.view(), dz.view(), h_.data(), back.view(), dx.view());
    expect(report_, "7 strided views of backward, x", worst(back.values(), x_), 1e-12);
    expect(report_, "7 strided views of backward, dx", worst(dx.values(), dx_), 1e-14);
    bool untouched = true;
    for (const Slice* slice : {&x, &z, &dz, &back, &dx}) untouched = untouched && slice->untouched();
    expect(report_, "7 strided views leave their neighbours alone", untouched ? 0 : 1, 0);
  }

  void aliasing() {
    if (!layer_.in_place()) return;
    forward(x_, z_, logdet_);
    std::vector<double> z = x_, x, dx, dz = g_, det(static_cast<size_t>(n_), 0.0);
    layer_.forward(ctx_, params(), {z.data(), in()}, {z.data(), out()}, det.data());
    expect(report_, "7 forward in place", worst(z, z_), 0);
    expect(report_, "7 forward in place, log-dets", worst(det, logdet_), 0);
    zero_grad(ctx_, *fixture_.arena);
    x = z_;
    layer_.backward(ctx_, params(), {x.data(), out()}, {dz.data(), out()}, h_.data(), {x.data(), in()},
                    {dz.data(), in()});
    expect(report_, "7 backward in place, dx", worst(dz, dx_), 1e-14);
    expect(report_, "7 backward in place, x", worst(x, x_), 1e-12);
    z = z_;
    layer_.inverse(ctx_, params(), {z.data(), out()}, {z.data(), in()}, det.data());
    expect(report_, "7 inverse in place", worst(z, x_), 1e-12);
  }

  void float32_and_threads() {
    const std::vector<float> x(x_.begin(), x_.end()), g(g_.begin(), g_.end()),
        context(context_.begin(), context_.end());
    Fixture<float> single(case_.make32(), 7, x_view(), case_.noise);
    for (int64_t i = 0; i < single.layout->total_size(); ++i) {
      single.arena->values()[i] = static_cast<float>(fixture_.arena->values()[i]);
    }
    std::vector<float> results[2];
    for (int threads = 1; threads <= 2; ++threads) {
      Context ctx("cpu", threads);
      std::vector<float> stats(stats_.size(), 0.0f), z(x.size()), back(x.size()), dx(x.size());
      std::vector<double> det(static_cast<size_t>(n_), 0.0);
      zero_grad(ctx, *single.arena);
      Params<float> p = single.arena->params();
      Mode<float> mode;
      if (case_.training) mode.batch_stats = stats.data();
      p.given.labels = labels_.data();
      p.given.context = context.data();
      p.mode = &mode;
      single.layer->forward(ctx, p, {x.data(), in()}, {z.data(), out()}, det.data());
      single.layer->backward(ctx, p, {z.data(), out()}, {g.data(), out()}, h_.data(), {back.data(), in()},
                             {dx.data(), in()});
      std::vector<float>& r = results[threads - 1];
      r = z;
      r.insert(r.end(), det.begin(), det.end());
      r.insert(r.end(), dx.begin(), dx.end());
      r.insert(r.end(), single.arena->grads(), single.arena->grads() + single.layout->trainable_size());
    }
    std::vector<double> truth;
    forward(x_, truth, logdet_);
    for (const std::vector<double>* more : {&logdet_, &dx_, &grads_})
      truth.insert(truth.end(), more->begin(), more->end());
    const std::vector<double> got(results[0].begin(), results[0].end());
    expect(report_, "8 float32 against float64", worst(got, truth), 3e-4);
    expect(report_, "8 two threads give the same bits", results[0] == results[1] ? 0 : 1, 0);
  }

  const LayerCase& case_;
  Context ctx_;
  std::vector<double> x_;
  Fixture<double> fixture_;
  Layer<double>& layer_;
  int64_t n_ = 0;
  int64_t size_ = 0;
  std::vector<double> g_, h_, z_, logdet_, dx_, grads_, stats_, context_;
  Mode<double> mode_;
  std::vector<int32_t> labels_;
  Report report_;
};

}  // namespace

std::string joined(const Report& report) {
  std::string text;
  for (const std::string& line : report) text += line + "\n";
  return text;
}

std::vector<double> random_values(int64_t n, uint64_t seed, double low, double high) {
  Rng rng(seed, Stream::test);
  std::vector<double> v(static_cast<size_t>(n));
  for (double& x : v) x = rng.uniform(low, high);
  return v;
}

template <class T>
Fixture<T>::Fixture(std::unique_ptr<Layer<T>> l, uint64_t seed, View<const double> data, double noise)
    : layer(std::move(l)) {
  layer->declare(Scope(*layout, "layer"));
  layout->finalize();
  arena = std::make_unique<ParamArena<T>>(layout);
  Rng rng(seed);
  layer->init(*arena, rng);
  Context ctx("cpu", 1);
  std::vector<T> x(data.data, data.data + data.shape.size());
  layer->init_from_data(ctx, *arena, {x.data(), data.shape});
  Rng draws(seed + 1, Stream::test);
  for (const ParamLayout::Entry& entry : layout->entries()) {
    if (entry.group == Group::fixed) continue;
    for (int64_t i = 0; i < entry.size; ++i) {
      T& value = arena->values()[entry.offset + i];
      // Running variances stay positive; triangles keep the zeros that they do not use.
      const double by = entry.group == Group::stats ? draws.uniform(0.1, 0.3) : draws.uniform(-noise, noise);
      value = static_cast<T>(value + by);
    }
  }
}

template struct Fixture<float>;
template struct Fixture<double>;

Report check_layer(const LayerCase& c) {
  return LayerCheck(c).run();
}

Report check_conditioner(const NetCase& c) {
  // A net is checked inside an additive coupling of a wrapper that sees twice the channels: dx of the
  // passing half is the net's, and the coupling's own part is a plain sum.
  LayerCase wrapped;
  wrapped.name = c.name;
  wrapped.batch = c.batch;
  wrapped.training = c.training;
  const Shape in = c.make64()->input_shape();
  const Shape whole = in.with_channels(2 * in.c);
  wrapped.make64 = [c, whole] { return additive_coupling<double>(whole, Mask::second_half, c.make64()); };
  wrapped.make32 = [c, whole] { return additive_coupling<float>(whole, Mask::second_half, c.make32()); };
  return check_layer(wrapped);
}

}  // namespace evenflow::test
