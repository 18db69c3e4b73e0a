#pragma once

#include <string>
#include <variant>
#include <vector>

#include "evenflow/layers.hpp"
#include "kernels/coupling/laws/additive.hpp"
#include "kernels/coupling/laws/affine.hpp"
#include "kernels/coupling/laws/exp.hpp"
#include "kernels/coupling/laws/gaussian.hpp"
#include "kernels/coupling/laws/glow.hpp"
#include "kernels/coupling/laws/logit.hpp"
#include "kernels/coupling/laws/real_nvp.hpp"
#include "kernels/coupling/laws/sigmoid.hpp"
#include "kernels/coupling/laws/softplus.hpp"
#include "kernels/coupling/laws/spline.hpp"
#include "kernels/coupling/laws/unbound.hpp"
#include "kernels/coupling/laws/unit_box.hpp"

// Coupling laws. A law maps a value x to y by numbers p that a net or the layer supplies. It is plain data,
// and the only code that knows its formula; every instruction set and a GPU compile the same text.
//
//   name, for_tables                 what files and users call it; whether table flows offer it (neither of a
//                                    FixedLaw)
//   parameters()                     how many numbers p each value has
//   shared                           how many numbers all values of a layer share, with shared_names and
//                                    shared_defaults where there are any
//   Point<V>                         x, y, log |dy/dx|, slope = dy/dx, and what backward needs besides
//   at_input(x, p), at_output(y, p)  the point, from either side
//   backward(point, p, dy, dlog, dp, dshared)
//                                    from a loss's gradients by y and by the log-slope: returns dx, gives
//                                    those of the numbers to dp(i, value) and dshared[i]
//
// V is a number or Lanes of numbers: select() stands for branches, and Element<V>(c) for a constant c that is
// no whole number. p(i) and p.shared(i) read a number. backward gives each dp(i) once, and assigns every
// dshared[i].

namespace evenflow {

namespace laws = ops::laws;

/// The table of laws.
using Law = std::variant<  //
    laws::Additive,        //
    laws::Affine,          //
    laws::Exp,             //
    laws::Gaussian,        //
    laws::Glow,            //
    laws::RealNvp,         //
    laws::Sigmoid,         //
    laws::Softplus,        //
    laws::Spline,          //
    // Of layers without trained numbers:
    laws::Logit, laws::Unbound, laws::UnitBox>;

/// Most numbers that all values of a layer share.
constexpr int kMostShared = 2;

/// A number that all values of a layer share: its parameter's name, and where it starts.
struct SharedNumber {
  const char* name;
  double start;
};

/// The law that the options name; ConfigError for a name that is not in the table, and for settings that the
/// law can't have.
Law law_of(const LawOptions& options);
/// How many numbers each value has.
int numbers_of(const Law& law);
std::vector<SharedNumber> shared_numbers_of(const Law& law);

}  // namespace evenflow
