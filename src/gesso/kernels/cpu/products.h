// Matrix products of rows that begin anywhere with matrices packed in panels: of floats, or, on CPUs
// with AVX512_BF16, of bfloat16 numbers with sums in float32, at twice the rate.
//
// A tile of a few rows times one panel stays in registers until its sums are whole. Every element is
// one sum in one order, whatever the other rows are.

#pragma once

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <cstdint>
#include <cstring>
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

#if defined(__AVX512BF16__)
constexpr bool HAS_BFLOAT16 = true;
#else
constexpr bool HAS_BFLOAT16 = false;
#endif
// How many depths of each output lie beside each other in a line.
template <class E>
constexpr int64_t GROUP = sizeof(float) / sizeof(E);

typedef float Vector __attribute__((vector_size(LANES * 4)));
typedef float Loose __attribute__((vector_size(LANES * 4), aligned(4)));

inline Vector load(const float* p) { return *reinterpret_cast<const Loose*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<Loose*>(p) = v; }
// The next multiple.
inline int64_t up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// `depth` lines of PANEL outputs, `stride` elements apart: some columns of a matrix.
template <class E>
struct Panel {
  const E* lines;
  int64_t stride, depth;
};

// Where rows of a product go.
template <class E>
struct Place {
  E* first;
  int64_t step;

  E* operator[](int64_t row) const { return first + row * step; }
  Place from(int64_t row) const { return {first + row * step, step}; }
};

// sum += what the outputs of half a line have at a depth, or at a group of them, times the row's.
[[gnu::always_inline]] inline void add(Vector (&sum)[2], const float* row, const float* line) {
  sum[0] += *row * load(line);
  sum[1] += *row * load(line + LANES);
}

#if defined(__AVX512BF16__)
[[gnu::always_inline]] inline void add(Vector (&sum)[2], const bfloat16* row, const bfloat16* line) {
  int32_t pair;
  std::memcpy(&pair, row, 4);
  const __m512bh two = (__m512bh)_mm512_set1_epi32(pair);
  sum[0] = _mm512_dpbf16_ps(sum[0], two, (__m512bh)_mm512_loadu_si512(line));
  sum[1] = _mm512_dpbf16_ps(sum[1], two, (__m512bh)_mm512_loadu_si512(line + 2 * LANES));
}
#endif

template <int ROWS, class E>
inline void tile(const E* const* x, const Panel<E>& panel, const Place<float>& out) {
  Vector sum[ROWS][2] = {};
  const E *row[ROWS], *line = panel.lines;
  for (int r = 0; r < ROWS; ++r) row[r] = x[r];
  for (int64_t k = 0; k < panel.depth; ++k, line += panel.stride) {
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) add(sum[r], row[r] + k * GROUP<E>, line);
  }
  for (int r = 0; r < ROWS; ++r) store(out[r], sum[r][0]), store(out[r] + LANES, sum[r][1]);
}

// At most TILE rows.
template <int ROWS = TILE, class E>
inline void tile(int64_t rows, const E* const* x, const Panel<E>& panel, const Place<float>& out) {
  if (rows >= ROWS) return tile<ROWS>(x, panel, out);
  if constexpr (ROWS > 1) tile<ROWS - 1>(rows, x, panel, out);
}

// Calls work(first row, how many) for all tiles of so many rows.
template <class Work>
inline void each_tile(int64_t rows, Work work) {
  for (int64_t r = 0; r < rows; r += TILE) work(r, std::min<int64_t>(TILE, rows - r));
}

template <class E>
inline void product(int64_t rows, const E* const* x, const Panel<E>& panel,
                    const Place<float>& out) {
  each_tile(rows, [&](int64_t r, int64_t count) { tile(count, x + r, panel, out.from(r)); });
}

// out = gelu(x @ gate) * (x @ up)
template <class E>
inline void gated(int64_t rows, const E* const* x, const Panel<E>& gate, const Panel<E>& up,
                  const Place<E>& out) {
  float left[TILE * PANEL], right[TILE * PANEL];
  for (int64_t r = 0; r < rows; r += TILE) {
    const int64_t count = std::min<int64_t>(TILE, rows - r);
    tile(count, x + r, gate, Place<float>{left, PANEL});
    tile(count, x + r, up, Place<float>{right, PANEL});
    // All rows of the tile in one loop: the function's steps wait for one another, rows do not.
#pragma omp simd
    for (int64_t j = 0; j < count * PANEL; ++j) left[j] = gelu(left[j]) * right[j];
    for (int64_t i = 0; i < count; ++i) {
      E* y = out[r + i];
#pragma omp simd
      for (int64_t j = 0; j < PANEL; ++j) y[j] = narrow<E>(left[i * PANEL + j]);
    }
  }
}

template <class E>
struct Matrix {
  const E* panels;
  int64_t depth, outputs;  // multiples of GROUP and of PANEL

  Panel<E> panel(int64_t i) const {
    return {panels + i * depth * PANEL, PANEL * GROUP<E>, depth / GROUP<E>};
  }
  int64_t count() const { return outputs / PANEL; }
};

// Rows of a buffer, and where each begins; zero where nothing was written.
template <class E>
struct Rows {
  std::vector<E> data;
  std::vector<const E*> at;
  int64_t stride = 0;

  void shape(int64_t rows, int64_t width) {
    stride = up(width, PANEL);
    data.resize(rows * stride);
    at.resize(rows);
    for (int64_t i = 0; i < rows; ++i) at[i] = data.data() + i * stride;
  }
  E* operator[](int64_t row) { return data.data() + row * stride; }
  // A panel's columns, from a row on.
  Place<E> place(int64_t row, int64_t panel) {
    return {data.data() + row * stride + panel * PANEL, stride};
  }
};

// A stage's share of x @ matrix: tasks are (block of rows, panel).
struct Tasks {
  int64_t rows, panels;
  int64_t count() const { return (rows + BLOCK - 1) / BLOCK * panels; }
  int64_t first(int64_t i) const { return i / panels * BLOCK; }
  int64_t size(int64_t i) const { return std::min(BLOCK, rows - first(i)); }
  int64_t panel(int64_t i) const { return i % panels; }
};

template <class E>
inline void multiply(Team& team, Rows<E>& x, const Matrix<E>& matrix, Rows<float>& y) {
  const Tasks tasks{static_cast<int64_t>(x.at.size()), matrix.count()};
  team.each(tasks.count(), [&](int64_t i) {
    const int64_t first = tasks.first(i), panel = tasks.panel(i);
    product(tasks.size(i), &x.at[first], matrix.panel(panel), y.place(first, panel));
  });
}

}  // namespace gesso
