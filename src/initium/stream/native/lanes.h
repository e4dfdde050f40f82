// Vectors of LANES 32-bit numbers by the compiler's vector extension, which lowers them to whatever
// the target has. Only what it cannot express well is written for single instruction sets: the
// square root, the product of the low halves of 64-bit lanes, and the fused product.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#ifdef INITIUM_INTRINSICS
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
#endif

#define INLINE inline __attribute__((always_inline))

namespace {

constexpr int LANES = INITIUM_LANES;

typedef uint32_t U __attribute__((vector_size(4 * LANES)));  // words
typedef int32_t I __attribute__((vector_size(4 * LANES)));   // words with a sign, and masks
typedef float F __attribute__((vector_size(4 * LANES)));
typedef uint64_t Q __attribute__((vector_size(4 * LANES)));  // half as many, twice as wide
typedef double D __attribute__((vector_size(4 * LANES)));

template <class V, class T> INLINE V load(const T* from) {
  V v;
  memcpy(&v, from, sizeof v);
  return v;
}
template <class V, class T> INLINE void store(T* to, V v) { memcpy(to, &v, sizeof v); }

#if defined(INITIUM_INTRINSICS) && defined(__AVX512F__)
INLINE F root(F x) { return (F)_mm512_sqrt_ps((__m512)x); }
INLINE Q product(Q a, uint32_t b) {
  return (Q)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(b));
}
// b where it is not beyond a, in the order of the arguments also for zeros.
INLINE F greatest(float a, F b) { return (F)_mm512_max_ps(_mm512_set1_ps(a), (__m512)b); }
INLINE F least(float a, F b) { return (F)_mm512_min_ps(_mm512_set1_ps(a), (__m512)b); }
INLINE D add_product(D sum, D a, D b) { return (D)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)sum); }
#elif defined(INITIUM_INTRINSICS) && defined(__AVX2__)
INLINE F root(F x) { return (F)_mm256_sqrt_ps((__m256)x); }
INLINE Q product(Q a, uint32_t b) {
  return (Q)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(b));
}
INLINE F greatest(float a, F b) { return (F)_mm256_max_ps(_mm256_set1_ps(a), (__m256)b); }
INLINE F least(float a, F b) { return (F)_mm256_min_ps(_mm256_set1_ps(a), (__m256)b); }
INLINE D add_product(D sum, D a, D b) { return (D)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)sum); }
#elif defined(INITIUM_INTRINSICS) && defined(__aarch64__)
INLINE F root(F x) { return (F)vsqrtq_f32((float32x4_t)x); }
INLINE Q product(Q a, uint32_t b) { return (Q)vmull_n_u32(vmovn_u64((uint64x2_t)a), b); }
INLINE D add_product(D sum, D a, D b) {
  return (D)vfmaq_f64((float64x2_t)sum, (float64x2_t)a, (float64x2_t)b);
}
#else
INLINE F root(F x) {
  for (int i = 0; i < LANES; i++) x[i] = __builtin_sqrtf(x[i]);
  return x;
}
INLINE Q product(Q a, uint32_t b) {
  for (int i = 0; i < LANES / 2; i++) a[i] = uint64_t(uint32_t(a[i])) * b;
  return a;
}
INLINE D add_product(D sum, D a, D b) { return sum + a * b; }
#endif

// Whether the mask holds in every lane.
INLINE bool all(I mask) {
#if defined(INITIUM_INTRINSICS) && defined(__AVX512F__)
  return _mm512_movepi32_mask((__m512i)mask) == 0xffff;
#elif defined(INITIUM_INTRINSICS) && defined(__AVX2__)
  return _mm256_movemask_ps((__m256)mask) == 0xff;
#else
  int32_t both = -1;
  for (int i = 0; i < LANES; i++) both &= mask[i];
  return both;
#endif
}

#if !defined(INITIUM_INTRINSICS) || !defined(__x86_64__)
INLINE F greatest(float a, F b) { return a > b ? F{} + a : b; }
INLINE F least(float a, F b) { return a < b ? F{} + a : b; }
#endif

// The lanes of two vectors in another order: lane i of b has number LANES + i.
template <class V, int... Order> INLINE V shuffle(V a, V b) {
#ifdef __clang__
  return __builtin_shufflevector(a, b, Order...);
#else
  return __builtin_shuffle(a, b, decltype(V{} < V{}){Order...});
#endif
}

template <class V, int... N> INLINE V zip_low(V a, V b, std::integer_sequence<int, N...>) {
  return shuffle<V, (N / 2 + N % 2 * LANES)...>(a, b);
}
template <class V, int... N> INLINE V zip_high(V a, V b, std::integer_sequence<int, N...>) {
  return shuffle<V, (LANES / 2 + N / 2 + N % 2 * LANES)...>(a, b);
}
template <int... N> INLINE U odd_lanes_twice(U a, std::integer_sequence<int, N...>) {
  return shuffle<U, (N | 1)...>(a, a);
}
template <int... N> INLINE U even_lanes(U a, U b, std::integer_sequence<int, N...>) {
  return shuffle<U, (N % 2 ? LANES + N - 1 : N)...>(a, b);
}
template <int... N> INLINE U odd_lanes(U a, U b, std::integer_sequence<int, N...>) {
  return shuffle<U, (N % 2 ? LANES + N : N + 1)...>(a, b);
}
template <int... N> INLINE Q even_counters(Q a, Q b, std::integer_sequence<int, N...>) {
  return shuffle<Q, 2 * N...>(a, b);
}
template <int... N> INLINE Q odd_counters(Q a, Q b, std::integer_sequence<int, N...>) {
  return shuffle<Q, (2 * N + 1)...>(a, b);
}
typedef std::make_integer_sequence<int, LANES> Each;
typedef std::make_integer_sequence<int, LANES / 2> Halves;

// Vectors that go through the same steps side by side, so that none waits for the one before.
template <class V, int n> struct Many {
  V v[n];
};
#define EACH for (int i = 0; i < n; i++)
#define OPERATOR(op)                                                                     \
  template <class V, int n> INLINE Many<V, n> operator op(Many<V, n> a, Many<V, n> b) {  \
    EACH a.v[i] = a.v[i] op b.v[i];                                                      \
    return a;                                                                            \
  }                                                                                      \
  template <class V, int n, class T> INLINE Many<V, n> operator op(Many<V, n> a, T b) {  \
    EACH a.v[i] = a.v[i] op b;                                                           \
    return a;                                                                            \
  }
OPERATOR(+) OPERATOR(-) OPERATOR(*) OPERATOR(^) OPERATOR(&) OPERATOR(<<) OPERATOR(>>)
#undef OPERATOR
template <int n> INLINE Many<F, n> operator-(float a, Many<F, n> b) {
  EACH b.v[i] = a - b.v[i];
  return b;
}

template <class To, class V, int n> INLINE Many<To, n> as(Many<V, n> a) {
  Many<To, n> out;
  EACH out.v[i] = (To)a.v[i];
  return out;
}
template <int n> INLINE Many<F, n> to_float(Many<U, n> words) {
  Many<F, n> out;
  EACH out.v[i] = __builtin_convertvector((I)words.v[i], F);
  return out;
}
template <int n> INLINE Many<F, n> root(Many<F, n> a) {
  EACH a.v[i] = root(a.v[i]);
  return a;
}
template <int n> INLINE Many<Q, n> product(Many<Q, n> a, uint32_t b) {
  EACH a.v[i] = product(a.v[i], b);
  return a;
}
template <int n> INLINE Many<Q, n> high_halves(Many<Q, n> a) {
  EACH a.v[i] = (Q)odd_lanes_twice((U)a.v[i], Each{});
  return a;
}
template <int n> INLINE Many<I, n> less(Many<F, n> a, float b) {
  Many<I, n> out;
  EACH out.v[i] = a.v[i] < b;
  return out;
}
template <int n> INLINE Many<F, n> select(Many<I, n> mask, Many<F, n> a, Many<F, n> b) {
  EACH a.v[i] = mask.v[i] ? a.v[i] : b.v[i];
  return a;
}
template <int n> INLINE bool all(Many<I, n> mask) {
  I both = mask.v[0];
  for (int i = 1; i < n; i++) both &= mask.v[i];
  return all(both);
}
template <class V, int n> INLINE Many<V, 2 * n> join(Many<V, n> a, Many<V, n> b) {
  Many<V, 2 * n> out;
  EACH out.v[i] = a.v[i], out.v[n + i] = b.v[i];
  return out;
}
#undef EACH

}  // namespace
