// The products of matrices of both passes on the tile registers of tiles.h, where a processor has them.

#ifndef LSTM_JAX_TILE_PRODUCTS_H_
#define LSTM_JAX_TILE_PRODUCTS_H_

#include <algorithm>
#include <array>

#include "lstm.h"
#include "tiles.h"

#ifdef LSTM_JAX_TILES

namespace lstm_jax {

// Tiles compute 16 rows whether they are needed or not; from two tiles of rows on they read weights half as often.
constexpr Slicing kTileSlicing{kTileRows, 2 * kTileRows};

// Put rows of `columns` floats on the left of a product, from `k` tiles of its sums on. Of 32 columns, each of the
// first half makes a pair with one of the second.
template <int kParts>
inline void PutLeft(const float* from, Index rows, Index columns, NewOperand<kParts> to, Index k) {
  for (Index r = 0; r < rows; ++r, from += columns) {
    char* tile = to.at(r / kTileRows, k);
    for (Index column = 0; column < columns; column += kTileDepth, tile += kParts * kTileStride) {
      const float* const at = from + column;
      PutPairs<kParts>(Split<kParts>(LoadLanes(at, columns - column)),
                       Split<kParts>(LoadLanes(at + kLanes, columns - column - kLanes)), tile, r % kTileRows);
    }
  }
}

// --------------------------------------------------------------------------------------------------------
// Forward
// --------------------------------------------------------------------------------------------------------

// As `ForwardVectors`, with numbers in `kParts` parts.
template <int kParts>
class ForwardTiles {
 public:
  static constexpr Slicing kSlicing = kTileSlicing;

  // The kernels of each gate, on the right of a product, and the bias of each gate in all rows of a tile.
  static Index Packed(const Sizes& s) { return OperandFloats<kParts>(kGates, Depth(s)) + kGates * kTileFloats; }

  static void Pack(const Sizes& s, const Weights<const float>& weights, Index member, Index block, float* to) {
    const Index unit = block * kLanes, lanes = s.hidden - unit;
    const NewOperand<kParts> right{to, Depth(s)};
    const auto pack = [&](const float* gate, int g, Index rows, Index first) {
      const auto row = [&](Index k) {
        return Split<kParts>(k < rows ? LoadLanes(gate + (member * rows + k) * s.hidden + unit, lanes) : Vec{});
      };
      for (Index k = 0; k < DepthTiles(rows); ++k) {
        for (Index r = 0; r < kTileRows; ++r) {
          const Index at = k * kTileDepth + r;
          PutPairs<kParts>(row(at), row(at + kTileRows), right.at(g, first + k), r);  // as `PutLeft` does
        }
      }
    };
    float* bias = to + OperandFloats<kParts>(kGates, Depth(s));
    for (int g = 0; g < kGates; ++g) {
      pack(weights.x[g], g, s.inputs, 0);
      pack(weights.h[g], g, s.hidden, DepthTiles(s.inputs));
      const Vec of_lanes = LoadLanes(weights.bias[g] + member * s.hidden + unit, lanes);
      for (Index row = 0; row < kTileRows; ++row, bias += kLanes) Store(bias, of_lanes);
    }
  }

  static Index Scratch(const Sizes& s, Index rows) { return OperandFloats<kParts>(TilesFor(rows), Depth(s)); }

  // Rows of the last tile that are not there are multiplied too, whatever they are: nobody reads the result.
  ForwardTiles(const Sizes& s, Index rows, float* scratch) : s_(s), rows_(rows), left_(scratch, Depth(s)) {}

  template <class Activations>
  void Step(const float* packed, const float* x, const float* h, const Activations& activations) const {
    PutLeft<kParts>(x, rows_, s_.inputs, left_, 0);
    PutLeft<kParts>(h, rows_, s_.hidden, left_, DepthTiles(s_.inputs));
    // The z of one product are used during the next: tiles that rest for half a microsecond take as long to wake up
    // (measured on a Xeon of 2023). So many rows after each product of parts that none are left at its end.
    constexpr Index kRowsOfProduct = 2 * kTileRows, kProductsOfParts = kParts * (kParts + 1) / 2;
    const Index rows_at_once = CeilDiv(kRowsOfProduct, 2 * left_.depth * kProductsOfParts);
    alignas(64) float z[2][kRowsOfProduct * kBlock];
    struct {
      Index block, row, end;
      float* z;
      bool output_before;  // of the row before is not computed yet
    } pending{};
    const auto use_some = [&] {
      for (Index n = 0; n < rows_at_once && pending.row != pending.end; ++n) {
        activations.GatesOfRow(pending.block, pending.row, pending.z, pending.output_before);
        pending.row += 1, pending.z += kBlock, pending.output_before = true;
      }
    };
    const auto use_rest = [&] {
      if (pending.output_before) activations.Output(pending.block, pending.row - 1, pending.z - kBlock);
      activations.Rows(pending.block, pending.row, pending.end - pending.row, pending.z);
    };
    int turn = 0;
    for (Index row = 0; row < rows_; row += kRowsOfProduct) {
      for (Index block = 0; block < s_.blocks(); ++block, turn = 1 - turn) {
        const Operand<kParts> right{packed + block * Packed(s_), left_.depth};
        const float* const bias = packed + block * Packed(s_) + OperandFloats<kParts>(kGates, left_.depth);
        MultiplyFour<kParts>(left_, row / kTileRows, TilesFor(rows_ - row), right, CacheHasRoom(s_), bias, z[turn],
                             kBlock, use_some);
        use_rest();
        pending = {block, row, std::min(row + kRowsOfProduct, rows_), z[turn], false};
      }
    }
    use_rest();
  }

 private:
  static Index Depth(const Sizes& s) { return DepthTiles(s.inputs) + DepthTiles(s.hidden); }

  const Sizes& s_;
  const Index rows_;
  const NewOperand<kParts> left_;  // (x_t, h_{t-1})
  const amx::Registers registers_;
};

// --------------------------------------------------------------------------------------------------------
// Backward
// --------------------------------------------------------------------------------------------------------

// As `BackwardVectors`, for a batch of one group, with numbers in `kParts` parts.
template <int kParts>
class BackwardTiles {
 public:
  static constexpr Slicing kSlicing = kTileSlicing;

  static Index Scratch(const Sizes& s, Index rows, Index steps) {
    return LeftFloats(s, rows) + RightFloats(s, rows, steps) + FactorFloats(s, rows, steps) + BiasFloats(s);
  }

  BackwardTiles(const Sizes& s, Index rows, Index steps, float* scratch)
      : s_(s),
        rows_(rows),
        left_(scratch, DepthOfGates(s)),
        right_(scratch + LeftFloats(s, rows), 0),
        factors_(scratch + LeftFloats(s, rows) + RightFloats(s, rows, steps), 0),
        biases_(scratch + LeftFloats(s, rows) + RightFloats(s, rows, steps) + FactorFloats(s, rows, steps)) {}

  // A panel of a transposed kernel is a tile of its columns.
  static Index Panels(Index columns) { return TilesFor(columns); }
  static Index Packed(const Sizes& s, Index columns) { return OperandFloats<kParts>(Panels(columns), DepthOfGates(s)); }

  static void Pack(const Sizes& s, const std::array<const float*, kGates>& gates, Index columns, Index member,
                   Index panel, float* to) {
    const NewOperand<kParts> right{to, DepthOfGates(s)};
    for (Index block = 0; block < s.blocks(); ++block) {
      const Index unit = block * kLanes;
      for (int g = 0; g < kGates; g += 2) {
        const Index k = (block * kGates + g) / 2;
        for (Index row = 0; row < kTileRows; ++row) {
          const Index column = panel * kTileRows + row, from = (member * columns + column) * s.hidden + unit;
          const auto load = [&](int gate) {
            return Split<kParts>(column < columns ? LoadLanes(gates[gate] + from, s.hidden - unit) : Vec{});
          };
          PutPairs<kParts>(load(g), load(g + 1), right.at(panel, k), row);  // as `TakeRows` does
        }
        TransposeTile<kParts>(right.at(panel, k));
      }
    }
  }

  void Begin(Index steps) {
    steps_ = steps;
    right_.depth = factors_.depth = DepthTiles(steps * PaddedRows(rows_));
    std::fill_n(biases_, BiasFloats(s_), 0.0f);
  }

  template <class Of>
  void Take(Index step, const Of& of) {
    const std::array<Vec, kGates> none{};
    Index r = 0;
    for (; r + 1 < rows_; r += 2) {
      TakeRows(step, r, [&](Index block) { return of(r, block); }, [&](Index block) { return of(r + 1, block); });
    }
    if (r < rows_) {
      TakeRows(step, r, [&](Index block) { return of(r, block); }, [&](Index) { return none; });
      r += 2;
    }
    // The rows up to a whole tile are zero.
    for (; r < PaddedRows(rows_); r += 2) TakeRows(step, r, [&](Index) { return none; }, [&](Index) { return none; });
  }

  void MultiplyTransposed(const float* packed, Index columns, float* out, Index stride) const {
    constexpr Index kMost = 2 * kTileRows;
    const Operand<kParts> right{packed, left_.depth};
    for (Index row = 0; row < rows_; row += kMost) {
      for (Index column = 0; column < columns; column += kMost) {
        const Index rows = std::min(rows_ - row, kMost);
        const bool whole = rows == kMost && columns - column >= kMost;  // all of it has its place in `out`
        alignas(64) float tiles[kMost][kMost];
        MultiplyUpToTwo<kParts>(left_, CacheHasRoom(s_), row / kTileRows, TilesFor(rows), right, column / kTileRows,
                                TilesFor(columns - column), whole ? out + row * stride + column : tiles[0],
                                whole ? stride : kMost);
        if (whole) continue;
        for (Index r = 0; r < rows; ++r) {
          for (Index at = column; at < std::min(columns, column + kMost); at += kLanes) {
            StoreLanes(out + (row + r) * stride + at, Load(tiles[r] + at - column), columns - at);
          }
        }
      }
    }
  }

  void End(const StepRows& x, const StepRows& h) {
    PutFactors(x, 0);
    PutFactors(h, TilesFor(s_.inputs));
    // The last tile of rows may be half empty.
    const Index rows = steps_ * PaddedRows(rows_);
    for (Index gate = 0; rows % kTileDepth > 0 && gate < s_.blocks() * kGates; ++gate) {
      for (Index row = rows % kTileDepth; row < kTileDepth; row += 2) {
        PutPairs<kParts>({}, {}, right_.at(gate, right_.depth - 1), row / 2);
      }
    }
  }

  void SumProducts(Index block, Range, bool add, float* sums) const {
    constexpr Index kMost = 2 * kTileRows;
    const Index of_x = TilesFor(s_.inputs), tiles = of_x + TilesFor(s_.hidden);
    // Two gates at a time: these mostly stay in the nearest cache for all factors.
    for (Index gate = 0; gate < kGates; gate += 2) {
      for (Index i = 0; i < tiles; i += 2) {
        // Summed up from zero, then added: many small sums round less than one long one.
        alignas(64) float products[kMost][kMost];
        MultiplyUpToTwo<kParts>(factors_, CacheHasRoom(s_), i, tiles - i, right_, block * kGates + gate, 2,
                                products[0], kMost);
        for (Index tile = i; tile < std::min(tiles, i + 2); ++tile) {
          const bool is_x = tile < of_x;
          const Index row = (is_x ? tile : tile - of_x) * kTileRows;
          const Index rows = std::min((is_x ? s_.inputs : s_.hidden) - row, kTileRows);
          float* const to = sums + (is_x ? row : s_.inputs + row) * kBlock + gate * kLanes;
          for (Index r = 0; r < rows; ++r) {
            const float* const from = products[(tile - i) * kTileRows + r];
            Put(to + r * kBlock, Load(from), add);
            Put(to + r * kBlock + kLanes, Load(from + kLanes), add);
          }
        }
      }
    }
    for (Index at = 0; at < kBlock; at += kLanes) {
      Put(sums + s_.depth() * kBlock + at, Load(biases_ + block * kBlock + at), add);
    }
  }

 private:
  static Index PaddedRows(Index rows) { return TilesFor(rows) * kTileRows; }  // of a step, up to whole tiles
  static Index DepthOfGates(const Sizes& s) { return s.blocks() * kGates / 2; }
  static Index LeftFloats(const Sizes& s, Index rows) { return OperandFloats<kParts>(TilesFor(rows), DepthOfGates(s)); }
  static Index RightFloats(const Sizes& s, Index rows, Index steps) {
    return OperandFloats<kParts>(s.blocks() * kGates, DepthTiles(steps * PaddedRows(rows)));
  }
  static Index FactorFloats(const Sizes& s, Index rows, Index steps) {
    return OperandFloats<kParts>(TilesFor(s.inputs) + TilesFor(s.hidden), DepthTiles(steps * PaddedRows(rows)));
  }
  static Index BiasFloats(const Sizes& s) { return s.blocks() * kBlock; }

  // Keep dz of two rows of a step, first(block) and second(block).
  template <class First, class Second>
  void TakeRows(Index step, Index r, const First& first, const Second& second) {
    // Copies: members could be changed by what is written here, for all that a compiler knows.
    const Index blocks = s_.blocks(), row = step * PaddedRows(rows_) + r, right_row = row % kTileDepth / 2;
    const Index next_gate = right_.depth * kParts * kTileStride;
    char *left = left_.at(r / kTileRows, 0), *right = right_.at(0, row / kTileDepth);
    float* bias = biases_;
    for (Index block = 0; block < blocks; ++block) {
      const std::array<Vec, kGates> a = first(block), b = second(block);
      for (int g = 0; g < kGates; g += 2) {
        const auto a0 = Split<kParts>(a[g]), a1 = Split<kParts>(a[g + 1]);
        const auto b0 = Split<kParts>(b[g]), b1 = Split<kParts>(b[g + 1]);
        PutPairs<kParts>(a0, a1, left, r % kTileRows);
        PutPairs<kParts>(b0, b1, left, r % kTileRows + 1);
        left += kParts * kTileStride;
        PutPairs<kParts>(a0, b0, right, right_row);
        PutPairs<kParts>(a1, b1, right + next_gate, right_row);
        right += 2 * next_gate;
      }
      for (int g = 0; g < kGates; ++g, bias += kLanes) Put(bias, a[g] + b[g], true);
    }
  }

  // Put (rows of all steps, columns), with rows and columns exchanged, on the left of a product, from `tile` on.
  void PutFactors(const StepRows& given, Index tile) {
    const StepRows from = given;  // a copy, as above
    const NewOperand<kParts> to = factors_;
    const Index rows = rows_, apart = PaddedRows(rows), all = steps_ * apart;
    for (Index k = 0; k < to.depth; ++k) {
      for (Index column = 0; column < from.columns; column += kTileRows) {
        std::array<Vec, kTileRows> halves[2];
        for (Index r = 0; r < kTileDepth; ++r) {
          const Index at = k * kTileDepth + r, row = at % apart;
          Vec& of_row = halves[r % 2][r / 2];  // pairs as `TakeRows` makes them
          of_row = Vec{};
          if (at >= all || row >= rows) continue;  // a row that is not there
          of_row = LoadLanes(from.at(at / apart) + row * from.columns + column, from.columns - column);
        }
        Transpose(halves[0]);
        Transpose(halves[1]);
        for (Index r = 0; r < kTileRows; ++r) {
          PutPairs<kParts>(Split<kParts>(halves[0][r]), Split<kParts>(halves[1][r]),
                           to.at(tile + column / kTileRows, k), r);
        }
      }
    }
  }

  const Sizes& s_;
  const Index rows_;
  NewOperand<kParts> left_;     // dz of one step
  NewOperand<kParts> right_;    // dz of all these steps
  NewOperand<kParts> factors_;  // (x_t, h_{t-1})^T of all these steps
  float* const biases_;  // the sums of dz
  Index steps_ = 0;
  const amx::Registers registers_;
};

// Whether tiles are mostly faster than vectors (docs/speed.md has measurements).
//
// Small products do not pay for cutting their operands into parts. Large ones take 0.8 times as long, or less, for as
// many rows; but tiles compute 16 rows at a time, whether they are there or not. Those of bfloat16 take less time. By how
// much has not been measured, so the same sizes are large for them.
inline bool TilesAreUsual(const Sizes& s, Index threads) {
  constexpr Index kLeastHidden = 64, kLeastDepth = 80;
  if (s.hidden < kLeastHidden || s.depth() < kLeastDepth) return false;
  const Index slices = NumSlices(s, threads, kTileSlicing);
  const Index rows = TilesFor(LargestSlice(s, slices, kTileSlicing)) * kTileRows;
  const Index rounds = CeilDiv(s.members * slices, threads);
  return 0.8 * rounds * rows * threads <= s.members * s.batch;
}

// Whether to compute with tiles. They cannot keep groups apart.
inline bool UseTiles(const Sizes& s, Index threads, Products products) {
  if (products == Products::kVectors || s.groups > 1 || !amx::Available()) return false;
  return products == Products::kTiles || TilesAreUsual(s, threads);
}

}  // namespace lstm_jax

#endif  // LSTM_JAX_TILES

#endif  // LSTM_JAX_TILE_PRODUCTS_H_
