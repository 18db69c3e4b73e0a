#pragma once

#include <cstdint>

#include "kernels/bf16.hpp"
#include "kernels/ops/host_device.hpp"

namespace evenflow::gemm {

/// Cache lines that a tile's results need: `lines` of each of its rows, stride bytes apart.
struct Lines {
  const char* at = nullptr;
  int64_t stride = 0;
  int lines = 0;

  /// Of rows whose first element is *first.
  template <class C>
  EVENFLOW_HD static Lines of(const C* first, int64_t row_stride) {
    constexpr int64_t line = 64 / sizeof(C);
    const int lines = sizeof(C) > sizeof(Bf16) ? 2 : 1;  // a tile's bfloat16 numbers fit one
    return {reinterpret_cast<const char*>(first), row_stride * static_cast<int64_t>(sizeof(C)),
            lines + (row_stride % line != 0)};
  }
};

/// What results need, asked for a line at a time while a tile is computed: all at once they would wait for
/// each other.
class Upcoming {
 public:
  Upcoming() = default;
  EVENFLOW_HD Upcoming(const Lines& first, const Lines& second) : now_(first), next_(second) {}

  /// The next line of R rows; the last one again when all have been asked for.
  template <int R>
  EVENFLOW_HD void ask() {
    __builtin_prefetch(now_.at);
    now_.at += now_.stride;
    if (++row_ < R) return;
    row_ = 0;
    if (--now_.lines > 0) {
      now_.at += 64 - R * now_.stride;
    } else if (next_.lines > 0) {
      now_ = next_;
      next_.lines = 0;
    } else {
      now_ = {now_.at - now_.stride, 0, 1};
    }
  }
  /// All of them, of `rows` rows.
  EVENFLOW_HD void ask_all(int64_t rows) const {
    const Lines both[] = {now_, next_};
    for (const Lines& lines : both) {
      for (int64_t i = 0; i < rows; ++i) {
        for (int l = 0; l < lines.lines; ++l) __builtin_prefetch(lines.at + i * lines.stride + 64 * l);
      }
    }
  }

 private:
  Lines now_, next_;
  int row_ = 0;
};

/// upcoming.ask_all(rows), which would be in every tile otherwise.
void ask_all(const Upcoming& upcoming, int64_t rows);

}  // namespace evenflow::gemm
