// Matrix products of rows that begin anywhere with matrices packed in panels.
//
// A tile of a few rows times one panel stays in registers until its sums are whole. Every element is
// one sum in one order, whatever the other rows are.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "functions.h"
#include "team.h"

namespace gesso {

#if defined(__AVX512F__)
constexpr int LANES = 16, TILE = 12;
#elif defined(__AVX__)
constexpr int LANES = 8, TILE = 6;
#else
constexpr int LANES = 4, TILE = 6;
#endif
constexpr int PANEL = 2 * LANES;
// Rows that share a task: their activations stay in the core's own cache.
constexpr int64_t BLOCK = 96;

typedef float Vector __attribute__((vector_size(LANES * 4)));
typedef float Loose __attribute__((vector_size(LANES * 4), aligned(4)));

inline Vector load(const float* p) { return *reinterpret_cast<const Loose*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<Loose*>(p) = v; }
// The next multiple.
inline int64_t up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// ROWS rows times one panel whose lines are `stride` apart.
template <int ROWS>
inline void tile(const float* const* a, const float* b, int64_t stride, int64_t depth,
                 Vector (&out)[TILE][2]) {
  Vector sum[ROWS][2] = {};
  const float* row[ROWS];
  for (int r = 0; r < ROWS; ++r) row[r] = a[r];
  for (int64_t k = 0; k < depth; ++k, b += stride) {
    const Vector low = load(b), high = load(b + LANES);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      sum[r][0] += row[r][k] * low;
      sum[r][1] += row[r][k] * high;
    }
  }
  for (int r = 0; r < ROWS; ++r) out[r][0] = sum[r][0], out[r][1] = sum[r][1];
}

template <int ROWS = TILE>
inline void some_rows(int64_t rows, const float* const* a, const float* b, int64_t stride,
                      int64_t depth, Vector (&out)[TILE][2]) {
  if (rows >= ROWS) return tile<ROWS>(a, b, stride, depth, out);
  if constexpr (ROWS > 1) some_rows<ROWS - 1>(rows, a, b, stride, depth, out);
}

// use(row, low half, high half) of each row's product with one panel.
template <class Use>
void product(int64_t rows, const float* const* a, const float* b, int64_t stride, int64_t depth,
             Use use) {
  Vector out[TILE][2];
  for (int64_t r = 0; r < rows; r += TILE) {
    const int64_t count = std::min<int64_t>(TILE, rows - r);
    some_rows(count, a + r, b, stride, depth, out);
    for (int64_t i = 0; i < count; ++i) use(r + i, out[i][0], out[i][1]);
  }
}

struct Matrix {
  const float* panels;
  int64_t depth, outputs;  // outputs a multiple of PANEL

  const float* panel(int64_t i) const { return panels + i * depth * PANEL; }
  int64_t count() const { return outputs / PANEL; }
};

// Rows of a buffer, and where each begins.
struct Rows {
  std::vector<float> data;
  std::vector<const float*> at;
  int64_t stride = 0;

  void shape(int64_t rows, int64_t width) {
    stride = up(width, PANEL);
    data.resize(rows * stride);
    at.resize(rows);
    for (int64_t i = 0; i < rows; ++i) at[i] = &data[i * stride];
  }
  float* operator[](int64_t row) { return &data[row * stride]; }
};

// A stage's share of x @ matrix: tasks are (block of rows, panel).
struct Tasks {
  int64_t rows, panels;
  int64_t count() const { return (rows + BLOCK - 1) / BLOCK * panels; }
  int64_t first(int64_t i) const { return i / panels * BLOCK; }
  int64_t size(int64_t i) const { return std::min(BLOCK, rows - first(i)); }
  int64_t panel(int64_t i) const { return i % panels; }
};

inline void multiply(Team& team, Rows& x, const Matrix& matrix, Rows& y) {
  const Tasks tasks{static_cast<int64_t>(x.at.size()), matrix.count()};
  team.each(tasks.count(), [&](int64_t i) {
    const int64_t first = tasks.first(i), panel = tasks.panel(i);
    product(tasks.size(i), &x.at[first], matrix.panel(panel), PANEL, matrix.depth,
            [&](int64_t row, Vector low, Vector high) {
              float* out = y[first + row] + panel * PANEL;
              store(out, low), store(out + LANES, high);
            });
  });
}

// y = gelu(x @ gate) * (x @ up), for one panel.
template <class Out>
void gated(int64_t rows, const float* const* x, const Matrix& gate, const Matrix& up, int64_t panel,
           Out out) {
  Vector left[TILE][2], right[TILE][2];
  for (int64_t r = 0; r < rows; r += TILE) {
    const int64_t count = std::min<int64_t>(TILE, rows - r);
    some_rows(count, x + r, gate.panel(panel), PANEL, gate.depth, left);
    some_rows(count, x + r, up.panel(panel), PANEL, up.depth, right);
    // All rows of the tile in one loop: the function's steps wait for one another, rows do not.
    float* g = reinterpret_cast<float*>(left);
    const float* u = reinterpret_cast<const float*>(right);
#pragma omp simd
    for (int64_t j = 0; j < count * PANEL; ++j) g[j] = gelu(g[j]) * u[j];
    for (int64_t i = 0; i < count; ++i) {
      float* y = out(r + i) + panel * PANEL;
      store(y, left[i][0]), store(y + LANES, left[i][1]);
    }
  }
}

}  // namespace gesso
