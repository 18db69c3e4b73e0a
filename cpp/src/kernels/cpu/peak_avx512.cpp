#include "kernels/cpu/peak_loops.hpp"

namespace evenflow {

PeakLoops peak_loops_avx512() {
  return peak::loops<Avx512>();
}

}  // namespace evenflow
