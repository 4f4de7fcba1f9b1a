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

// Lines of PANEL floats, `stride` apart: some columns of a matrix.
struct Panel {
  const float* lines;
  int64_t stride, depth;
};

// Where rows of a product go.
struct Place {
  float* first;
  int64_t step;

  float* operator[](int64_t row) const { return first + row * step; }
  Place from(int64_t row) const { return {first + row * step, step}; }
};

template <int ROWS>
inline void tile(const float* const* x, const Panel& panel, const Place& out) {
  Vector sum[ROWS][2] = {};
  const float *row[ROWS], *line = panel.lines;
  for (int r = 0; r < ROWS; ++r) row[r] = x[r];
  for (int64_t k = 0; k < panel.depth; ++k, line += panel.stride) {
    const Vector low = load(line), high = load(line + LANES);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      sum[r][0] += row[r][k] * low;
      sum[r][1] += row[r][k] * high;
    }
  }
  for (int r = 0; r < ROWS; ++r) store(out[r], sum[r][0]), store(out[r] + LANES, sum[r][1]);
}

// At most TILE rows.
template <int ROWS = TILE>
inline void tile(int64_t rows, const float* const* x, const Panel& panel, const Place& out) {
  if (rows >= ROWS) return tile<ROWS>(x, panel, out);
  if constexpr (ROWS > 1) tile<ROWS - 1>(rows, x, panel, out);
}

// Calls work(first row, how many) for all tiles of so many rows.
template <class Work>
inline void each_tile(int64_t rows, Work work) {
  for (int64_t r = 0; r < rows; r += TILE) work(r, std::min<int64_t>(TILE, rows - r));
}

inline void product(int64_t rows, const float* const* x, const Panel& panel, const Place& out) {
  each_tile(rows, [&](int64_t r, int64_t count) { tile(count, x + r, panel, out.from(r)); });
}

// out = gelu(x @ gate) * (x @ up)
inline void gated(int64_t rows, const float* const* x, const Panel& gate, const Panel& up,
                  const Place& out) {
  float left[TILE * PANEL], right[TILE * PANEL];
  for (int64_t r = 0; r < rows; r += TILE) {
    const int64_t count = std::min<int64_t>(TILE, rows - r);
    tile(count, x + r, gate, {left, PANEL});
    tile(count, x + r, up, {right, PANEL});
    // All rows of the tile in one loop: the function's steps wait for one another, rows do not.
#pragma omp simd
    for (int64_t j = 0; j < count * PANEL; ++j) left[j] = gelu(left[j]) * right[j];
    for (int64_t i = 0; i < count; ++i) {
      store(out[r + i], load(left + i * PANEL));
      store(out[r + i] + LANES, load(left + i * PANEL + LANES));
    }
  }
}

struct Matrix {
  const float* panels;
  int64_t depth, outputs;  // outputs a multiple of PANEL

  Panel panel(int64_t i) const { return {panels + i * depth * PANEL, PANEL, depth}; }
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
  // A panel's columns, from a row on.
  Place place(int64_t row, int64_t panel) { return {&data[row * stride + panel * PANEL], stride}; }
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
    product(tasks.size(i), &x.at[first], matrix.panel(panel), y.place(first, panel));
  });
}

}  // namespace gesso
