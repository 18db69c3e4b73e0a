#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/mode.hpp"
#include "evenflow/evenflow.hpp"
#include "larger.hpp"

namespace evenflow::test {

/// What went wrong, one line a failed check; empty: everything holds.
using Report = std::vector<std::string>;
std::string joined(const Report& report);

struct LayerCase {
  std::string name;
  std::function<std::unique_ptr<Layer<double>>()> make64;
  std::function<std::unique_ptr<Layer<float>>()> make32;
  int64_t batch = 3;
  bool training = false;  ///< batch moments: samples depend on each other, so no per-sample Jacobian
  double low = -1.5;      ///< range of the inputs
  double high = 1.5;
  double latent_low = -1;  ///< and of the latents
  double latent_high = 1;
  int64_t classes = 0;
  int64_t context = 0;  ///< numbers a sample that a coupling's net also reads
  double noise = 0.2;   ///< added to every parameter after initialisation
};

/// The checks of a layer in float64, with loss = <g, z> + <h, logdet>, random g and h:
///  1. inverse(forward(x)) = x, forward(inverse(z)) = z, log-dets cancel          (1e-12)
///  2. backward rebuilds x                                                        (1e-12)
///  3. dx and the context's gradient, 4. every parameter gradient against central differences (1e-7), along
///  four random
///     directions of a tensor that has more numbers
///  5. log-det against the Jacobian probed with unit vectors through backward     (1e-10), and by differences
///  6. backward twice doubles parameter gradients; kept activations, and keeping them, change nothing
///  7. in place = out of place, and a strided view = a contiguous one
///  8. float32 agrees with float64; one and two threads give the same bits
///  9. the inverse's dz and every parameter gradient as in 4, loss = <g, x> + <h, logdet>  (1e-7); z rebuilt
///     (1e-12)
Report check_layer(const LayerCase& c);

/// Checks 3 and 4 for a conditioner, whose backward adds to dx, and 8.
struct NetCase {
  std::string name;
  std::function<std::unique_ptr<Conditioner<double>>()> make64;
  std::function<std::unique_ptr<Conditioner<float>>()> make32;
  int64_t batch = 3;
  bool training = false;
};
Report check_conditioner(const NetCase& c);

/// A layer with its parameters: random, none of them zero, data-dependent ones from a batch.
template <class T>
struct Fixture {
  Fixture(std::unique_ptr<Layer<T>> layer, uint64_t seed, View<const double> data, double noise);
  std::unique_ptr<Layer<T>> layer;
  std::shared_ptr<ParamLayout> layout = std::make_shared<ParamLayout>();
  std::unique_ptr<ParamArena<T>> arena;
};

std::vector<double> random_values(int64_t n, uint64_t seed, double low, double high);

}  // namespace evenflow::test
