// A pass of the whole network in one call, in float32; products may read bfloat16. Over canvases: embedding,
// self-conditioning, all layers, head, softmax, entropy, argmax, and the soft embedding for the next
// step. Over new columns of a prompt: embedding, all layers with causal attention, last norm.
//
// A small network on a CPU spends its time between matrix products: here threads meet at barriers,
// and what follows a product is done while the result is in registers. A row's bits depend on that
// row alone: not on batch mates, padding, chunks, or the number of threads.
//
//   T tokens = B rows * L places, M hidden, H query heads, K key-value heads, D head
//   dimension, S cached columns, E experts, V vocabulary
//
// Matrices come packed (library.py): panels of PANEL outputs, each (depth, PANEL), of bfloat16
// (depth / 2, PANEL, 2); outputs and depths filled up with zeros. Work buffers have rows of a multiple
// of PANEL elements. The router's product stays in float32: it decides which experts are asked.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "functions.h"
#include "interface.h"
#include "products.h"
#include "team.h"

using namespace gesso;

namespace {

// E: what products read, float or bfloat16.
template <class E>
class Pass {
 public:
  Pass(const NetworkWeights<E>& network, const Work& work)
      : n_(network), work_(work), causal_(work.window > 0),
        team_(static_cast<int>(work.threads)), tokens_(work.rows * work.length) {
    int64_t heads = 0, qkv = 0, inner = std::max(n_.soft_gate.outputs, int64_t(PANEL));
    for (int64_t i = 0; i < n_.layers; ++i) {
      const LayerWeights<E>& w = n_.layer[i];
      heads = std::max(heads, w.heads * w.head_dim);
      qkv = std::max(qkv, w.qkv.outputs);
      inner = std::max(inner, w.gate.outputs);
    }
    const int64_t pairs = tokens_ * n_.chosen, width = n_.hidden;
    x_.shape(tokens_, width);
    in_.shape(tokens_, width);
    sparse_in_.shape(tokens_, width);
    sparse_.shape(tokens_, width);
    out_.shape(tokens_, width);
    router_in_.shape(tokens_, width);
    router_out_.shape(tokens_, n_.layer[0].router.outputs);
    qkv_.shape(tokens_, qkv);
    attended_.shape(tokens_, heads);
    inner_.shape(tokens_, inner);
    expert_inner_.shape(pairs, n_.layer[0].expert_gate.outputs);
    expert_out_.shape(pairs, width);
    expert_.resize(pairs);
    place_.resize(pairs);
    weight_.resize(pairs);
    start_.resize(n_.experts + 1);
    expert_x_.resize(pairs);
    if (!causal_ && !AS_THEY_ARE) believed_.shape(tokens_, n_.vocabulary);
  }

  void run() {
    team_.run([this] {
      causal_ ? embed() : condition();
      for (int64_t i = 0; i < n_.layers; ++i) {
        attention(n_.layer[i], work_.columns[i]);
        feed_forward(n_.layer[i], i + 1 < n_.layers ? n_.layer[i + 1].attention_norm : n_.final_norm);
      }
      causal_ ? hand_over() : read();
    });
  }

 private:
  // Whether products read numbers that were not rounded for them.
  static constexpr bool AS_THEY_ARE = std::is_same_v<E, float>;

  // Stages run on every thread of the team; nothing but what tasks write is shared.
  template <class Row>
  void each_token(Row row) {
    constexpr int64_t some = 4;
    team_.each((tokens_ + some - 1) / some, [&](int64_t i) {
      for (int64_t t = i * some; t < std::min(tokens_, (i + 1) * some); ++t) row(t);
    });
  }

  void embed() {
    const int64_t m = n_.hidden;
    each_token([&](int64_t t) {
      float* x = x_[t];
      const float* token = n_.embed + work_.tokens[t] * m;
#pragma omp simd
      for (int64_t j = 0; j < m; ++j) x[j] = token[j] * n_.embed_scale;
      norm(x, n_.layer[0].attention_norm, in_[t], m, n_.eps);
    });
  }

  void hand_over() {
    const int64_t m = n_.hidden;
    each_token([&](int64_t t) { norm(x_[t], n_.final_norm, work_.hidden + t * m, m, n_.eps); });
  }

  // Embedding and self-conditioning of canvases.
  void condition() {
    const int64_t m = n_.hidden;
    if (work_.soft != nullptr) {
      each_token([&](int64_t t) { norm(work_.soft + t * m, n_.soft_norm, in_[t], m, n_.eps); });
      const Tasks tasks{tokens_, n_.soft_gate.count()};
      team_.each(tasks.count(), [&](int64_t i) {
        const int64_t first = tasks.first(i), panel = tasks.panel(i);
        gated(tasks.size(i), &in_.at[first], n_.soft_gate.panel(panel), n_.soft_up.panel(panel),
              inner_.place(first, panel));
      });
      multiply(team_, inner_, n_.soft_down, out_);
    }
    each_token([&](int64_t t) {
      float* x = x_[t];
      const float *token = n_.embed + work_.tokens[t] * m, *soft = out_[t];
      const float share = work_.soft != nullptr ? 1.0f : 0.0f;
#pragma omp simd
      for (int64_t j = 0; j < m; ++j) x[j] = token[j] * n_.embed_scale + share * soft[j];
      norm(x, nullptr, x, m, n_.eps);
      norm(x, n_.layer[0].attention_norm, in_[t], m, n_.eps);
    });
  }

  void attention(const LayerWeights<E>& w, const LayerColumns& c) {
    multiply(team_, in_, w.qkv, qkv_);
    const int64_t d = w.head_dim, wide = up(d, PANEL), length = work_.length;
    const int64_t columns = up(c.cached + length, PANEL);
    each_token([&](int64_t t) { turn_heads(w, c, t, columns, wide); });
    constexpr int64_t queries = 8 * TILE;  // of a head, in a task
    const int64_t parts = (length + queries - 1) / queries;
    team_.each(work_.rows * w.heads * parts, [&](int64_t task) {
      const int64_t first = task % parts * queries, pair = task / parts;
      each_tile(std::min(queries, length - first), [&](int64_t r, int64_t count) {
        attend(w, c, pair / w.heads, pair % w.heads, first + r, count);
      });
    });
    multiply(team_, attended_, w.o, out_);
  }

  // A tile of one row's queries, which are rows of `qkv_`, by one head.
  void attend(const LayerWeights<E>& w, const LayerColumns& c, int64_t b, int64_t head, int64_t first,
              int64_t count) {
    const int64_t d = w.head_dim, wide = up(d, PANEL), token = b * work_.length + first;
    const int64_t columns = up(c.cached + work_.length, PANEL);
    // The panels of columns that any of the queries looks at.
    const int64_t from = span(w, c, first).from / PANEL * PANEL;
    const int64_t size = up(span(w, c, first + count - 1).to, PANEL) - from;
    const int64_t pair = b * w.kv_heads + head / (w.heads / w.kv_heads);
    const float* keys = c.keys + (pair * columns + from) * d;
    const float* values = c.values + (pair * columns + from) * wide;
    thread_local std::vector<float> scores;
    scores.resize(TILE * size);
    const Place<float> lines{scores.data(), size};
    const float *query[TILE], *weights[TILE];
    for (int64_t i = 0; i < count; ++i) {
      query[i] = qkv_[token + i] + head * d;
      weights[i] = lines[i];
    }
    for (int64_t p = 0; p < size; p += PANEL)
      tile(count, query, Panel<float>{keys + p * d, PANEL, d}, {lines.first + p, size});
    for (int64_t i = 0; i < count; ++i) {
      const Span seen = span(w, c, first + i);
      const float none = -std::numeric_limits<float>::infinity();
      std::fill(lines[i], lines[i] + seen.from - from, none);
      std::fill(lines[i] + seen.to - from, lines[i] + size, none);
      weigh(lines[i], c.bias + b * columns + from, size);
    }
    // Column by column, as the values are added too: columns of weight 0 then change nothing,
    // wherever they stand, and neither padding nor chunks can be told from the sum.
    float sum[TILE] = {};
    for (int64_t j = 0; j < size; ++j)
      for (int64_t i = 0; i < count; ++i) sum[i] += weights[i][j];
    for (int64_t p = 0; p < wide; p += PANEL) {
      float out[TILE * PANEL];
      tile(count, weights, Panel<float>{values + p, wide, size}, {out, PANEL});
      const int64_t width = std::min<int64_t>(PANEL, d - p);
      for (int64_t i = 0; i < count; ++i) {
        E* y = attended_[token + i] + head * d + p;
#pragma omp simd
        for (int64_t j = 0; j < width; ++j) y[j] = narrow<E>(out[i * PANEL + j] / sum[i]);
      }
    }
  }

  struct Span {
    int64_t from, to;
  };

  // The columns that a query may look at: all, or those up to its own, as far as the window goes.
  Span span(const LayerWeights<E>& w, const LayerColumns& c, int64_t query) const {
    if (!causal_) return {0, c.cached + work_.length};
    const int64_t to = c.cached + query + 1;
    return {w.full ? 0 : std::max<int64_t>(0, to - work_.window), to};
  }

  // Scores to weights, before they are divided by their sum.
  static void weigh(float* scores, const float* bias, int64_t columns) {
    float most = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : most)
    for (int64_t j = 0; j < columns; ++j) {
      scores[j] += bias[j];
      most = std::max(most, scores[j]);
    }
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) scores[j] = exponential(scores[j] - most);
  }

  // Norms and rotations of one token's heads; its key and value go to their columns.
  void turn_heads(const LayerWeights<E>& w, const LayerColumns& c, int64_t t, int64_t columns,
                  int64_t wide) {
    const int64_t d = w.head_dim, half = d / 2, b = t / work_.length;
    const int64_t column = c.cached + t % work_.length;
    const float *cos = work_.cos[w.full] + t * half, *sin = work_.sin[w.full] + t * half;
    float *query = qkv_[t], *key = query + w.heads * d;
    const float* value = w.full ? key : key + w.kv_heads * d;
    auto rotate = [&](float* x) {
#pragma omp simd
      for (int64_t j = 0; j < half; ++j) {
        const float first = x[j], second = x[j + half];
        x[j] = first * cos[j] - second * sin[j];
        x[j + half] = second * cos[j] + first * sin[j];
      }
    };
    for (int64_t h = 0; h < w.heads; ++h) {
      norm(query + h * d, w.q_norm, query + h * d, d, n_.eps);
      rotate(query + h * d);
    }
    for (int64_t h = 0; h < w.kv_heads; ++h) {
      const int64_t pair = b * w.kv_heads + h;
      // Full layers take the raw key for the value: before the key's norm.
      float* kept = c.values + (pair * columns + column) * wide;
      norm(value + h * d, nullptr, kept, d, n_.eps);
      norm(key + h * d, w.k_norm, key + h * d, d, n_.eps);
      rotate(key + h * d);
      float* out = c.keys + pair * columns * d + column / PANEL * d * PANEL + column % PANEL;
      // As the cache will have them, so that chunks of a prompt cannot be told apart.
      if (work_.halves) {
        for (int64_t j = 0; j < d; ++j) kept[j] = rounded(kept[j]);
        for (int64_t j = 0; j < d; ++j) key[h * d + j] = rounded(key[h * d + j]);
      }
      for (int64_t j = 0; j < d; ++j) out[j * PANEL] = key[h * d + j];
    }
  }

  void feed_forward(const LayerWeights<E>& w, const float* next_norm) {
    const int64_t m = n_.hidden, k = n_.chosen;
    each_token([&](int64_t t) {
      float *x = x_[t], *out = out_[t];
      norm(out, w.post_attention_norm, out, m, n_.eps);
#pragma omp simd
      for (int64_t j = 0; j < m; ++j) x[j] += out[j];
      norm(x, w.mlp_norm, in_[t], m, n_.eps);
      norm(x, w.moe_norm, sparse_in_[t], m, n_.eps);
      float* y = router_in_[t];
      norm(x, nullptr, y, m, n_.eps);
      const float root = 1.0f / std::sqrt(static_cast<float>(m));
#pragma omp simd
      for (int64_t j = 0; j < m; ++j) y[j] *= w.router_scale[j] * root;
    });
    multiply(team_, router_in_, w.router, router_out_);
    each_token([&](int64_t t) { route(w, t); });
    // Sorted by expert.
    team_.each(1, [&](int64_t) {
      std::fill(start_.begin(), start_.end(), 0);
      for (int64_t e : expert_) ++start_[e + 1];
      for (int64_t e = 0; e < n_.experts; ++e) start_[e + 1] += start_[e];
      std::vector<int64_t> next(start_.begin(), start_.end());
      for (int64_t p = 0; p < tokens_ * k; ++p) {
        place_[p] = next[expert_[p]]++;
        expert_x_[place_[p]] = sparse_in_.at[p / k];
      }
    });
    // The dense and the sparse branch beside each other.
    const Tasks dense{tokens_, w.gate.count()};
    const int64_t inner = w.expert_gate.count(), outer = w.expert_down.count();
    team_.each(dense.count() + n_.experts * inner, [&](int64_t i) {
      if (i < dense.count()) {
        const int64_t first = dense.first(i), panel = dense.panel(i);
        gated(dense.size(i), &in_.at[first], w.gate.panel(panel), w.up.panel(panel),
              inner_.place(first, panel));
        return;
      }
      const int64_t e = (i - dense.count()) / inner, panel = (i - dense.count()) % inner;
      const int64_t first = start_[e];
      gated(start_[e + 1] - first, expert_x_.data() + first, of(w.expert_gate, e).panel(panel),
            of(w.expert_up, e).panel(panel), expert_inner_.place(first, panel));
    });
    const Tasks down{tokens_, w.down.count()};
    team_.each(down.count() + n_.experts * outer, [&](int64_t i) {
      if (i < down.count()) {
        const int64_t first = down.first(i), panel = down.panel(i);
        product(down.size(i), &inner_.at[first], w.down.panel(panel), out_.place(first, panel));
        return;
      }
      const int64_t e = (i - down.count()) / outer, panel = (i - down.count()) % outer;
      const int64_t first = start_[e];
      product(start_[e + 1] - first, expert_inner_.at.data() + first, of(w.expert_down, e).panel(panel),
              expert_out_.place(first, panel));
    });
    each_token([&](int64_t t) {
      float *x = x_[t], *dense_out = out_[t], *sparse = sparse_[t];
      norm(dense_out, w.post_mlp_norm, dense_out, m, n_.eps);
      std::fill_n(sparse, m, 0.0f);
      for (int64_t j = 0; j < k; ++j) {
        const float *y = expert_out_[place_[t * k + j]], share = weight_[t * k + j];
#pragma omp simd
        for (int64_t i = 0; i < m; ++i) sparse[i] += share * y[i];
      }
      norm(sparse, w.post_moe_norm, sparse, m, n_.eps);
#pragma omp simd
      for (int64_t i = 0; i < m; ++i) sparse[i] += dense_out[i];
      norm(sparse, w.post_norm, sparse, m, n_.eps);
#pragma omp simd
      for (int64_t i = 0; i < m; ++i) x[i] = (x[i] + sparse[i]) * w.scalar[causal_];
      norm(x, next_norm, in_[t], m, n_.eps);
    });
  }

  static Matrix<E> of(const Matrix<E>& first, int64_t expert) {
    return {first.panels + expert * first.depth * first.outputs, first.depth, first.outputs};
  }

  // The k most probable experts of one token and their weights, renormalised, then scaled.
  void route(const LayerWeights<E>& w, int64_t t) {
    float *logits = router_out_[t], *end = logits + n_.experts;
    const float most = *std::max_element(logits, end);
    for (float* p = logits; p < end; ++p) *p = exponential(*p - most);
    float sum = 0;
    int64_t* expert = &expert_[t * n_.chosen];
    float* weight = &weight_[t * n_.chosen];
    for (int64_t j = 0; j < n_.chosen; ++j) {
      float* best = std::max_element(logits, end);
      expert[j] = best - logits;
      sum += weight[j] = *best;
      *best = -1.0f;
    }
    for (int64_t j = 0; j < n_.chosen; ++j) weight[j] *= w.expert_scale[expert[j]] / sum;
  }

  void read() {
    const int64_t m = n_.hidden, v = n_.vocabulary;
    const Tasks tasks{tokens_, n_.head.count()};
    team_.each(tasks.count(), [&](int64_t task) {
      const int64_t first = tasks.first(task), from = tasks.panel(task) * PANEL;
      const int64_t width = std::min<int64_t>(PANEL, v - from);
      const Panel<E> panel = n_.head.panel(tasks.panel(task));
      each_tile(tasks.size(task), [&](int64_t r, int64_t count) {
        float logits[TILE * PANEL];
        tile(count, &in_.at[first + r], panel, Place<float>{logits, PANEL});
#pragma omp simd
        for (int64_t j = 0; j < count * PANEL; ++j)
          logits[j] = hyperbolic_tangent(logits[j] * (1.0f / n_.softcap)) * n_.softcap;
        for (int64_t i = 0; i < count; ++i) {
          const int64_t t = first + r + i;
          const float cool = 1.0f / work_.temperature[t / work_.length];
          float* out = work_.probabilities + t * v + from;
          for (int64_t j = 0; j < width; ++j) out[j] = logits[i * PANEL + j] * cool;
        }
      });
    });
    each_token([&](int64_t t) {
      float* row = work_.probabilities + t * v;
      believe(row, v, t);
      if constexpr (!AS_THEY_ARE) {
        E* y = believed_[t];
#pragma omp simd
        for (int64_t j = 0; j < v; ++j) y[j] = narrow<E>(row[j]);
      }
    });
    std::vector<const E*> row(BLOCK);
    const Tasks back{tokens_, n_.embedding.count()};
    team_.each(back.count(), [&](int64_t task) {
      const int64_t first = back.first(task), rows = back.size(task), from = back.panel(task) * PANEL;
      const int64_t width = std::min<int64_t>(PANEL, m - from);
      for (int64_t r = 0; r < rows; ++r) {
        if constexpr (AS_THEY_ARE) row[r] = work_.probabilities + (first + r) * v;
        else row[r] = believed_[first + r];
      }
      const Panel<E> panel = n_.embedding.panel(back.panel(task));
      each_tile(rows, [&](int64_t r, int64_t count) {
        float soft[TILE * PANEL];
        tile(count, &row[r], panel, Place<float>{soft, PANEL});
        for (int64_t i = 0; i < count; ++i) {
          float* out = work_.soft_out + (first + r + i) * m + from;
          for (int64_t j = 0; j < width; ++j) out[j] = soft[i * PANEL + j] * n_.embed_scale;
        }
      });
    });
  }

  // Logits of one place to probabilities, with their entropy in nats and the first largest.
  void believe(float* logits, int64_t v, int64_t t) {
    float most = -std::numeric_limits<float>::infinity(), sum = 0, along = 0;
#pragma omp simd reduction(max : most)
    for (int64_t j = 0; j < v; ++j) most = std::max(most, logits[j]);
    work_.argmax[t] = std::find(logits, logits + v, most) - logits;
    // H = log sum - sum(e x) / sum, with x = logit - most and e = exp(x)
#pragma omp simd reduction(+ : sum, along)
    for (int64_t j = 0; j < v; ++j) {
      const float x = logits[j] - most;
      logits[j] = exponential(x);
      sum += logits[j];
      along += logits[j] * x;
    }
    work_.entropy[t] = std::log(sum) - along / sum;
    const float share = 1.0f / sum;
#pragma omp simd
    for (int64_t j = 0; j < v; ++j) logits[j] *= share;
  }

  const NetworkWeights<E>& n_;
  const Work& work_;
  const bool causal_;
  Team team_;
  const int64_t tokens_;
  Rows<float> x_, out_, qkv_, router_in_, router_out_, sparse_, expert_out_;
  Rows<E> in_, sparse_in_, attended_, inner_, expert_inner_, believed_;
  std::vector<int64_t> expert_, place_, start_;
  std::vector<float> weight_;
  std::vector<const E*> expert_x_;
};

// Whether it ran: not with a token that the vocabulary does not have.
template <class E>
bool run(const NetworkWeights<E>& network, const Work& work) {
  for (int64_t i = 0; i < work.rows * work.length; ++i)
    if (work.tokens[i] < 0 || work.tokens[i] >= network.vocabulary) return false;
  Pass<E>(network, work).run();
  return true;
}

}  // namespace

extern "C" {

int gesso_panel() { return PANEL; }

bool gesso_has_bfloat16() { return HAS_BFLOAT16; }

bool gesso_pass(const NetworkWeights<float>* network, const Work* work) {
  return run(*network, *work);
}

#if defined(__AVX512BF16__)
bool gesso_pass_bfloat16(const NetworkWeights<bfloat16>* network, const Work* work) {
  return run(*network, *work);
}
#endif
}
