// The backward pass: gradients by the weights, the states that sequences begin with and, if asked for, the inputs.
//
// With d for the gradient by what follows, from the last step to the first:
//
//     dc_t += dh_t * o * (1 - tanh(c_t)^2)
//     dz_i = dc_t * g * i (1 - i)     dz_f = dc_t * c_{t-1} * f (1 - f)
//     dz_g = dc_t * i * (1 - g^2)     dz_o = dh_t * tanh(c_t) * o (1 - o)
//     dh_{t-1} = dz_t W_h^T           dc_{t-1} = dc_t * f            dx_t = dz_t W_x^T
//     dW_x = sum_t x_t^T dz_t         dW_h = sum_t h_{t-1}^T dz_t    db = sum_t dz_t
//
// Where a new sequence begins before a step, dh_{t-1} and dc_{t-1} are gradients by the state that it begins with.
// With a mask m, W_h sees m * h_{t-1}: dh_{t-1} = m * (dz_t W_h^T), dW_h = sum_t (m * h_{t-1})^T dz_t.

#ifndef LSTM_JAX_BACKWARD_H_
#define LSTM_JAX_BACKWARD_H_

#include "lstm.h"
#include "phases.h"
#include "tile_products.h"
#include "vector_products.h"

namespace lstm_jax {

struct BackwardArgs {
  const float* x;
  const float *c0, *h0;
  const std::int32_t* last;
  Weights<const float> weights;          // the biases are not read, the kernels of x only for `dx`
  const float *outputs, *cells, *gates;  // of the forward pass
  const float *dc_last, *dh_last;        // gradients by the final state
  const float* d_outputs = nullptr;      // by h of all steps, or nullptr if they are zero
  const float* mask = nullptr;           // as in the forward pass
  Resets resets{};                       // as in the forward pass
  bool bfloat16 = false;                 // whether the factors of products may be rounded to bfloat16
  Products products = Products::kUsual;
};

struct BackwardResults {
  float *dc0, *dh0;
  Weights<float> weights;
  float* dx = nullptr;                             // or nullptr if nobody wants it
  float *dc_reset = nullptr, *dh_reset = nullptr;  // by the state of `Resets`, if there are any
};

namespace internal {

// The gradients of the weights are summed up over so many rows (of several steps) at once: enough to make
// reading and writing the sums cheap, few enough for dz to stay in cache.
constexpr Index kRowsAtOnce = 128;

inline Index StepsAtOnce(const Sizes& s, Index rows) {
  return std::clamp<Index>(kRowsAtOnce / rows, 1, s.time);
}

// What will be read soon, of the same rows: the gates of the step before and the c that it starts from, and x_t and
// h_{t-1}, which dz_t will be multiplied with. A processor expects memory to be read in its order, but the steps come
// in reverse.
struct Upcoming {
  const float *gates, *c_before, *x, *h_before;
};

// What dz_t of some rows is computed from. Rows of c, dc and dh are padded, those of c_{t-1} are `before_row` apart.
struct GateStep {
  const float *gates, *c, *c_before;
  Index before_row;
  const float* dh;
  float* dc;
  const Upcoming* next;  // or nullptr, to read nothing ahead
};

// dz_t of one row and one block; dc becomes that of the step before.
inline std::array<Vec, kGates> GateGradients(const Sizes& s, const GateStep& step, Index row, Index block) {
  const Index unit = block * kLanes, lanes = s.hidden - unit, state = row * s.padded() + unit;
  const Index of_gates = row * kGates * s.padded() + block * kBlock;
  if (step.next != nullptr) {
    Prefetch(step.next->gates + of_gates, kBlock);
    Prefetch(step.next->c_before + state, kLanes);
    Prefetch(step.next->h_before + row * s.hidden + unit, kLanes);
    // As many inputs as there are hidden units, if there are so many: enough of them to be worth no loop.
    if (unit < s.inputs) Prefetch(step.next->x + row * s.inputs + unit, kLanes);
  }
  const float* const gate = step.gates + of_gates;
  const Vec i = Load(gate), f = Load(gate + kLanes), g = Load(gate + 2 * kLanes), o = Load(gate + 3 * kLanes);
  const Vec tanh_c = Tanh(Load(step.c + state)), dh = Load(step.dh + state);
  const Vec dc = Load(step.dc + state) + dh * o * (1.0f - tanh_c * tanh_c);
  Store(step.dc + state, dc * f);
  std::array<Vec, kGates> dz = {dc * g * (i * (1.0f - i)),
                                dc * LoadLanes(step.c_before + row * step.before_row + unit, lanes) * (f * (1.0f - f)),
                                dc * i * (1.0f - g * g), dh * tanh_c * (o * (1.0f - o))};
  // An infinite input makes a NaN of a padding lane, which must not get into the products.
  for (Index lane = lanes; lane < kLanes; ++lane) {
    for (Vec& of_gate : dz) of_gate[lane] = 0.0f;
  }
  return dz;
}

// Floats of scratch memory for `rows` rows: dh, dc, c after a reset, and h of some steps with its mask or after resets.
inline Index BackwardScratch(const Sizes& s, Index rows) {
  return Aligned(rows * (3 * s.padded() + StepsAtOnce(s, rows) * s.hidden));
}

// The gradients by the state before a step, of the rows in which a new sequence begins, are gradients by the state that
// it begins with: add them there, and leave none for the step before.
inline void MoveToReset(const bool* resets, Index rows, Index columns, float* from, Index row_floats, float* to) {
  for (Index r = 0; r < rows; ++r) {
    if (!resets[r]) continue;
    float* const row = from + r * row_floats;
    for (Index unit = 0; unit < columns; ++unit) to[r * columns + unit] += row[unit];
    std::fill_n(row, row_floats, 0.0f);
  }
}

// `sums` gets the gradients of the weights of each group in these rows, in the order of packed weights.
template <class Products>
void BackwardSlice(const Sizes& s, const BackwardArgs& args, const BackwardResults& results,
                   const float* packed_h, const float* packed_x, Index member, Range slice, float* scratch,
                   float* sums) {
  const Index rows = slice.size(), padded = s.padded(), hidden = s.hidden;
  const Index group_rows = std::min(rows, s.batch / s.groups), groups = rows / group_rows;
  const Index first = member * s.batch + slice.begin;
  const auto row_of = [&](Index t) { return (member * s.time + t) * s.batch + slice.begin; };
  const auto h_before = [&](Index t) {
    return t == 0 ? args.h0 + first * hidden : args.outputs + row_of(t - 1) * hidden;
  };
  float* const dh = scratch;
  float* const dc = dh + rows * padded;
  float* const c_reset = dc + rows * padded;
  float* const h_seen = c_reset + rows * padded;
  const Index steps_at_once = StepsAtOnce(s, rows);
  const float* const mask = args.mask == nullptr ? nullptr : args.mask + first * hidden;
  const auto resets_of = [&](Index t) { return args.resets.where == nullptr ? nullptr : args.resets.where + row_of(t); };
  const bool h_is_changed = mask != nullptr || args.resets.where != nullptr;  // on its way to W_h
  Products products(s, rows, steps_at_once, scratch + BackwardScratch(s, rows));
  std::fill_n(dh, 2 * rows * padded, 0.0f);
  if (args.resets.where != nullptr) {
    std::fill_n(results.dh_reset + first * hidden, rows * hidden, 0.0f);
    std::fill_n(results.dc_reset + first * hidden, rows * hidden, 0.0f);
  }

  for (Index end = s.time; end > 0;) {
    const Index begin = std::max<Index>(end - steps_at_once, 0);
    products.Begin(end - begin);
    for (Index t = end; t-- > begin;) {
      const Index now = row_of(t);
      for (Index r = 0; r < rows; ++r) {
        const bool is_last = args.last[first + r] == t;
        const Index state = (first + r) * hidden;
        for (Index unit = 0; unit < hidden; ++unit) {
          if (is_last) dh[r * padded + unit] += args.dh_last[state + unit];
          if (is_last) dc[r * padded + unit] += args.dc_last[state + unit];
          if (args.d_outputs != nullptr) dh[r * padded + unit] += args.d_outputs[(now + r) * hidden + unit];
        }
      }
      const bool* const resets = resets_of(t);
      const bool any_reset = AnyReset(resets, rows);
      const float* c_before = t == 0 ? args.c0 + first * hidden : args.cells + row_of(t - 1) * padded;
      const Index before_row = t == 0 ? hidden : padded;
      if (any_reset) {
        AfterReset(resets, rows, args.resets.c + first * hidden, hidden, c_before, before_row, c_reset);
        c_before = c_reset;
      }
      const Upcoming next{args.gates + row_of(std::max<Index>(t - 1, 0)) * kGates * padded,
                          args.cells + row_of(std::max<Index>(t - 2, 0)) * padded, args.x + now * s.inputs,
                          h_before(t)};
      const GateStep step{args.gates + now * kGates * padded, args.cells + now * padded, c_before,
                          before_row, dh, dc, CacheHasRoom(s) ? &next : nullptr};
      products.Take(t - begin, [&s, step](Index r, Index block) { return GateGradients(s, step, r, block); });
      products.MultiplyTransposed(packed_h, hidden, dh, padded);
      for (Index r = 0; mask != nullptr && r < rows; ++r) {
        for (Index unit = 0; unit < hidden; ++unit) dh[r * padded + unit] *= mask[r * hidden + unit];
      }
      if (any_reset) {
        MoveToReset(resets, rows, hidden, dh, padded, results.dh_reset + first * hidden);
        MoveToReset(resets, rows, hidden, dc, padded, results.dc_reset + first * hidden);
      }
      if (results.dx != nullptr) {
        products.MultiplyTransposed(packed_x, s.inputs, results.dx + now * s.inputs, s.inputs);
      }
    }
    const Index floats = rows * hidden;
    for (Index t = begin; h_is_changed && t < end; ++t) {
      float* const to = h_seen + (t - begin) * floats;
      const float* h = h_before(t);
      if (args.resets.where != nullptr) {
        AfterReset(resets_of(t), rows, args.resets.h + first * hidden, hidden, h, hidden, to);
        h = to;
      }
      Masked(h, mask, floats, to);
    }
    const Index next = std::min(begin + 1, end - 1);
    const auto x_of = [&](Index t) { return args.x + row_of(t) * s.inputs; };
    const StepRows x{x_of(begin), x_of(next), s.batch * s.inputs, s.inputs};
    const StepRows h = h_is_changed ? StepRows{h_seen, h_seen + floats, floats, hidden}
                                    : StepRows{h_before(begin), h_before(next), s.batch * hidden, hidden};
    products.End(x, h);
    const bool add = end < s.time;  // the first of these passes writes the sums, so they need no zeros
    for (Index group = 0; group < groups; ++group) {
      const Range range{group * group_rows, (group + 1) * group_rows};
      for (Index block = 0; block < s.blocks(); ++block) {
        products.SumProducts(block, range, add, sums + (group * s.blocks() + block) * s.packed());
      }
    }
    end = begin;
  }
  for (Index r = 0; r < rows; ++r) {
    for (Index unit = 0; unit < hidden; ++unit) {
      results.dh0[(first + r) * hidden + unit] = dh[r * padded + unit];
      results.dc0[(first + r) * hidden + unit] = dc[r * padded + unit];
    }
  }
}

// Add up what the slices found for one block of one member's weights, and unpack it.
//
// `sums` is that of the member: of each slice or, if there are several groups, of each group.
inline void AddSlices(const Sizes& s, const Weights<float>& weights, Index member, Index block, Index slices,
                      const float* sums) {
  const Index unit = block * kLanes, lanes = s.hidden - unit, stride = s.blocks() * s.packed();
  for (Index group = 0; group < s.groups; ++group) {
    const float* from = sums + group * stride + block * s.packed();
    const auto unpack = [&](const std::array<float*, kGates>& gates, Index rows) {
      for (Index k = 0; k < rows; ++k) {
        for (float* gate : gates) {
          float* const to = gate + ((member * s.groups + group) * rows + k) * s.hidden + unit;
          Vec sum = Load(from);
          for (Index slice = 1; s.groups == 1 && slice < slices; ++slice) sum += Load(from + slice * stride);
          StoreLanes(to, sum, lanes);
          from += kLanes;
        }
      }
    };
    unpack(weights.x, s.inputs);
    unpack(weights.h, s.hidden);
    unpack(weights.bias, 1);
  }
}

template <class Products, class Pool>
void Backward(Pool& pool, Index threads, const Sizes& s, const BackwardArgs& args,
              const BackwardResults& results) {
  constexpr Slicing kSlicing = Products::kSlicing;
  const Index slices = NumSlices(s, threads, kSlicing);
  const Index packed_h = Products::Packed(s, s.hidden);
  const Index packed_x = results.dx == nullptr ? 0 : Products::Packed(s, s.inputs);
  const Index panels = Products::Panels(s.hidden) + (results.dx == nullptr ? 0 : Products::Panels(s.inputs));
  const Index packed = packed_h + packed_x;
  const Index sums_each = s.blocks() * s.packed();
  const Index sums = (s.groups > 1 ? s.groups : slices) * sums_each;
  // The most that a slice needs need not be what the largest one needs: it depends on the steps at once.
  Index each = 0;
  for (Index i = 0; i < slices; ++i) {
    const Index rows = SliceRows(s, i, slices, kSlicing).size();
    each = std::max(each, BackwardScratch(s, rows) + Products::Scratch(s, rows, StepsAtOnce(s, rows)));
  }
  const Scratch scratch(s.members * (packed + sums + slices * each));
  float* const all_sums = scratch.get() + s.members * packed;
  float* const own = all_sums + s.members * sums;
  RunPhases(
      pool, threads,
      {{s.members * panels,
        [&](Index i) {
          const Index member = i / panels, panel = i % panels, of_x = panel - Products::Panels(s.hidden);
          float* const to = scratch.get() + member * packed;
          if (of_x < 0) {
            Products::Pack(s, args.weights.h, s.hidden, member, panel, to);
          } else {
            Products::Pack(s, args.weights.x, s.inputs, member, of_x, to + packed_h);
          }
        }},
       {s.members * slices,
        [&](Index i) {
          const Index member = i / slices, slice = i % slices;
          const Index before = s.groups > 1 ? Share(s.groups, slice, slices).begin : slice;
          const float* const transposed = scratch.get() + member * packed;
          BackwardSlice<Products>(s, args, results, transposed, transposed + packed_h, member,
                                  SliceRows(s, slice, slices, kSlicing), own + i * each,
                                  all_sums + member * sums + before * sums_each);
        }},
       {s.members * s.blocks(), [&](Index i) {
          const Index member = i / s.blocks();
          AddSlices(s, results.weights, member, i % s.blocks(), slices, all_sums + member * sums);
        }}});
}

}  // namespace internal

// The gradients of `Forward`, with the same conditions.
template <class Pool>
void Backward(Pool& pool, Index threads, const Sizes& s, const BackwardArgs& args,
              const BackwardResults& results) {
  threads = std::max<Index>(threads, 1);  // XLA says 0 when it does not know
#ifdef LSTM_JAX_TILES
  if (UseTiles(s, threads, args.products)) {
    if (args.bfloat16) return internal::Backward<BackwardTiles<kRoundedParts>>(pool, threads, s, args, results);
    return internal::Backward<BackwardTiles<kExactParts>>(pool, threads, s, args, results);
  }
#endif
  internal::Backward<BackwardVectors>(pool, threads, s, args, results);
}

}  // namespace lstm_jax

#endif  // LSTM_JAX_BACKWARD_H_
