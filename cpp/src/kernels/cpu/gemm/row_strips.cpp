#include "kernels/cpu/gemm/row_strips.hpp"

#include <algorithm>

namespace evenflow::gemm {

RowStrips::RowStrips(int64_t m, int height, int low_height)
    : m_(m), height_(height), low_height_(low_height), tall_((m + height - 1) / height), count_(tall_) {
  for (int64_t low = 0; low < height && low * low_height <= m; ++low) {
    const int64_t rest = m - low * low_height;
    if (rest % height != 0) continue;
    tall_ = rest / height;
    count_ = tall_ + low;
    return;
  }
}

int64_t RowStrips::row(int64_t strip) const {
  const int64_t tall = std::min(strip, tall_);
  return std::min(m_, tall * height_ + (strip - tall) * low_height_);
}

}  // namespace evenflow::gemm
