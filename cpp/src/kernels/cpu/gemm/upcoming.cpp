#include "kernels/cpu/gemm/upcoming.hpp"

namespace evenflow::gemm {

void ask_all(const Upcoming& upcoming, int64_t rows) {
  upcoming.ask_all(rows);
}

}  // namespace evenflow::gemm
