// Vectors of floats, and the activations of an LSTM on them.
//
// The vector extensions of GCC and Clang: one source for AVX-512, AVX2, SSE and NEON. A `Vec` is an
// ordinary value with + - * /; the compiler picks the instructions.

#ifndef LSTM_JAX_VECTOR_H_
#define LSTM_JAX_VECTOR_H_

#include <cstdint>
#include <cstring>

#if defined(__AVX__)
#include <immintrin.h>
#endif

// Loops over a number of registers: written out, or the registers would be memory. Others, with a number of
// turns that is known at run time: four turns in one.
#if defined(__clang__)
#define LSTM_JAX_UNROLL _Pragma("clang loop unroll(full)")
#define LSTM_JAX_UNROLL_BY_4 _Pragma("clang loop unroll_count(4)")
#define LSTM_JAX_UNROLL_16 LSTM_JAX_UNROLL
#else
#define LSTM_JAX_UNROLL _Pragma("GCC unroll 8")
#define LSTM_JAX_UNROLL_BY_4 _Pragma("GCC unroll 4")
#define LSTM_JAX_UNROLL_16 _Pragma("GCC unroll 16")
#endif

// What is computed for every number. A compiler left alone gives up inlining where there is much of it, and to call a
// function here costs more than what it does.
#define LSTM_JAX_INLINE inline __attribute__((always_inline))

namespace lstm_jax {

// kLanes: floats in a register. kRows: rows of a register tile that is 4 vectors wide. Its 4 * kRows sums,
// kRows inputs and one vector of weights have to fit: 6 where there are 32 registers, 3 where there are 16.
#if defined(__AVX512F__) || defined(LSTM_JAX_EMULATE_TILES)  // tiles are 16 floats wide
constexpr int kLanes = 16;
constexpr int kRows = 6;
#elif defined(__AVX__)
constexpr int kLanes = 8;
constexpr int kRows = 3;
#elif defined(__aarch64__)
constexpr int kLanes = 4;
constexpr int kRows = 6;
#else
constexpr int kLanes = 4;
constexpr int kRows = 3;
#endif

typedef float Vec __attribute__((vector_size(kLanes * sizeof(float))));
typedef std::uint32_t Bits __attribute__((vector_size(kLanes * sizeof(float))));

LSTM_JAX_INLINE Vec Load(const float* from) {  // needs no alignment
  Vec v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

LSTM_JAX_INLINE void Store(float* to, Vec v) { std::memcpy(to, &v, sizeof v); }

// At the end of a row: no more than `count` lanes; the others are loaded as zero.
LSTM_JAX_INLINE Vec LoadLanes(const float* from, std::int64_t count) {
  if (count >= kLanes) return Load(from);
  Vec v = {};
  if (count > 0) std::memcpy(&v, from, count * sizeof(float));
  return v;
}

LSTM_JAX_INLINE void StoreLanes(float* to, Vec v, std::int64_t count) {
  if (count >= kLanes) return Store(to, v);
  if (count > 0) std::memcpy(to, &v, count * sizeof(float));
}

// Ask for `count` floats that will be read soon, into the second cache: the nearest one keeps what it has.
LSTM_JAX_INLINE void Prefetch(const float* from, std::int64_t count) {
  constexpr int kLine = 16;  // floats of a cache line
  for (std::int64_t at = 0; at < count; at += kLine) __builtin_prefetch(from + at, 0, 2);
}

// to = or, with `add`, += v.
LSTM_JAX_INLINE void Put(float* to, Vec v, bool add) { Store(to, add ? Load(to) + v : v); }

#if defined(__AVX512F__)
// All lanes: GCC 12 warns of an undefined value in the functions that take no mask (its bug 105593).
constexpr __mmask16 kAll = 0xffff;
#endif

LSTM_JAX_INLINE Vec Broadcast(float x) { return x - Vec{}; }

// v, in a register. GCC makes a load a part of each instruction that uses what was loaded, and loads again
// for each; a register tile then waits for its loads (AVX2: the products took 1.3 times as long).
LSTM_JAX_INLINE Vec InRegister(Vec v) {
#if defined(LSTM_JAX_EMULATE_TILES)  // a vector may be more than a register
#elif defined(__x86_64__)
  asm("" : "+v"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#endif
  return v;
}

// What is read through `next` is read after `sum`, and `factor` outlives the product that was added to `sum`. Clang
// would read ahead for all of a register tile and let products take the place of sums; then some sums are in memory
// (AVX2: the gradients took 1.4 times as long).
LSTM_JAX_INLINE void ReadAfter(const float*& next, Vec& sum, Vec factor) {
#if !defined(__clang__) || defined(LSTM_JAX_EMULATE_TILES)
  (void)next, (void)sum, (void)factor;
#elif defined(__x86_64__)
  asm("" : "+r"(next), "+v"(sum) : "v"(factor));
#elif defined(__aarch64__)
  asm("" : "+r"(next), "+w"(sum) : "w"(factor));
#endif
}

// 1 / x. AVX-512 divides slowly: an estimate of 14 bits and one step of Newton's method are 4 times as fast.
LSTM_JAX_INLINE Vec Reciprocal(Vec x) {
#if defined(__AVX512F__)
  const Vec y = (Vec)_mm512_maskz_rcp14_ps(kAll, (__m512)x);
  return y + y * (1.0f - x * y);
#else
  return 1.0f / x;
#endif
}

// x within [low, high]; a NaN stays one (of two operands, a NaN among them, x86 takes the second).
LSTM_JAX_INLINE Vec Clamp(Vec x, float low, float high) {
  const Vec lowest = Broadcast(low), highest = Broadcast(high);
#if defined(__AVX512F__)
  return (Vec)_mm512_maskz_min_ps(kAll, (__m512)highest, _mm512_maskz_max_ps(kAll, (__m512)lowest, (__m512)x));
#elif defined(__AVX__) && !defined(LSTM_JAX_EMULATE_TILES)
  return (Vec)_mm256_min_ps((__m256)highest, _mm256_max_ps((__m256)lowest, (__m256)x));
#else
  x = x < lowest ? lowest : x;
  return x > highest ? highest : x;
#endif
}

// e^x = scale + scale * remainder, where scale = 2^n and remainder = e^(x - n ln 2) - 1, for x from -87 to
// 88, where scale is a normal number. Kept apart, the two give e^x - 1 without cancellation.
struct Exponential {
  Vec scale, remainder;
};

LSTM_JAX_INLINE Exponential Exp(Vec x) {
  constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147182f;  // off by 2e-9: at most 2.4e-7 for n = 126
  // 1.5 * 2^23: adding it rounds to a whole number, which then stands in the low bits.
  constexpr float kRound = 12582912.0f;
  const Vec shifted = x * kLog2E + kRound;
  const Vec n = shifted - kRound;
  const Vec r = x - n * kLn2;  // |r| <= ln(2) / 2; without rounding in between where there is FMA
  // e^r - 1 = r + r^2 q(r); q is fitted for the least relative error, 1.3e-8 (Lawson's algorithm).
  Vec q = r * 1.3882521307095885e-3f + 8.366520516574383e-3f;
  q = q * r + 4.166720062494278e-2f;
  q = q * r + 1.666654348373413e-1f;
  q = q * r + 4.999999701976776e-1f;
  const Vec scale = (Vec)(((Bits)shifted << 23) + 0x3f800000u);
  return {scale, r * r * q + r};
}

LSTM_JAX_INLINE Vec Sigmoid(Vec x) {
  const Exponential e = Exp(-Clamp(x, -88.0f, 87.0f));
  return Reciprocal(1.0f + (e.scale * e.remainder + e.scale));
}

// tanh(x) = (e^2x - 1) / (e^2x - 1 + 2), exact to a few units in the last place for small x too. Beyond 10
// it is 1 in float32.
LSTM_JAX_INLINE Vec Tanh(Vec x) {
  const Vec y = Clamp(x, -10.0f, 10.0f);
  const Exponential e = Exp(y + y);
  const Vec t = e.scale * e.remainder + (e.scale - 1.0f);
  return t * Reciprocal(t + 2.0f);
}

}  // namespace lstm_jax

#endif  // LSTM_JAX_VECTOR_H_
