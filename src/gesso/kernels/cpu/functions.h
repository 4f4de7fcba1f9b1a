// Elementary functions and the norm, written so that the compiler makes vectors of their loops; which
// it does not where it calls them.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace gesso {

// A float's upper half.
using bfloat16 = uint16_t;

// To what products read; the nearest, a tie to the even one.
template <class E>
[[gnu::always_inline]] inline E narrow(float x) {
  if constexpr (std::is_same_v<E, float>) {
    return x;
  } else {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
}

// What is left of a float that is kept in bfloat16.
[[gnu::always_inline]] inline float rounded(float x) {
  const uint32_t bits = static_cast<uint32_t>(narrow<bfloat16>(x)) << 16;
  std::memcpy(&x, &bits, 4);
  return x;
}

// e^x to about 1e-7 of the value; 0 below -87.
[[gnu::always_inline]] inline float exponential(float x) {
  const float inside = std::min(std::max(x, -87.0f), 88.0f);
  const float shifted = inside * 1.44269504f + 12582912.0f;  // rounds to a whole number
  const float n = shifted - 12582912.0f;
  const float r = inside - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  int32_t bits;
  std::memcpy(&bits, &p, 4);
  bits += static_cast<int32_t>(n) << 23;
  float y;
  std::memcpy(&y, &bits, 4);
  return x < -87.0f ? 0.0f : y;
}

// Odd rational approximation, to about 1e-7 of the value.
[[gnu::always_inline]] inline float hyperbolic_tangent(float x) {
  const float z = std::min(std::max(x, -9.0f), 9.0f), s = z * z;
  float p = -2.76076847742355e-16f;
  p = p * s + 2.00018790482477e-13f;
  p = p * s - 8.60467152213735e-11f;
  p = p * s + 5.12229709037114e-08f;
  p = p * s + 1.48572235717979e-05f;
  p = p * s + 6.37261928875436e-04f;
  p = p * s + 4.89352455891786e-03f;
  float q = 1.19825839466702e-06f;
  q = q * s + 1.18534705686654e-04f;
  q = q * s + 2.26843463243900e-03f;
  q = q * s + 4.89352518554385e-03f;
  return z * p / q;
}

[[gnu::always_inline]] inline float gelu(float x) {
  return x / (1.0f + exponential(-x * (1.59576912f + 0.07135481f * x * x)));
}

// y = w * x / rms(x); without w where it is null.
template <class E>
inline void norm(const float* x, const float* weight, E* y, int64_t size, float eps) {
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < size; ++i) squares += x[i] * x[i];
  const float inverse = 1.0f / std::sqrt(squares / size + eps);
  if (weight == nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) y[i] = narrow<E>(x[i] * inverse);
  } else {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) y[i] = narrow<E>(x[i] * inverse * weight[i]);
  }
}

}  // namespace gesso
