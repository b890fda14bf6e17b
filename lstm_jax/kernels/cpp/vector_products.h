// The products of matrices of both passes, on vectors: for every processor.
//
// All are sums in a register tile of kRows x 4 vectors. Forward, the 4 vectors are the four gates of kLanes hidden
// units ("a block"), so that the activations are applied while z_t is still in the nearest cache. Weights are packed
// once per call into the order in which the tile reads them.

#ifndef LSTM_JAX_VECTOR_PRODUCTS_H_
#define LSTM_JAX_VECTOR_PRODUCTS_H_

#include "lstm.h"

namespace lstm_jax {

// --------------------------------------------------------------------------------------------------------
// Register tiles
// --------------------------------------------------------------------------------------------------------

// Call body(Constant<R>, row) with the R for which R == rows, if there is one from 1 to Most.
template <int Most, class Body>
inline void ForRest(Index rows, Index row, const Body& body) {
  if constexpr (Most > 0) {
    if (rows == Most) return body(Constant<Most>{}, row);
    ForRest<Most - 1>(rows, row, body);
  }
}

// Call body(Constant<R>, row) for tiles of kRows rows, and once for the rest.
template <class Body>
inline void ForTiles(Index rows, const Body& body) {
  Index row = 0;
  for (; row + kRows <= rows; row += kRows) body(Constant<kRows>{}, row);
  ForRest<kRows - 1>(rows - row, row, body);
}

// sums[r][v] += sum over k < depth of a[r * a_row + k * a_column] * b[k * b_row], where v counts vectors.
template <int R, int V>
inline void Multiply(Vec (&sums)[R][V], Index depth, const float* a, Index a_row, Index a_column,
                     const float* b, Index b_row) {
  LSTM_JAX_UNROLL_BY_4  // or its counters take the place of multiplications
  for (Index k = 0; k < depth; ++k, a += a_column, b += b_row) {
    Vec left[R];
    LSTM_JAX_UNROLL
    for (int r = 0; r < R; ++r) left[r] = Broadcast(a[r * a_row]);
    LSTM_JAX_UNROLL
    for (int v = 0; v < V; ++v) {
      const Vec right = InRegister(Load(b + v * kLanes));
      LSTM_JAX_UNROLL
      for (int r = 0; r < R; ++r) sums[r][v] += left[r] * right;
      ReadAfter(b, sums[R - 1][v], right);
    }
  }
}

// --------------------------------------------------------------------------------------------------------
// Forward
// --------------------------------------------------------------------------------------------------------

// z_t of the rows of a slice.
class ForwardVectors {
 public:
  static constexpr Slicing kSlicing{kRows, 16};

  // Floats of one block of the weights: a row of kBlock for each input, then for each unit of h, then the biases.
  static Index Packed(const Sizes& s) { return s.packed(); }

  static void Pack(const Sizes& s, const Weights<const float>& weights, Index member, Index block, float* to) {
    const Index unit = block * kLanes, lanes = s.hidden - unit;
    const auto pack = [&](const std::array<const float*, kGates>& gates, Index rows) {
      for (Index k = 0; k < rows; ++k) {
        for (const float* gate : gates) {
          Store(to, LoadLanes(gate + (member * rows + k) * s.hidden + unit, lanes));
          to += kLanes;
        }
      }
    };
    pack(weights.x, s.inputs);
    pack(weights.h, s.hidden);
    pack(weights.bias, 1);
  }

  // Floats of scratch memory.
  static Index Scratch(const Sizes&, Index) { return 0; }

  ForwardVectors(const Sizes& s, Index rows, float*) : s_(s), rows_(rows) {}

  // `activations` get z_t of all blocks and all rows, some rows at a time. `x` and `h` are x_t, and h_{t-1} as W_h
  // sees it.
  template <class Activations>
  void Step(const float* packed, const float* x, const float* h, const Activations& activations) const {
    for (Index block = 0; block < s_.blocks(); ++block, packed += Packed(s_)) {
      MultiplyBlock(packed, block, x, h, activations);
    }
  }

 private:
  template <class Activations>
  void MultiplyBlock(const float* packed, Index block, const float* x, const float* h,
                     const Activations& activations) const {
    const float* const bias = packed + s_.depth() * kBlock;
    ForTiles(rows_, [&](auto tile, Index row) {
      constexpr int R = tile;
      Vec sums[R][kGates];
      LSTM_JAX_UNROLL
      for (int r = 0; r < R; ++r) {
        LSTM_JAX_UNROLL
        for (int g = 0; g < kGates; ++g) sums[r][g] = Load(bias + g * kLanes);
      }
      Multiply(sums, s_.inputs, x + row * s_.inputs, s_.inputs, 1, packed, kBlock);
      Multiply(sums, s_.hidden, h + row * s_.hidden, s_.hidden, 1, packed + s_.inputs * kBlock, kBlock);
      alignas(64) float z[R * kBlock];
      LSTM_JAX_UNROLL
      for (int r = 0; r < R; ++r) {
        LSTM_JAX_UNROLL
        for (int g = 0; g < kGates; ++g) Store(z + r * kBlock + g * kLanes, sums[r][g]);
      }
      activations.Rows(block, row, R, z);
    });
  }

  const Sizes& s_;
  const Index rows_;
};

// --------------------------------------------------------------------------------------------------------
// Backward
// --------------------------------------------------------------------------------------------------------

// Products of dz_t: with transposed kernels, W_h^T and W_x^T, and for the gradients of the weights.
class BackwardVectors {
  // dz of some steps, block by block, so that the rows of one block follow each other.
  struct DzOfSteps {
    float* data;
    Index rows;  // of all these steps
    float* at(Index block, Index row) const { return data + (block * rows + row) * kBlock; }
  };

 public:
  static constexpr Slicing kSlicing{kRows, 16};

  // Floats of scratch memory for slices of `rows` rows, and so many steps at once.
  static Index Scratch(const Sizes& s, Index rows, Index steps) { return rows * steps * s.blocks() * kBlock; }

  BackwardVectors(const Sizes& s, Index rows, Index steps, float* scratch)
      : s_(s), rows_(rows), dz_{scratch, rows * steps} {}

  // A packed transposed kernel is made of panels of `kGates` vectors of its columns (fewer in the last).
  static Index Panels(Index columns) { return CeilDiv(columns, kBlock); }
  static Index Packed(const Sizes& s, Index columns) {
    return s.blocks() * kBlock * CeilDiv(columns, kLanes) * kLanes;
  }

  // One panel of the transposed kernels `gates` (members, columns, H): a row for each lane of each gate of
  // each block. `to` is that of panel 0. What lies beyond the columns or H is zero.
  static void Pack(const Sizes& s, const std::array<const float*, kGates>& gates, Index columns, Index member,
                   Index panel, float* to) {
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

  // Some steps begin: from now on `step` counts from the first of them.
  void Begin(Index steps) { steps_ = steps; }

  // Keep dz of one step: of(row, block) of all its rows, whose gates are i, f, g and o.
  template <class Of>
  void Take(Index step, const Of& of) {
    taken_ = step;
    for (Index r = 0; r < rows_; ++r) {  // row after row: so the gates lie in memory
      for (Index block = 0; block < s_.blocks(); ++block) {
        const std::array<Vec, kGates> dz = of(r, block);
        float* const to = dz_.at(block, step * rows_ + r);
        for (int g = 0; g < kGates; ++g) Store(to + g * kLanes, dz[g]);
      }
    }
  }

  // out (rows, columns) = dz W^T of the step that was taken last.
  void MultiplyTransposed(const float* packed, Index columns, float* out, Index stride) const {
    for (Index panel = 0; panel < Panels(columns); ++panel) {
      const Index column = panel * kBlock;
      const float* from = packed + s_.blocks() * kBlock * column;
      const auto multiply = [&](auto V) { MultiplyPanel<V>(taken_ * rows_, from, column, columns, out, stride); };
      switch (PanelVectors(columns, panel)) {
        case 1: multiply(Constant<1>{}); break;
        case 2: multiply(Constant<2>{}); break;
        case 3: multiply(Constant<3>{}); break;
        default: multiply(Constant<4>{}); break;
      }
    }
  }

  // All these steps are complete; x_t and h_{t-1} of them.
  void End(const StepRows& x, const StepRows& h) { x_ = x, h_ = h; }

  // sums (D + H + 1, kBlock) = or, with `add`, += (x, h, 1)^T dz of one block, over the rows `range` of each step.
  void SumProducts(Index block, Range range, bool add, float* sums) const {
    SumProducts(x_, block, range, add, sums);
    SumProducts(h_, block, range, add, sums + x_.columns * kBlock);
    sums += s_.depth() * kBlock;
    Vec row_sums[kGates] = {};
    for (Index step = 0; step < steps_; ++step) {
      for (Index r = range.begin; r < range.end; ++r) {
        const float* const from = dz_.at(block, step * rows_ + r);
        for (int g = 0; g < kGates; ++g) row_sums[g] += Load(from + g * kLanes);
      }
    }
    for (int g = 0; g < kGates; ++g) Put(sums + g * kLanes, row_sums[g], add);
  }

 private:
  static Index PanelVectors(Index columns, Index panel) {
    return std::min<Index>(kGates, CeilDiv(columns, kLanes) - panel * kGates);
  }

  // V vectors of columns, from `column` on.
  template <int V>
  void MultiplyPanel(Index row, const float* panel, Index column, Index columns, float* out, Index stride) const {
    // So much of the panel is used for all rows before the next part is read.
    constexpr Index kBlocksAtOnce = 512 / kBlock;
    for (Index begin = 0; begin < s_.blocks(); begin += kBlocksAtOnce) {
      const Index end = std::min(begin + kBlocksAtOnce, s_.blocks());
      ForTiles(rows_, [&](auto tile, Index r0) {
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
          Multiply(sums, kBlock, dz_.at(block, row + r0), kBlock, 1, panel + block * kBlock * V * kLanes, V * kLanes);
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

  void SumProducts(const StepRows& factors, Index block, Range range, bool add, float* sums) const {
    ForTiles(factors.columns, [&](auto tile, Index column) {
      constexpr int R = tile;
      float* const to = sums + column * kBlock;
      // Summed up from zero, then added: many small sums round less than one long one.
      Vec tile_sums[R][kGates] = {};
      for (Index step = 0; step < steps_; ++step) {
        Multiply(tile_sums, range.size(), factors.at(step) + range.begin * factors.columns + column, 1,
                 factors.columns, dz_.at(block, step * rows_ + range.begin), kBlock);
      }
      LSTM_JAX_UNROLL
      for (int r = 0; r < R; ++r) {
        LSTM_JAX_UNROLL
        for (int g = 0; g < kGates; ++g) Put(to + r * kBlock + g * kLanes, tile_sums[r][g], add);
      }
    });
  }

  const Sizes& s_;
  const Index rows_;
  const DzOfSteps dz_;
  Index steps_ = 0, taken_ = 0;
  StepRows x_{}, h_{};
};

}  // namespace lstm_jax

#endif  // LSTM_JAX_VECTOR_PRODUCTS_H_
