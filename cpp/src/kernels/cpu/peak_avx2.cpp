#include "kernels/cpu/peak_loops.hpp"

namespace evenflow {

PeakLoops peak_loops_avx2() {
  return peak::loops<Avx2>();
}

}  // namespace evenflow
