#include "kernels/net/kernels.hpp"

#include "kernels/cpu/gemm/layout.hpp"

namespace evenflow {

// Enough for the channel-blocked layout, and thus for rows, the only layout that a device uses.
int64_t activation_values(int64_t channels, int64_t pixels, int64_t value_bytes) {
  return gemm::hidden_size(channels, pixels, value_bytes);
}

}  // namespace evenflow
