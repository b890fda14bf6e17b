// The forward pass.

#ifndef LSTM_JAX_FORWARD_H_
#define LSTM_JAX_FORWARD_H_

#include "lstm.h"
#include "phases.h"
#include "tile_products.h"
#include "vector_products.h"

namespace lstm_jax {

struct ForwardArgs {
  const float* x;
  const float *c0, *h0;      // (members, B, H)
  const std::int32_t* last;  // (members, B): the step, from 0, after which a sequence's final state is taken
  Weights<const float> weights;
  const float* mask = nullptr;  // (members, B, H): of h on its way to the next step, or nullptr
  Resets resets{};
  bool bfloat16 = false;  // whether the factors of products may be rounded to bfloat16
  Products products = Products::kUsual;
};

struct ForwardResults {
  float *c_last, *h_last;                    // (members, B, H)
  float* outputs = nullptr;                  // h of all steps, or nullptr if nobody wants them
  float *cells = nullptr, *gates = nullptr;  // for the backward pass, with `outputs`; or both nullptr
};

namespace internal {

// One step of some rows: pointers to the first of them.
struct Step {
  const float *x, *h, *c;  // x_t, h_{t-1} as W_h sees it, c_{t-1}; c has padded rows
  float *h_next, *c_next, *gates;
};

// From z_t of the rows of one block, kBlock apart, to the state after the step. h_t is computed apart from the rest:
// tanh(c_t) waits for c_t, and meanwhile a processor could do something else. What it needs takes the place of z_t.
//
// `Rows` and `GatesOfRow` are not inlined, or the registers would be shared out between the rows.
class Activations {
 public:
  Activations(const Sizes& s, const Step& step) : s_(s), step_(step) {}

  // All of `rows` rows.
  __attribute__((noinline)) void Rows(Index block, Index row, Index rows, float* z) const {
    for (Index r = 0; r < rows; ++r) Gates(block, row + r, z + r * kBlock);
    for (Index r = 0; r < rows; ++r) Output(block, row + r, z + r * kBlock);
  }

  // Gates and c_t of one row, and h_t of the row before if it has none yet.
  __attribute__((noinline)) void GatesOfRow(Index block, Index row, float* z, bool output_before) const {
    if (output_before) Output(block, row - 1, z - kBlock);
    Gates(block, row, z);
  }

  // h_t of one row, from what the gates left in the place of z_t.
  LSTM_JAX_INLINE void Output(Index block, Index row, const float* z) const {
    const Index unit = block * kLanes;
    const Vec h = Load(z + kLanes) * Tanh(Load(z));
    StoreLanes(step_.h_next + row * s_.hidden + unit, h, s_.hidden - unit);
  }

 private:
  LSTM_JAX_INLINE void Gates(Index block, Index row, float* z) const {
    const Index state = row * s_.padded() + block * kLanes;
    const Vec i = Sigmoid(Load(z)), f = Sigmoid(Load(z + kLanes));
    const Vec g = Tanh(Load(z + 2 * kLanes)), o = Sigmoid(Load(z + 3 * kLanes));
    const Vec c = f * Load(step_.c + state) + i * g;
    Store(step_.c_next + state, c);
    if (step_.gates != nullptr) {
      float* const gates = step_.gates + row * kGates * s_.padded() + block * kBlock;
      Store(gates, i);
      Store(gates + kLanes, f);
      Store(gates + 2 * kLanes, g);
      Store(gates + 3 * kLanes, o);
    }
    Store(z, c);
    Store(z + kLanes, o);
  }

  // Copies: they are read for every row, and so one step nearer.
  const Sizes s_;
  const Step step_;
};

// Floats of scratch memory for `rows` rows: c, h before and after a step, and h with its mask or after a reset.
inline Index ForwardScratch(const Sizes& s, Index rows) { return Aligned(rows * (s.padded() + 3 * s.hidden)); }

template <class Products>
void ForwardSlice(const Sizes& s, const ForwardArgs& args, const ForwardResults& results, const float* packed,
                  Index member, Range rows, float* scratch) {
  const Index padded = s.padded(), first = member * s.batch + rows.begin;
  float* const c_here = scratch;
  float* const h_here = c_here + rows.size() * padded;
  float* const h_masked = h_here + 2 * rows.size() * s.hidden;
  const float* const mask = args.mask == nullptr ? nullptr : args.mask + first * s.hidden;
  Products products(s, rows.size(), scratch + ForwardScratch(s, rows.size()));
  for (Index r = 0; r < rows.size(); ++r) {
    for (Index unit = 0; unit < padded; unit += kLanes) {
      Store(c_here + r * padded + unit, LoadLanes(args.c0 + (first + r) * s.hidden + unit, s.hidden - unit));
    }
  }
  const float *h = args.h0 + first * s.hidden, *c = c_here;
  for (Index t = 0; t < s.time; ++t) {
    const Index now = (member * s.time + t) * s.batch + rows.begin;
    const bool* const resets = args.resets.where == nullptr ? nullptr : args.resets.where + now;
    if (AnyReset(resets, rows.size())) {
      AfterReset(resets, rows.size(), args.resets.h + first * s.hidden, s.hidden, h, s.hidden, h_masked);
      AfterReset(resets, rows.size(), args.resets.c + first * s.hidden, s.hidden, c, padded, c_here);
      h = h_masked;
      c = c_here;
    }
    const float* const h_seen = Masked(h, mask, rows.size() * s.hidden, h_masked);
    Step step{args.x + now * s.inputs, h_seen, c, h_here + t % 2 * rows.size() * s.hidden, c_here, nullptr};
    if (results.outputs != nullptr) step.h_next = results.outputs + now * s.hidden;
    if (results.gates != nullptr) {
      step.c_next = results.cells + now * padded;
      step.gates = results.gates + now * kGates * padded;
    }
    products.Step(packed, step.x, step.h, Activations(s, step));
    h = step.h_next;
    c = step.c_next;
    for (Index r = 0; r < rows.size(); ++r) {
      if (args.last[first + r] != t) continue;
      std::copy_n(h + r * s.hidden, s.hidden, results.h_last + (first + r) * s.hidden);
      std::copy_n(c + r * padded, s.hidden, results.c_last + (first + r) * s.hidden);
    }
  }
}

template <class Products, class Pool>
void Forward(Pool& pool, Index threads, const Sizes& s, const ForwardArgs& args, const ForwardResults& results) {
  constexpr Slicing kSlicing = Products::kSlicing;
  const Index slices = NumSlices(s, threads, kSlicing), largest = LargestSlice(s, slices, kSlicing);
  const Index packed = s.blocks() * Products::Packed(s);
  const Index each = ForwardScratch(s, largest) + Products::Scratch(s, largest);
  const Scratch scratch(s.members * (packed + slices * each));
  float* const own = scratch.get() + s.members * packed;
  // To pack few weights, no more threads are woken than the slices need: with one sequence that is none.
  constexpr Index kFewWeights = 131072;  // they are packed within some 20 microseconds
  const bool few = s.members * packed <= kFewWeights;
  RunPhases(
      pool, few ? std::min(threads, s.members * slices) : threads,
      {{s.members * s.blocks(),
        [&](Index i) {
          const Index member = i / s.blocks(), block = i % s.blocks();
          Products::Pack(s, args.weights, member, block, scratch.get() + i * Products::Packed(s));
        }},
       {s.members * slices, [&](Index i) {
          const Index member = i / slices;
          ForwardSlice<Products>(s, args, results, scratch.get() + member * packed, member,
                                 SliceRows(s, i % slices, slices, kSlicing), own + i * each);
        }}});
}

}  // namespace internal

// Run the LSTM on up to `threads` threads of `pool`. All sizes must be at least 1, and `last` within the
// time steps. Throws std::bad_alloc.
template <class Pool>
void Forward(Pool& pool, Index threads, const Sizes& s, const ForwardArgs& args,
             const ForwardResults& results) {
  threads = std::max<Index>(threads, 1);  // XLA says 0 when it does not know
#ifdef LSTM_JAX_TILES
  if (UseTiles(s, threads, args.products)) {
    if (args.bfloat16) return internal::Forward<ForwardTiles<kRoundedParts>>(pool, threads, s, args, results);
    return internal::Forward<ForwardTiles<kExactParts>>(pool, threads, s, args, results);
  }
#endif
  internal::Forward<ForwardVectors>(pool, threads, s, args, results);
}

}  // namespace lstm_jax

#endif  // LSTM_JAX_FORWARD_H_
