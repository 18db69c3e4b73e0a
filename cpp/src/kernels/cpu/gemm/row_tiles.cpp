#include "kernels/cpu/gemm/row_tiles.hpp"

#include <algorithm>

namespace evenflow::gemm {

RowTiles::RowTiles(int64_t m, int height, int low_height)
    : m_(m), height_(height), low_height_(low_height), tall_((m + height - 1) / height), count_(tall_) {
  for (int64_t low = 0; low < height && low * low_height <= m; ++low) {
    const int64_t rest = m - low * low_height;
    if (rest % height != 0) continue;
    tall_ = rest / height;
    count_ = tall_ + low;
    return;
  }
}

int64_t RowTiles::row(int64_t tile) const {
  const int64_t tall = std::min(tile, tall_);
  return std::min(m_, tall * height_ + (tile - tall) * low_height_);
}

}  // namespace evenflow::gemm
