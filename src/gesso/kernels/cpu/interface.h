// What Python hands over, field by field as in library.py.

#pragma once

#include <cstdint>

#include "products.h"

namespace gesso {

// E: what products read.
template <class E>
struct LayerWeights {
  int64_t heads, kv_heads, head_dim, full;
  const float *attention_norm, *post_attention_norm, *mlp_norm, *post_mlp_norm, *moe_norm,
      *post_moe_norm, *post_norm, *q_norm, *k_norm;
  Matrix<E> qkv, o, gate, up, down;
  const float *router_scale, *expert_scale;
  Matrix<float> router;
  Matrix<E> expert_gate, expert_up, expert_down;  // of the first expert; the others follow
  float scalar[2];  // of canvases, of causal passes
};

template <class E>
struct NetworkWeights {
  int64_t layers, hidden, vocabulary, experts, chosen;
  float eps, embed_scale, softcap;
  const LayerWeights<E>* layer;
  const float *embed, *final_norm, *soft_norm;
  Matrix<E> soft_gate, soft_up, soft_down, head, embedding;
};

// A layer's columns, cached and new: keys in panels of columns (B, K, panels, D, PANEL), values
// (B, K, panels * PANEL, D rounded up), and what is added to every score (B, panels * PANEL).
struct LayerColumns {
  float *keys, *values;
  const float* bias;
  int64_t cached;
};

struct Work {
  int64_t rows, length, threads;
  int64_t window;                // of a causal pass, on sliding layers; 0 for canvases
  int64_t halves;                // whether the cache keeps bfloat16
  const int64_t* tokens;         // (B, L)
  const float *cos[2], *sin[2];  // (B, L, D/2) of sliding and of full layers
  const LayerColumns* columns;   // a layer each
  // Canvases alone: soft embeddings (B, L, M) or null, temperatures (B).
  const float *soft, *temperature;
  // What comes out. Canvases: (B, L, V), (B, L), (B, L), (B, L, M).
  float *probabilities, *entropy;
  int64_t* argmax;
  float* soft_out;
  float* hidden;  // causal passes: (B, L, M)
};

}  // namespace gesso
