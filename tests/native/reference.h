// The equations of the LSTM and of its gradients, written plainly in double, and random numbers to try them on.

#ifndef LSTM_JAX_REFERENCE_H_
#define LSTM_JAX_REFERENCE_H_

#include <array>
#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "lstm.h"

namespace lstm_jax {

using Floats = std::vector<float>;
using Doubles = std::vector<double>;

// What of a problem is used.
struct Use {
  bool mask, resets;
};

struct Problem {
  Sizes s;
  Floats x, c0, h0, c_reset, h_reset, dc, dh, dy, mask;
  std::array<Floats, kGates> wx, wh, b;
  std::vector<std::int32_t> last;
  std::unique_ptr<bool[]> resets;  // no std::vector<bool>: the kernel reads bytes

  Problem(Sizes sizes, unsigned seed) : s(sizes) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    const auto draw = [&](Index n, float scale) {
      Floats values(n);
      for (float& value : values) value = scale * normal(random);
      return values;
    };
    const Index rows = s.members * s.batch, steps = s.members * s.time * s.batch;
    x = draw(steps * s.inputs, 1);
    c0 = draw(rows * s.hidden, 1), h0 = draw(rows * s.hidden, 1);
    c_reset = draw(rows * s.hidden, 1), h_reset = draw(rows * s.hidden, 1);
    dc = draw(rows * s.hidden, 1), dh = draw(rows * s.hidden, 1), dy = draw(steps * s.hidden, 1);
    mask = draw(rows * s.hidden, 1);
    for (int g = 0; g < kGates; ++g) {
      wx[g] = draw(s.members * s.inputs * s.hidden, 1 / std::sqrt(float(s.inputs)));
      wh[g] = draw(s.members * s.hidden * s.hidden, 1 / std::sqrt(float(s.hidden)));
      b[g] = draw(s.members * s.hidden, 1);
    }
    last.resize(rows);
    for (auto& step : last) step = static_cast<std::int32_t>(random() % s.time);
    resets = std::make_unique<bool[]>(steps);
    for (Index i = 0; i < steps; ++i) resets[i] = random() % 4 == 0;
  }
};

// All results, in one order for both computations.
template <class T>
struct Results {
  std::vector<T> c, h, y, dc0, dh0, dx, dc_reset, dh_reset;
  std::array<std::vector<T>, kGates> wx, wh, b;

  explicit Results(const Sizes& s) {
    const Index rows = s.members * s.batch * s.hidden, steps = s.members * s.time * s.batch;
    for (auto* state : {&c, &h, &dc0, &dh0, &dc_reset, &dh_reset}) state->resize(rows);
    y.resize(steps * s.hidden);
    dx.resize(steps * s.inputs);
    for (int g = 0; g < kGates; ++g) {
      wx[g].resize(s.members * s.groups * s.inputs * s.hidden);
      wh[g].resize(s.members * s.groups * s.hidden * s.hidden);
      b[g].resize(s.members * s.groups * s.hidden);
    }
  }

  std::vector<const std::vector<T>*> All() const {
    std::vector<const std::vector<T>*> all{&c, &h, &y, &dc0, &dh0, &dx, &dc_reset, &dh_reset};
    for (int g = 0; g < kGates; ++g) all.insert(all.end(), {&wx[g], &wh[g], &b[g]});
    return all;
  }
};

inline double Logistic(double x) { return 1 / (1 + std::exp(-x)); }

// One sequence at a time, one unit at a time.
inline Results<double> Plain(const Problem& p, Use use) {
  const Sizes& s = p.s;
  const Index T = s.time, D = s.inputs, H = s.hidden;
  Results<double> out(s);
  for (Index m = 0; m < s.members; ++m) {
    for (Index row = 0; row < s.batch; ++row) {
      const Index r = m * s.batch + row, group = m * s.groups + row / (s.batch / s.groups);
      const auto at = [&](Index t) { return (m * T + t) * s.batch + row; };
      const auto mask = [&](Index k) { return use.mask ? double(p.mask[r * H + k]) : 1.0; };
      const auto begins = [&](Index t) { return use.resets && p.resets[at(t)]; };
      // Of each step: the gates, the state before and the state after.
      std::vector<Doubles> gates(T, Doubles(kGates * H)), c(T, Doubles(H)), h = c, c_after = c, h_after = c;
      for (Index t = 0; t < T; ++t) {
        for (Index j = 0; j < H; ++j) {
          c[t][j] = begins(t) ? p.c_reset[r * H + j] : t == 0 ? p.c0[r * H + j] : c_after[t - 1][j];
          h[t][j] = begins(t) ? p.h_reset[r * H + j] : t == 0 ? p.h0[r * H + j] : h_after[t - 1][j];
        }
        for (Index j = 0; j < H; ++j) {
          double gate[kGates];
          for (int g = 0; g < kGates; ++g) {
            double z = p.b[g][m * H + j];
            for (Index k = 0; k < D; ++k) z += double(p.x[at(t) * D + k]) * p.wx[g][(m * D + k) * H + j];
            for (Index k = 0; k < H; ++k) z += mask(k) * h[t][k] * p.wh[g][(m * H + k) * H + j];
            gate[g] = g == 2 ? std::tanh(z) : Logistic(z);
            gates[t][g * H + j] = gate[g];
          }
          c_after[t][j] = gate[1] * c[t][j] + gate[0] * gate[2];
          h_after[t][j] = gate[3] * std::tanh(c_after[t][j]);
          out.y[at(t) * H + j] = h_after[t][j];
        }
      }
      Doubles dh(H), dc(H);
      for (Index t = T; t-- > 0;) {
        Doubles dz(kGates * H), before(H);
        for (Index j = 0; j < H; ++j) {
          dh[j] += p.dy[at(t) * H + j];
          if (p.last[r] == t) {
            out.c[r * H + j] = c_after[t][j], out.h[r * H + j] = h_after[t][j];
            dc[j] += p.dc[r * H + j], dh[j] += p.dh[r * H + j];
          }
          const double i = gates[t][j], f = gates[t][H + j], g = gates[t][2 * H + j], o = gates[t][3 * H + j];
          const double tanh_c = std::tanh(c_after[t][j]);
          dc[j] += dh[j] * o * (1 - tanh_c * tanh_c);
          dz[j] = dc[j] * g * i * (1 - i);
          dz[H + j] = dc[j] * c[t][j] * f * (1 - f);
          dz[2 * H + j] = dc[j] * i * (1 - g * g);
          dz[3 * H + j] = dh[j] * tanh_c * o * (1 - o);
          dc[j] *= f;
        }
        for (int g = 0; g < kGates; ++g) {
          for (Index j = 0; j < H; ++j) {
            const double d = dz[g * H + j];
            out.b[g][group * H + j] += d;
            for (Index k = 0; k < D; ++k) {
              out.wx[g][(group * D + k) * H + j] += p.x[at(t) * D + k] * d;
              out.dx[at(t) * D + k] += p.wx[g][(m * D + k) * H + j] * d;
            }
            for (Index k = 0; k < H; ++k) {
              out.wh[g][(group * H + k) * H + j] += mask(k) * h[t][k] * d;
              before[k] += mask(k) * p.wh[g][(m * H + k) * H + j] * d;
            }
          }
        }
        dh = before;
        if (!begins(t)) continue;
        for (Index j = 0; j < H; ++j) out.dc_reset[r * H + j] += dc[j], out.dh_reset[r * H + j] += dh[j];
        std::fill(dc.begin(), dc.end(), 0), std::fill(dh.begin(), dh.end(), 0);
      }
      for (Index j = 0; j < H; ++j) out.dc0[r * H + j] = dc[j], out.dh0[r * H + j] = dh[j];
    }
  }
  return out;
}

}  // namespace lstm_jax

#endif  // LSTM_JAX_REFERENCE_H_
