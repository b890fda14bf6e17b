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

// From z_t of some rows of one block, kBlock apart, to the state after the step. What is in `z` is lost.
//
// A function of its own, or the registers would be shared out between the rows. Each loop has several
// computations under way that do not wait for each other: tanh(c) needs c, so it has a loop to itself.
__attribute__((noinline)) inline void Activate(const Sizes& s, Index rows, float* z, Index block,
                                               const Step& step, Index row) {
  const Index unit = block * kLanes, lanes = s.hidden - unit;
  for (Index r = 0; r < rows; ++r) {
    float* const gate = z + r * kBlock;
    const Index state = (row + r) * s.padded() + unit;
    const Vec i = Sigmoid(Load(gate)), f = Sigmoid(Load(gate + kLanes));
    const Vec g = Tanh(Load(gate + 2 * kLanes)), o = Sigmoid(Load(gate + 3 * kLanes));
    const Vec c = f * Load(step.c + state) + i * g;
    Store(step.c_next + state, c);
    if (step.gates != nullptr) {
      float* gates = step.gates + (row + r) * kGates * s.padded() + block * kBlock;
      Store(gates, i);
      Store(gates + kLanes, f);
      Store(gates + 2 * kLanes, g);
      Store(gates + 3 * kLanes, o);
    }
    Store(gate, c);
    Store(gate + kLanes, o);
  }
  for (Index r = 0; r < rows; ++r) {
    const float* const gate = z + r * kBlock;
    StoreLanes(step.h_next + (row + r) * s.hidden + unit, Load(gate + kLanes) * Tanh(Load(gate)), lanes);
  }
}

// Floats of scratch memory for `rows` rows: c, h before and after a step, and h with its mask.
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
    const float* const h_seen = Masked(h, mask, rows.size() * s.hidden, h_masked);
    Step step{args.x + now * s.inputs, h_seen, c, h_here + t % 2 * rows.size() * s.hidden, c_here, nullptr};
    if (results.outputs != nullptr) step.h_next = results.outputs + now * s.hidden;
    if (results.gates != nullptr) {
      step.c_next = results.cells + now * padded;
      step.gates = results.gates + now * kGates * padded;
    }
    products.Step(packed, step.x, step.h,
                  [&](Index block, Index row, Index count, float* z) { Activate(s, count, z, block, step, row); });
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
  RunPhases(
      pool, threads,
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
  if (UseTiles(s, threads)) return internal::Forward<ForwardTiles>(pool, threads, s, args, results);
#endif
  internal::Forward<ForwardVectors>(pool, threads, s, args, results);
}

}  // namespace lstm_jax

#endif  // LSTM_JAX_FORWARD_H_
