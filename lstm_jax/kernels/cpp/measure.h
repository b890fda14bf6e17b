// How long the two passes take with one kind of products and with another, on random numbers and threads of its own.

#ifndef LSTM_JAX_MEASURE_H_
#define LSTM_JAX_MEASURE_H_

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <new>
#include <random>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "backward.h"
#include "forward.h"

namespace lstm_jax {

// Any pool, so that there is one copy of the two passes.
struct AnyPool {
  std::function<void(std::function<void()>)> schedule;
  void Schedule(std::function<void()> task) { schedule(std::move(task)); }
};

namespace internal {

// Arrays of random numbers, kept as long as this lives.
class RandomArrays {
 public:
  float* operator()(Index count, float largest = 1) {
    // The same numbers again and again: new ones would take longer than what is measured.
    constexpr Index kDifferent = 1009;
    std::uniform_real_distribution<float> numbers(-largest, largest);
    std::vector<float>& made = arrays_.emplace_back(count);
    for (Index i = 0; i < count; ++i) made[i] = i < kDifferent ? numbers(engine_) : made[i - kDifferent];
    return made.data();
  }

 private:
  std::mt19937 engine_;
  std::deque<std::vector<float>> arrays_;
};

struct Helpers {
  std::vector<std::thread> threads;
  ~Helpers() {
    for (std::thread& thread : threads) thread.join();
  }
};

// Operands and results of both passes.
struct Passes {
  explicit Passes(const Sizes& s, bool bfloat16) : last(s.members * s.batch, static_cast<std::int32_t>(s.time - 1)) {
    const Index rows = s.members * s.batch, state = rows * s.hidden;
    in.x = random(s.time * rows * s.inputs);
    in.c0 = random(state), in.h0 = random(state);
    in.last = last.data();
    out.c_last = random(state), out.h_last = random(state);
    out.outputs = random(s.time * state);
    out.cells = random(s.time * rows * s.padded()), out.gates = random(kGates * s.time * rows * s.padded());
    back.x = in.x, back.c0 = in.c0, back.h0 = in.h0, back.last = in.last;
    back.outputs = out.outputs, back.cells = out.cells, back.gates = out.gates;
    back.dc_last = random(state), back.dh_last = random(state), back.d_outputs = random(s.time * state);
    gradients.dc0 = random(state), gradients.dh0 = random(state);
    for (int g = 0; g < kGates; ++g) {
      constexpr float kSmall = 0.1f;  // gates that are neither open nor shut
      const Index x = s.members * s.inputs * s.hidden, h = s.members * s.hidden * s.hidden, bias = s.members * s.hidden;
      in.weights.x[g] = random(x, kSmall), in.weights.h[g] = random(h, kSmall), in.weights.bias[g] = random(bias, kSmall);
      gradients.weights.x[g] = random(x), gradients.weights.h[g] = random(h), gradients.weights.bias[g] = random(bias);
    }
    back.weights = in.weights;
    in.bfloat16 = back.bfloat16 = bfloat16;
  }

  RandomArrays random;
  std::vector<std::int32_t> last;
  ForwardArgs in{};
  ForwardResults out{};
  BackwardArgs back{};
  BackwardResults gradients{};
};

inline double Seconds(const Sizes& s, Index threads, Passes& passes, Products products) {
  using Clock = std::chrono::steady_clock;
  Helpers helpers;
  AnyPool pool{[&](std::function<void()> task) {
    try {
      helpers.threads.emplace_back(std::move(task));
    } catch (const std::system_error&) {
      throw std::bad_alloc();  // no more threads: with fewer helpers, then
    }
  }};
  passes.in.products = passes.back.products = products;
  const auto start = Clock::now();
  Forward(pool, threads, s, passes.in, passes.out);
  Backward(pool, threads, s, passes.back, passes.gradients);
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace internal

// Times with tiles as multiples of those with vectors, in turns, of as many rounds as fit into `seconds` and into
// `most`; returns how many. What disturbs the machine disturbs both kinds. Throws std::bad_alloc.
inline Index TilesToVectors(const Sizes& s, Index threads, bool bfloat16, double seconds, Index most, double* ratios) {
  internal::Passes passes(s, bfloat16);
  double spent = 0;
  const auto take = [&](Products products) {
    const double taken = internal::Seconds(s, threads, passes, products);
    spent += taken;
    return taken;
  };
  take(Products::kVectors), take(Products::kTiles);  // not counted: memory and threads are new
  const double first = spent;
  Index rounds = 0;
  for (; rounds < most && spent + first <= seconds; ++rounds) {
    const Products order[] = {rounds % 2 ? Products::kTiles : Products::kVectors,
                              rounds % 2 ? Products::kVectors : Products::kTiles};
    const double a = take(order[0]), b = take(order[1]);
    ratios[rounds] = rounds % 2 ? a / b : b / a;
  }
  return rounds;
}

}  // namespace lstm_jax

#endif  // LSTM_JAX_MEASURE_H_
