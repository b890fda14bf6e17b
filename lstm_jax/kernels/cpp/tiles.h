// Products of matrices on the tile registers of a processor (AMX of x86), which multiply bfloat16 and add up float32.
//
// Where bfloat16 is asked for, each number is rounded to one. Products of float32 take more. A float32 has 24 bits of
// significand, a bfloat16 has 8 and the same exponent. So each number is cut into three bfloat16 that add up to it
// exactly, x = x_0 + x_1 + x_2, and
//
//     x y = x_0 y_2 + x_1 y_1 + x_2 y_0 + x_0 y_1 + x_1 y_0 + x_0 y_0
//
// but for x_1 y_2 + x_2 y_1 + x_2 y_2, which are about 2^-24 of it (2^-21 at most). The products of bfloat16 are
// exact, and are summed up in float32: the result is as good as that of float32 (G. Henry, P. Tang, A. Heinecke,
// "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations", ARITH 2019), and six
// products on tiles take less than half the time of one on vectors. The authors round to the nearest bfloat16; here the
// bits are cut off, which needs fewer instructions and does not make infinity of the largest float.
//
// Two differences: of three parts, an infinite number counts as the largest float, or its second part would be NaN; and
// what is below 2^-126, a number, a part, or a sum, counts as zero.
//
// With LSTM_JAX_EMULATE_TILES defined, plain C++ takes the place of the instructions, so that this can be
// tested on every machine.

#ifndef LSTM_JAX_TILES_H_
#define LSTM_JAX_TILES_H_

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "lstm.h"

#if defined(LSTM_JAX_EMULATE_TILES) || (defined(__AMX_BF16__) && defined(__AVX512F__) && defined(__linux__))
#define LSTM_JAX_TILES
#endif

#ifdef LSTM_JAX_TILES

#ifndef LSTM_JAX_EMULATE_TILES
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace lstm_jax {

constexpr int kExactParts = 3;    // bfloat16 for one float32
constexpr int kRoundedParts = 1;  // the nearest one in its place
constexpr Index kTileRows = 16;   // rows of a tile, 64 bytes each
constexpr Index kTileDepth = 32;  // bfloat16 in a row: so many products are summed up at once
constexpr Index kTileBytes = 64 * kTileRows, kTileFloats = kTileBytes / sizeof(float);
// From one tile of an operand to the next. With nothing between them the same rows of all tiles would meet in few sets
// of the nearest cache, and rows of many tiles are written in turn.
constexpr Index kTileStride = kTileBytes + 64;
static_assert(kLanes == kTileRows);

// --------------------------------------------------------------------------------------------------------
// Instructions
// --------------------------------------------------------------------------------------------------------

namespace amx {

constexpr int kRegisters = 8;

#ifdef LSTM_JAX_EMULATE_TILES

inline thread_local std::array<std::array<char, 64 * kTileRows>, kRegisters> registers;

template <class T>
inline std::array<T, 64 * kTileRows / sizeof(T)> Read(int number) {
  std::array<T, 64 * kTileRows / sizeof(T)> values;
  std::memcpy(values.data(), registers[number].data(), 64 * kTileRows);
  return values;
}

inline bool Available() { return true; }
inline void Begin() {  // with NaN in all of them
  for (auto& bytes : registers) bytes.fill(-1);
}
inline void End() { Begin(); }

template <int kTo>
inline void Zero() { registers[kTo] = {}; }

template <int kTo>
inline void Load(const void* from, Index stride) {
  for (Index row = 0; row < kTileRows; ++row) {
    std::memcpy(registers[kTo].data() + 64 * row, static_cast<const char*>(from) + row * stride, 64);
  }
}

template <int kTo>
inline void LoadStreamed(const void* from, Index stride) {
  Load<kTo>(from, stride);
}

template <int kFrom>
inline void Store(void* to, Index stride) {
  for (Index row = 0; row < kTileRows; ++row) {
    std::memcpy(static_cast<char*>(to) + row * stride, registers[kFrom].data() + 64 * row, 64);
  }
}

using BFloat16 = std::uint16_t;

inline float AsFloat(BFloat16 x) {
  const std::uint32_t bits = std::uint32_t{x} << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return std::abs(value) < 0x1p-126f ? 0.0f : value;
}

template <int kSum, int kLeft, int kRight>
inline void Dot() {
  auto sums = Read<float>(kSum);
  const auto left = Read<BFloat16>(kLeft), right = Read<BFloat16>(kRight);
  for (Index row = 0; row < kTileRows; ++row) {
    float even[kTileRows] = {}, odd[kTileRows] = {};
    for (Index k = 0; k < kTileDepth; k += 2) {
      const float first = AsFloat(left[row * kTileDepth + k]), second = AsFloat(left[row * kTileDepth + k + 1]);
      for (Index column = 0; column < kTileRows; ++column) {
        even[column] += first * AsFloat(right[k * kTileRows + 2 * column]);
        odd[column] += second * AsFloat(right[k * kTileRows + 2 * column + 1]);
      }
    }
    for (Index column = 0; column < kTileRows; ++column) sums[row * kTileRows + column] += even[column] + odd[column];
  }
  std::memcpy(registers[kSum].data(), sums.data(), 64 * kTileRows);
}

#else

// Whether the system lets this process use the tile registers, from now on and in all threads. Their 8 KB have to fit
// into what it saves of a thread at a signal, so it wants to be asked.
inline bool Available() {
  constexpr long kAskForFeature = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool granted = syscall(SYS_arch_prctl, kAskForFeature, kTileData) == 0;
  return granted;
}

// All registers are 16 rows of 64 bytes. To be called in each thread, `End` when it is done with them.
inline void Begin() {
  struct alignas(64) {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t row_bytes[16] = {};
    std::uint8_t rows[16] = {};
  } config;
  for (int i = 0; i < kRegisters; ++i) config.row_bytes[i] = 64, config.rows[i] = kTileRows;
  asm volatile("ldtilecfg %0" : : "m"(config));
}

inline void End() { asm volatile("tilerelease"); }

template <int kTo>
inline void Zero() { asm volatile("tilezero %%tmm%c0" : : "i"(kTo)); }

template <int kTo>
inline void Load(const void* from, Index stride) {
  asm volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(kTo), "r"(from), "r"(stride) : "memory");
}

// The same of what will not be needed again soon: other things may stay in the nearest cache.
template <int kTo>
inline void LoadStreamed(const void* from, Index stride) {
  asm volatile("tileloaddt1 (%1,%2,1), %%tmm%c0" : : "i"(kTo), "r"(from), "r"(stride) : "memory");
}

template <int kFrom>
inline void Store(void* to, Index stride) {
  asm volatile("tilestored %%tmm%c0, (%1,%2,1)" : : "i"(kFrom), "r"(to), "r"(stride) : "memory");
}

template <int kSum, int kLeft, int kRight>
inline void Dot() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kLeft), "i"(kRight));
}

#endif

// The registers, for as long as this lives.
struct Registers {
  Registers() { Begin(); }
  ~Registers() { End(); }
  Registers(const Registers&) = delete;
};

}  // namespace amx

// --------------------------------------------------------------------------------------------------------
// Operands
// --------------------------------------------------------------------------------------------------------

// A matrix of numbers in `kParts` parts, tile by tile. On the left of a product a tile is 16 rows of 32 columns; on the
// right it is 32 rows of 16 columns, two rows in one: the two bfloat16 of each column beside each other. What is summed
// up may be in any order that is the same on both sides.
template <int kParts, class Byte>
struct OperandOf {
  Byte* data;
  Index depth;  // tiles along what is summed up

  Byte* at(Index tile, Index k, int part = 0) const {
    return data + ((tile * depth + k) * kParts + part) * kTileStride;
  }
};

template <int kParts>
struct Operand : OperandOf<kParts, const char> {
  Operand(const float* from, Index depth)
      : OperandOf<kParts, const char>{reinterpret_cast<const char*>(from), depth} {}
};

// One that is to be written.
template <int kParts>
struct NewOperand : OperandOf<kParts, char> {
  NewOperand(float* to, Index depth) : OperandOf<kParts, char>{reinterpret_cast<char*>(to), depth} {}
  operator Operand<kParts>() const { return {reinterpret_cast<const float*>(this->data), this->depth}; }
};

inline Index TilesFor(Index rows) { return CeilDiv(rows, kTileRows); }
inline Index DepthTiles(Index depth) { return CeilDiv(depth, kTileDepth); }
template <int kParts>
inline Index OperandFloats(Index tiles, Index depth) {
  return tiles * depth * kParts * (kTileStride / Index{sizeof(float)});
}

// The parts of 16 numbers, in the upper half of 32 bits each.
template <int kParts>
using Parts = std::array<Bits, kParts>;

// The nearest bfloat16; of two that are as near, the even one. NaN stays NaN.
LSTM_JAX_INLINE Bits Rounded(Vec x) {
  const Bits bits = (Bits)x;
  return (x == x ? bits + (0x7fffu + (bits >> 16 & 1u)) : bits | 0x7fff0000u) & 0xffff0000u;
}

template <int kParts>
LSTM_JAX_INLINE Parts<kParts> Split(Vec x) {
  if constexpr (kParts == kRoundedParts) {
    return {Rounded(x)};
  } else {
    constexpr float kLargest = 0x1.fffffep127f;
    x = Clamp(x, -kLargest, kLargest);
    Parts<kParts> parts;
    LSTM_JAX_UNROLL
    for (Bits& part : parts) {
      part = (Bits)x & 0xffff0000u;
      x -= (Vec)part;  // exact: what is left are the bits below
    }
    return parts;
  }
}

// Row `row` of a tile: 16 pairs, a number of `first` and one of `second`. The parts of a tile follow each other from
// `tile` on.
template <int kParts>
LSTM_JAX_INLINE void PutPairs(const Parts<kParts>& first, const Parts<kParts>& second, char* tile, Index row) {
  LSTM_JAX_UNROLL
  for (int part = 0; part < kParts; ++part) {
    const Bits pairs = first[part] >> 16 | second[part];
    std::memcpy(tile + part * kTileStride + row * 64, &pairs, sizeof pairs);
  }
}

// Exchange rows and columns of 16 x 16 numbers of 32 bits.
template <class Lanes>
inline void Transpose(std::array<Lanes, kTileRows>& rows) {
#ifdef __AVX512F__
  // In turn: pairs of rows, of pairs, and then the quarters of 128 bits.
  __m512i a[kTileRows], b[kTileRows];
  LSTM_JAX_UNROLL_16
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_maskz_unpacklo_epi32(kAll, (__m512i)rows[i], (__m512i)rows[i + 1]);
    a[i + 1] = _mm512_maskz_unpackhi_epi32(kAll, (__m512i)rows[i], (__m512i)rows[i + 1]);
  }
  LSTM_JAX_UNROLL_16
  for (int i = 0; i < 16; i += 4) {
    for (int j = 0; j < 2; ++j) {
      b[i + 2 * j] = _mm512_maskz_unpacklo_epi64(0xff, a[i + j], a[i + j + 2]);
      b[i + 2 * j + 1] = _mm512_maskz_unpackhi_epi64(0xff, a[i + j], a[i + j + 2]);
    }
  }
  LSTM_JAX_UNROLL_16
  for (int i = 0; i < 4; ++i) {
    a[i] = _mm512_maskz_shuffle_i32x4(kAll, b[i], b[i + 4], 0x88);
    a[i + 4] = _mm512_maskz_shuffle_i32x4(kAll, b[i], b[i + 4], 0xdd);
    a[i + 8] = _mm512_maskz_shuffle_i32x4(kAll, b[i + 8], b[i + 12], 0x88);
    a[i + 12] = _mm512_maskz_shuffle_i32x4(kAll, b[i + 8], b[i + 12], 0xdd);
  }
  LSTM_JAX_UNROLL_16
  for (int i = 0; i < 8; ++i) {
    rows[i] = (Lanes)_mm512_maskz_shuffle_i32x4(kAll, a[i], a[i + 8], 0x88);
    rows[i + 8] = (Lanes)_mm512_maskz_shuffle_i32x4(kAll, a[i], a[i + 8], 0xdd);
  }
#else
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < i; ++j) {
      const auto kept = rows[i][j];
      rows[i][j] = rows[j][i];
      rows[j][i] = kept;
    }
  }
#endif
}

// From a tile on the right to one on the left of the matrix with rows and columns exchanged, and back.
template <int kParts>
inline void TransposeTile(char* tile) {
  for (int part = 0; part < kParts; ++part) {
    std::array<Bits, kTileRows> rows;
    std::memcpy(rows.data(), tile + part * kTileStride, sizeof rows);
    Transpose(rows);
    std::memcpy(tile + part * kTileStride, rows.data(), sizeof rows);
  }
}

// --------------------------------------------------------------------------------------------------------
// The product
// --------------------------------------------------------------------------------------------------------

// body(Constant<0>{}), ..., body(Constant<N - 1>{})
template <int N, class Body>
inline void ForEach(const Body& body) {
  if constexpr (N > 0) {
    ForEach<N - 1>(body);
    body(Constant<N - 1>{});
  }
}

// Which operand will not be needed again before much else has been read.
enum class Streamed { kNone, kLeft, kRight };

template <int kTo, bool kStreamed>
inline void LoadTile(const char* tile) {
  kStreamed ? amx::LoadStreamed<kTo>(tile, 64) : amx::Load<kTo>(tile, 64);
}

// out = start + left * right for M x N tiles from tile `i` of the left and tile `n` of the right operand on. The
// rows of `out` are `stride` floats apart. `start` has N tiles, or is nullptr for zero. meanwhile() is called after
// each product of parts: vectors can compute something else while the tiles do.
//
// M * N registers hold the sums. With fewer than 4, a product waits for the one before.
//
// Not inlined, where a compiler would make a large function of many of them: that was slower.
template <int kParts, Streamed kStreamed, int M, int N, class Meanwhile>
__attribute__((noinline)) void MultiplyTiles(Operand<kParts> left, Index i, Operand<kParts> right, Index n,
                                             const float* start, float* out, Index stride,
                                             const Meanwhile& meanwhile) {
  static_assert(M * N <= 4 && M <= 2);
  constexpr int kSums = 4, kLeft = kSums, kRight = kSums + M;
  constexpr int kRights = amx::kRegisters - kRight;  // if there are fewer than N, they take turns
  ForEach<M>([&](auto row) {
    ForEach<N>([&](auto column) {
      constexpr int kSum = row * N + column;
      if (start == nullptr) {
        amx::Zero<kSum>();
      } else {
        amx::Load<kSum>(start + column * kTileFloats, 64);
      }
    });
  });
  for (Index k = 0; k < left.depth; ++k) {
    const auto load_left = [&](int part) {
      ForEach<M>([&](auto row) { LoadTile<kLeft + row, kStreamed == Streamed::kLeft>(left.at(i + row, k, part)); });
    };
    // One operand changes from product to product, so that the other stays in its registers.
    const auto multiply = [&](int right_part, bool load_right) {
      ForEach<N>([&](auto column) {
        constexpr int kColumn = kRight + column % kRights;
        if (N > kRights || load_right) {
          LoadTile<kColumn, kStreamed == Streamed::kRight>(right.at(n + column, k, right_part));
        }
        ForEach<M>([&](auto row) { amx::Dot<row * N + column, kLeft + row, kColumn>(); });
      });
      meanwhile();
    };
    if constexpr (kParts == kExactParts) {  // the smallest first
      load_left(2);
      multiply(0, true);
      load_left(1);
      multiply(0, false);
      multiply(1, true);
      load_left(0);
      multiply(1, false);
      multiply(2, true);
      multiply(0, true);
    } else {
      load_left(0);
      multiply(0, true);
    }
  }
  ForEach<M>([&](auto row) {
    ForEach<N>([&](auto column) {
      amx::Store<row * N + column>(out + row * kTileRows * stride + column * kTileRows, stride * sizeof(float));
    });
  });
}

// The same for the 4 tiles of the right operand, which may be streamed, and two of the left one or, if `rows` is 1,
// one.
template <int kParts, class Meanwhile>
inline void MultiplyFour(Operand<kParts> left, Index i, Index rows, Operand<kParts> right, bool stream_right,
                         const float* start, float* out, Index stride, const Meanwhile& meanwhile) {
  // Here tiles of the right operand are loaded again at once: there are not enough registers for them.
  if (rows == 1) return MultiplyTiles<kParts, Streamed::kNone, 1, 4>(left, i, right, 0, start, out, stride, meanwhile);
  for (Index n = 0; n < 4; n += 2, start += 2 * kTileFloats, out += 2 * kTileRows) {
    if (stream_right) {
      MultiplyTiles<kParts, Streamed::kRight, 2, 2>(left, i, right, n, start, out, stride, meanwhile);
    } else {
      MultiplyTiles<kParts, Streamed::kNone, 2, 2>(left, i, right, n, start, out, stride, meanwhile);
    }
  }
}

// The same from zero, for one or two tiles of each operand. The left one may be streamed.
template <int kParts>
inline void MultiplyUpToTwo(Operand<kParts> left, bool stream_left, Index i, Index rows, Operand<kParts> right,
                            Index n, Index columns, float* out, Index stride) {
  const auto multiply = [&](auto M, auto N) {
    if (stream_left) {
      MultiplyTiles<kParts, Streamed::kLeft, M, N>(left, i, right, n, nullptr, out, stride, [] {});
    } else {
      MultiplyTiles<kParts, Streamed::kNone, M, N>(left, i, right, n, nullptr, out, stride, [] {});
    }
  };
  if (rows > 1) return columns > 1 ? multiply(Constant<2>{}, Constant<2>{}) : multiply(Constant<2>{}, Constant<1>{});
  return columns > 1 ? multiply(Constant<1>{}, Constant<2>{}) : multiply(Constant<1>{}, Constant<1>{});
}

}  // namespace lstm_jax

#endif  // LSTM_JAX_TILES

#endif  // LSTM_JAX_TILES_H_
