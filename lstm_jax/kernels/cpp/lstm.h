// What the forward and the backward pass have in common: sizes, arrays, shares of the work, products.
// Notation and equations are those of lstm_jax/functional.py.
//
// How the kernel gets close to what the machine can do:
//
// - A thread takes a slice of the batch and runs all time steps on it: no meeting point in the sequence.
// - Products of matrices are computed for the four gates of kLanes hidden units ("a block") at once, so that the
//   activations are applied while z_t is still in the nearest cache. Weights are packed once per call into the
//   order in which they are read.
// - The gradients of the weights are summed up per slice, some steps at a time, while dz_t is in cache.
// - What the backward pass will read next, a step further back, it asks for ahead.
// - The products are those of vector_products.h or, where a processor has tile registers, of tile_products.h:
//   classes with the same functions, between which the two passes choose.
//
// A call works on `members` LSTMs of equal sizes, with weights of their own. Arrays are row-major, time
// first: x (members, T, B, D), h (members, T, B, H). Saved for the backward pass and private to it are
// c (members, T, B, padded H) and the gates (members, T, B, 4 * padded H), where a row holds, block after
// block, the lanes of i, f, g and o.

#ifndef LSTM_JAX_LSTM_H_
#define LSTM_JAX_LSTM_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <new>
#include <numeric>
#include <type_traits>

#include "phases.h"
#include "vector.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace lstm_jax {

using Index = std::int64_t;

constexpr int kGates = 4;                // i, f, g, o
constexpr int kBlock = kGates * kLanes;  // floats in one row of one block
constexpr Index kPadding = 16;           // so the saved arrays have the same shapes on every machine
static_assert(kPadding % kLanes == 0);

inline Index CeilDiv(Index a, Index b) { return (a + b - 1) / b; }

template <int N>
using Constant = std::integral_constant<int, N>;

struct Sizes {
  Index members, time, batch, inputs, hidden;
  // The rows of a batch come in this many groups of equal size, with weight gradients of their own.
  Index groups = 1;

  Index blocks() const { return CeilDiv(hidden, kLanes); }
  Index padded() const { return CeilDiv(hidden, kPadding) * kPadding; }
  Index depth() const { return inputs + hidden; }  // rows of the stacked kernels (W_x; W_h)
  Index packed() const { return (depth() + 1) * kBlock; }  // floats of a packed block, with its bias
};

// The kinds of products: vector_products.h, tile_products.h, or those that are mostly faster for the sizes at hand.
enum class Products : std::int64_t { kUsual = 0, kVectors = 1, kTiles = 2 };

// Of each gate: the kernels of x (members, D, H), of h (members, H, H), the bias (members, H). Of their
// gradients: (members, groups, ...).
template <class T>
struct Weights {
  std::array<T*, kGates> x, h, bias;
};

// --------------------------------------------------------------------------------------------------------
// Memory, and shares of the work
// --------------------------------------------------------------------------------------------------------

// Floats that are not initialized, aligned to cache lines. Throws std::bad_alloc.
class Scratch {
 public:
  explicit Scratch(Index floats)
      : data_(static_cast<float*>(::operator new(floats * sizeof(float), std::align_val_t{64}))) {}

  float* get() const { return data_.get(); }

 private:
  struct Delete {
    void operator()(float* p) const { ::operator delete(p, std::align_val_t{64}); }
  };
  std::unique_ptr<float, Delete> data_;
};

// Ask for pages of 2 MB for a large array that is about to be written.
//
// What a program of XLA saves of a long sequence is new memory in every call of the program, and the system
// hands it over page by page as it is first written: at 4 KB each, that took a third of a program that computes
// one gradient at T = 784, B = 64, H = 64. It is a wish: a system that does not know it or cannot grant it goes
// on with small pages.
inline void PreferLargePages([[maybe_unused]] void* data, [[maybe_unused]] std::size_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr std::uintptr_t kPage = 1 << 21;
  const auto begin = reinterpret_cast<std::uintptr_t>(data);
  const std::uintptr_t first = (begin + kPage - 1) / kPage * kPage, end = (begin + bytes) / kPage * kPage;
  // With fewer there is little to gain, and the call has its price too.
  if (end >= first + 2 * kPage) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#endif
}

// Rounded up to whole cache lines, so that two threads never write to the same one.
inline Index Aligned(Index floats) { return CeilDiv(floats, 16) * 16; }

// What the rows of a slice are a multiple of, and how many there should be at least: as the products like it.
struct Slicing {
  Index unit, least_rows;
};

// How many slices each member's batch is cut into. This depends on sizes and number of threads alone, so
// that a call adds up its sums in the same order, and gives the same bits, every time.
//
// Threads take slices of others when they are done with their own: with several for each thread, a core that is
// slower than the others, by its make or because it is shared, takes fewer and nobody waits for it long.
// Every slice reads all the weights in every step, though: large ones are cut into slices as large as can be.
inline Index NumSlices(const Sizes& s, Index threads, Slicing slicing) {
  // For less than this, waking a thread takes longer than the work.
  constexpr double kLeastOperations = 1e6;
  constexpr Index kSlicesPerThread = 4;
  constexpr Index kFewWeights = 65536;  // 256 KB: they, or their gradients, stay in the cache of each core
  const double operations = 8.0 * s.members * s.time * s.batch * s.depth() * s.hidden;
  if (operations < kLeastOperations) return 1;
  const Index most = s.groups > 1 ? s.groups : CeilDiv(s.batch, slicing.unit);
  Index slices = CeilDiv(threads, s.members);
  if (threads > 1 && s.blocks() * s.packed() <= kFewWeights) {
    const Index many = std::min(CeilDiv(kSlicesPerThread * threads, s.members), s.batch / slicing.least_rows);
    const Index even = threads / std::gcd(threads, s.members);  // with a multiple of this, each thread has as many
    slices = std::max(slices, many < even ? many : many / even * even);
  }
  return std::clamp<Index>(slices, 1, most);
}

// The rows of a slice: whole groups, if there are several, else whole units, but for the last.
inline Range SliceRows(const Sizes& s, Index slice, Index slices, Slicing slicing) {
  const Index unit = s.groups > 1 ? s.batch / s.groups : slicing.unit;
  const Range units = Share(CeilDiv(s.batch, unit), slice, slices);
  return {units.begin * unit, std::min(units.end * unit, s.batch)};
}

inline Index LargestSlice(const Sizes& s, Index slices, Slicing slicing) {
  Index rows = 0;
  for (Index i = 0; i < slices; ++i) rows = std::max(rows, SliceRows(s, i, slices, slicing).size());
  return rows;
}

// Whether a core's own cache, mostly of 1 or 2 MB, has room for more than the weights. Where it has not, what is read
// ahead takes it from them, and tiles that are loaded as if for once come from further away each time. (H = 256: the
// backward pass took 1.05 times as long with the one, 1.04 with the other.)
inline bool CacheHasRoom(const Sizes& s) {
  constexpr Index kMostWeights = 131072;  // 512 KB, or 800 KB cut into parts for tiles
  return s.blocks() * s.packed() <= kMostWeights;
}

// What W_h sees of h for some rows, with or without a mask; `to` holds it if there is one.
inline const float* Masked(const float* h, const float* mask, Index floats, float* to) {
  if (mask == nullptr) return h;
  for (Index i = 0; i < floats; ++i) to[i] = h[i] * mask[i];
  return to;
}

// Where new sequences begin, and the state that each begins with.
struct Resets {
  const bool* where = nullptr;             // (members, T, B): before which steps, or nullptr for none
  const float *c = nullptr, *h = nullptr;  // (members, B, H)
};

// Whether a new sequence begins before a step in any of some rows.
inline bool AnyReset(const bool* resets, Index rows) {
  return resets != nullptr && std::any_of(resets, resets + rows, [](bool reset) { return reset; });
}

// The state before a step in which some rows begin a new sequence: that of the step before, or `first`. Rows of
// `columns` floats; those of `state` and `to` are `row_floats` apart, those of `first` are not padded.
inline void AfterReset(const bool* resets, Index rows, const float* first, Index columns, const float* state,
                       Index row_floats, float* to) {
  for (Index r = 0; r < rows; ++r) {
    float* const row = to + r * row_floats;
    if (resets[r]) {
      std::copy_n(first + r * columns, columns, row);
      std::fill(row + columns, row + row_floats, 0.0f);
    } else if (to != state) {
      std::copy_n(state + r * row_floats, row_floats, row);
    }
  }
}

// Some rows of each of some steps, of `columns` floats without gaps.
struct StepRows {
  const float *first, *second;  // of the first step, of the second
  Index stride, columns;        // from there on to the same rows of the next step
  const float* at(Index step) const { return step == 0 ? first : second + (step - 1) * stride; }
};

}  // namespace lstm_jax

#endif  // LSTM_JAX_LSTM_H_
