// The backward pass: gradients by the weights, the initial state and, if asked for, the inputs.
//
// With d for the gradient by what follows, from the last step to the first:
//
//     dc_t += dh_t * o * (1 - tanh(c_t)^2)
//     dz_i = dc_t * g * i (1 - i)     dz_f = dc_t * c_{t-1} * f (1 - f)
//     dz_g = dc_t * i * (1 - g^2)     dz_o = dh_t * tanh(c_t) * o (1 - o)
//     dh_{t-1} = dz_t W_h^T           dc_{t-1} = dc_t * f            dx_t = dz_t W_x^T
//     dW_x = sum_t x_t^T dz_t         dW_h = sum_t h_{t-1}^T dz_t    db = sum_t dz_t
//
// With a mask m, W_h sees m * h_{t-1}: dh_{t-1} = m * (dz_t W_h^T), dW_h = sum_t (m * h_{t-1})^T dz_t.

#ifndef LSTM_JAX_BACKWARD_H_
#define LSTM_JAX_BACKWARD_H_

#include "lstm.h"
#include "phases.h"

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
};

struct BackwardResults {
  float *dc0, *dh0;
  Weights<float> weights;
  float* dx = nullptr;  // or nullptr if nobody wants it
};

namespace internal {

// The gradients of the weights are summed up over so many rows (of several steps) at once: enough to make
// reading and writing the sums cheap, few enough for dz to stay in cache.
constexpr Index kRowsAtOnce = 128;

// --------------------------------------------------------------------------------------------------------
// Products with transposed kernels, W_h^T and W_x^T
// --------------------------------------------------------------------------------------------------------

// A packed transposed kernel is made of panels of `kGates` vectors of its columns (fewer in the last).
inline Index Panels(Index columns) { return CeilDiv(columns, kBlock); }
inline Index PanelVectors(Index columns, Index panel) {
  return std::min<Index>(kGates, CeilDiv(columns, kLanes) - panel * kGates);
}
inline Index PackedTransposed(const Sizes& s, Index columns) {
  return s.blocks() * kBlock * CeilDiv(columns, kLanes) * kLanes;
}

// One panel of the transposed kernels `gates` (members, columns, H): a row for each lane of each gate of
// each block. `to` is that of panel 0. What lies beyond the columns or H is zero.
inline void PackTransposed(const Sizes& s, const std::array<const float*, kGates>& gates, Index columns,
                           Index member, Index panel, float* to) {
  const Index first = panel * kBlock, width = PanelVectors(columns, panel) * kLanes;
  to += s.blocks() * kBlock * first;
  const Index real = std::min(width, columns - first);
  for (Index block = 0; block < s.blocks(); ++block) {
    const Index lanes = std::min<Index>(kLanes, s.hidden - block * kLanes);
    for (const float* gate : gates) {
      const float* from = gate + (member * columns + first) * s.hidden + block * kLanes;
      if (lanes < kLanes || real < width) std::fill_n(to, kLanes * width, 0.0f);
      for (Index lane = 0; lane < lanes; ++lane) {
        for (Index column = 0; column < real; ++column) to[lane * width + column] = from[column * s.hidden + lane];
      }
      to += kLanes * width;
    }
  }
}

// dz of some steps, block by block, so that the rows of one block follow each other.
struct GateGradients {
  float* data;
  Index rows;  // of all these steps
  float* at(Index block, Index row) const { return data + (block * rows + row) * kBlock; }
};

// out (rows, columns) = dz W^T for `rows` rows from `row` on; V vectors of columns from `column` on.
template <int V>
inline void MultiplyPanel(const Sizes& s, const GateGradients& dz, Index row, Index rows, const float* panel,
                          Index column, Index columns, float* out, Index stride) {
  // So much of the panel is used for all rows before the next part is read.
  constexpr Index kBlocksAtOnce = 512 / kBlock;
  for (Index begin = 0; begin < s.blocks(); begin += kBlocksAtOnce) {
    const Index end = std::min(begin + kBlocksAtOnce, s.blocks());
    ForTiles(rows, [&](auto tile, Index r0) {
      constexpr int R = tile;
      float* const to = out + r0 * stride + column;
      Vec sums[R][V];
      LSTM_JAX_UNROLL
      for (int r = 0; r < R; ++r) {
        LSTM_JAX_UNROLL
        for (int v = 0; v < V; ++v) {
          const Index rest = columns - column - v * kLanes;
          sums[r][v] = begin == 0 ? Vec{} : LoadLanes(to + r * stride + v * kLanes, rest);
        }
      }
      for (Index block = begin; block < end; ++block) {
        Multiply(sums, kBlock, dz.at(block, row + r0), kBlock, 1, panel + block * kBlock * V * kLanes, V * kLanes);
      }
      LSTM_JAX_UNROLL
      for (int r = 0; r < R; ++r) {
        LSTM_JAX_UNROLL
        for (int v = 0; v < V; ++v) {
          StoreLanes(to + r * stride + v * kLanes, sums[r][v], columns - column - v * kLanes);
        }
      }
    });
  }
}

inline void MultiplyTransposed(const Sizes& s, const GateGradients& dz, Index row, Index rows,
                               const float* packed, Index columns, float* out, Index stride) {
  for (Index panel = 0; panel < Panels(columns); ++panel) {
    const Index column = panel * kBlock;
    const float* from = packed + s.blocks() * kBlock * column;
    const auto multiply = [&](auto V) {
      MultiplyPanel<V>(s, dz, row, rows, from, column, columns, out, stride);
    };
    switch (PanelVectors(columns, panel)) {
      case 1: multiply(Constant<1>{}); break;
      case 2: multiply(Constant<2>{}); break;
      case 3: multiply(Constant<3>{}); break;
      default: multiply(Constant<4>{}); break;
    }
  }
}

// --------------------------------------------------------------------------------------------------------
// Gradients of the gates and of the weights
// --------------------------------------------------------------------------------------------------------

// dz_t of some rows; dc becomes that of the step before. Rows of c, dc and dh are padded, those of c_before
// are `before_row` apart.
inline void GateStep(const Sizes& s, Index rows, const float* gates, const float* c, const float* c_before,
                     Index before_row, const float* dh, float* dc, const GateGradients& dz, Index row) {
  for (Index r = 0; r < rows; ++r) {  // row after row: so the gates lie in memory
    for (Index block = 0; block < s.blocks(); ++block) {
      const Index unit = block * kLanes, lanes = s.hidden - unit;
      const float* gate = gates + r * kGates * s.padded() + block * kBlock;
      const Index state = r * s.padded() + unit;
      const Vec i = Load(gate), f = Load(gate + kLanes);
      const Vec g = Load(gate + 2 * kLanes), o = Load(gate + 3 * kLanes);
      const Vec tanh_c = Tanh(Load(c + state)), dh_t = Load(dh + state);
      const Vec dc_t = Load(dc + state) + dh_t * o * (1.0f - tanh_c * tanh_c);
      Store(dc + state, dc_t * f);
      float* to = dz.at(block, row + r);
      Store(to, dc_t * g * (i * (1.0f - i)));
      Store(to + kLanes, dc_t * LoadLanes(c_before + r * before_row + unit, lanes) * (f * (1.0f - f)));
      Store(to + 2 * kLanes, dc_t * i * (1.0f - g * g));
      Store(to + 3 * kLanes, dh_t * tanh_c * (o * (1.0f - o)));
      // An infinite input makes a NaN of a padding lane, which must not get into the products.
      for (Index lane = lanes; lane < kLanes; ++lane) {
        for (int k = 0; k < kGates; ++k) to[k * kLanes + lane] = 0.0f;
      }
    }
  }
}

// sums (columns, kBlock) = or, with `add`, += factors^T dz of one block, over the rows `range` of each of some
// steps. `factors(step)` has those rows of a step, `columns` apart.
template <class Factors>
inline void SumProducts(const GateGradients& dz, Index block, Index steps, Index rows, Range range,
                        const Factors& factors, Index columns, bool add, float* sums) {
  ForTiles(columns, [&](auto tile, Index column) {
    constexpr int R = tile;
    float* const to = sums + column * kBlock;
    // Summed up from zero, then added: many small sums round less than one long one.
    Vec tile_sums[R][kGates] = {};
    for (Index step = 0; step < steps; ++step) {
      Multiply(tile_sums, range.size(), factors(step) + range.begin * columns + column, 1, columns,
               dz.at(block, step * rows + range.begin), kBlock);
    }
    LSTM_JAX_UNROLL
    for (int r = 0; r < R; ++r) {
      LSTM_JAX_UNROLL
      for (int g = 0; g < kGates; ++g) Put(to + r * kBlock + g * kLanes, tile_sums[r][g], add);
    }
  });
}

// sums (kBlock) = or += the sum of dz of one block, over the same rows.
inline void SumRows(const GateGradients& dz, Index block, Index steps, Index rows, Range range, bool add,
                    float* sums) {
  Vec row_sums[kGates] = {};
  for (Index step = 0; step < steps; ++step) {
    for (Index r = range.begin; r < range.end; ++r) {
      const float* from = dz.at(block, step * rows + r);
      for (int g = 0; g < kGates; ++g) row_sums[g] += Load(from + g * kLanes);
    }
  }
  for (int g = 0; g < kGates; ++g) Put(sums + g * kLanes, row_sums[g], add);
}

// --------------------------------------------------------------------------------------------------------
// One slice
// --------------------------------------------------------------------------------------------------------

inline Index StepsAtOnce(const Sizes& s, Index rows) {
  return std::clamp<Index>(kRowsAtOnce / rows, 1, s.time);
}

// Floats of scratch memory for `rows` rows: dh, dc, dz of some steps, and h before these with its mask.
inline Index BackwardScratch(const Sizes& s, Index rows) {
  return Aligned(rows * (2 * s.padded() + StepsAtOnce(s, rows) * (s.blocks() * kBlock + s.hidden)));
}

// `sums` gets the gradients of the weights of each group in these rows, in the order of packed weights.
inline void BackwardSlice(const Sizes& s, const BackwardArgs& args, const BackwardResults& results,
                          const float* packed_h, const float* packed_x, Index member, Range slice,
                          float* scratch, float* sums) {
  const Index rows = slice.size(), padded = s.padded(), hidden = s.hidden;
  const Index group_rows = std::min(rows, s.batch / s.groups), groups = rows / group_rows;
  const Index first = member * s.batch + slice.begin;
  const auto row_of = [&](Index t) { return (member * s.time + t) * s.batch + slice.begin; };
  const auto h_before = [&](Index t) {
    return t == 0 ? args.h0 + first * hidden : args.outputs + row_of(t - 1) * hidden;
  };
  float* const dh = scratch;
  float* const dc = dh + rows * padded;
  const Index steps_at_once = StepsAtOnce(s, rows);
  const GateGradients dz{dc + rows * padded, steps_at_once * rows};
  float* const h_masked = dz.data + dz.rows * s.blocks() * kBlock;
  const float* const mask = args.mask == nullptr ? nullptr : args.mask + first * hidden;
  std::fill_n(dh, 2 * rows * padded, 0.0f);

  for (Index end = s.time; end > 0;) {
    const Index begin = std::max<Index>(end - steps_at_once, 0);
    for (Index t = end; t-- > begin;) {
      const Index now = row_of(t), row = (t - begin) * rows;
      for (Index r = 0; r < rows; ++r) {
        const bool is_last = args.last[first + r] == t;
        const Index state = (first + r) * hidden;
        for (Index unit = 0; unit < hidden; ++unit) {
          if (is_last) dh[r * padded + unit] += args.dh_last[state + unit];
          if (is_last) dc[r * padded + unit] += args.dc_last[state + unit];
          if (args.d_outputs != nullptr) dh[r * padded + unit] += args.d_outputs[(now + r) * hidden + unit];
        }
      }
      const float* c_before = t == 0 ? args.c0 + first * hidden : args.cells + row_of(t - 1) * padded;
      GateStep(s, rows, args.gates + now * kGates * padded, args.cells + now * padded, c_before,
               t == 0 ? hidden : padded, dh, dc, dz, row);
      MultiplyTransposed(s, dz, row, rows, packed_h, hidden, dh, padded);
      for (Index r = 0; mask != nullptr && r < rows; ++r) {
        for (Index unit = 0; unit < hidden; ++unit) dh[r * padded + unit] *= mask[r * hidden + unit];
      }
      if (results.dx != nullptr) {
        MultiplyTransposed(s, dz, row, rows, packed_x, s.inputs, results.dx + now * s.inputs, s.inputs);
      }
    }
    const Index floats = rows * hidden;
    for (Index t = begin; mask != nullptr && t < end; ++t) {
      Masked(h_before(t), mask, floats, h_masked + (t - begin) * floats);
    }
    const bool add = end < s.time;  // the first of these passes writes the sums, so they need no zeros
    for (Index group = 0; group < groups; ++group) {
      const Range range{group * group_rows, (group + 1) * group_rows};
      for (Index block = 0; block < s.blocks(); ++block) {
        float* to = sums + (group * s.blocks() + block) * s.packed();
        const auto multiply = [&](const auto& factors, Index columns) {
          SumProducts(dz, block, end - begin, rows, range, factors, columns, add, to);
          to += columns * kBlock;
        };
        multiply([&](Index step) { return args.x + row_of(begin + step) * s.inputs; }, s.inputs);
        multiply([&](Index step) { return mask == nullptr ? h_before(begin + step) : h_masked + step * floats; },
                 hidden);
        SumRows(dz, block, end - begin, rows, range, add, to);
      }
    }
    end = begin;
  }
  for (Index r = 0; r < rows; ++r) {
    std::copy_n(dh + r * padded, hidden, results.dh0 + (first + r) * hidden);
    std::copy_n(dc + r * padded, hidden, results.dc0 + (first + r) * hidden);
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

}  // namespace internal

// The gradients of `Forward`, with the same conditions.
template <class Pool>
void Backward(Pool& pool, Index threads, const Sizes& s, const BackwardArgs& args,
              const BackwardResults& results) {
  const Index slices = NumSlices(s, threads);
  const Index packed_h = internal::PackedTransposed(s, s.hidden);
  const Index packed_x = results.dx == nullptr ? 0 : internal::PackedTransposed(s, s.inputs);
  const Index panels = internal::Panels(s.hidden) + (results.dx == nullptr ? 0 : internal::Panels(s.inputs));
  const Index packed = packed_h + packed_x;
  const Index sums_each = s.blocks() * s.packed();
  const Index sums = (s.groups > 1 ? s.groups : slices) * sums_each;
  // The most that a slice needs need not be what the largest one needs: it depends on the steps at once.
  Index each = 0;
  for (Index i = 0; i < slices; ++i) {
    each = std::max(each, internal::BackwardScratch(s, SliceRows(s, i, slices).size()));
  }
  const Scratch scratch(s.members * (packed + sums + slices * each));
  float* const all_sums = scratch.get() + s.members * packed;
  float* const own = all_sums + s.members * sums;
  RunPhases(
      pool, threads,
      {{s.members * panels,
        [&](Index i) {
          const Index member = i / panels, panel = i % panels, of_x = panel - internal::Panels(s.hidden);
          float* const to = scratch.get() + member * packed;
          if (of_x < 0) {
            internal::PackTransposed(s, args.weights.h, s.hidden, member, panel, to);
          } else {
            internal::PackTransposed(s, args.weights.x, s.inputs, member, of_x, to + packed_h);
          }
        }},
       {s.members * slices,
        [&](Index i) {
          const Index member = i / slices, slice = i % slices;
          const Index before = s.groups > 1 ? Share(s.groups, slice, slices).begin : slice;
          const float* const transposed = scratch.get() + member * packed;
          internal::BackwardSlice(s, args, results, transposed, transposed + packed_h, member,
                                  SliceRows(s, slice, slices), own + i * each,
                                  all_sums + member * sums + before * sums_each);
        }},
       {s.members * s.blocks(), [&](Index i) {
          const Index member = i / s.blocks();
          internal::AddSlices(s, results.weights, member, i % s.blocks(), slices, all_sums + member * sums);
        }}});
}

}  // namespace lstm_jax

#endif  // LSTM_JAX_BACKWARD_H_
