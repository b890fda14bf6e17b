// The kernel against its equations (`reference.h`), without Python and XLA, so that it can be built with
// sanitizers: all arrays are heap blocks of exactly their size.
//
// Prints what it compared and exits with 0, or says what was wrong and exits with 1.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "backward.h"
#include "forward.h"
#include "measure.h"
#include "reference.h"

using namespace lstm_jax;

namespace {

// Runs every task on a thread of its own, late ones too.
class Threads {
 public:
  template <class Function>
  void Schedule(Function f) { threads_.emplace_back(std::move(f)); }
  ~Threads() {
    for (auto& thread : threads_) thread.join();
  }

 private:
  std::vector<std::thread> threads_;
};

// Never runs a task, runs it at once, or runs it when all is over.
struct NoHelpers {
  template <class Function>
  void Schedule(Function) {}
};
struct AtOnce {
  template <class Function>
  void Schedule(Function f) { f(); }
};
struct TooLate {
  std::vector<std::function<void()>> tasks;
  template <class Function>
  void Schedule(Function f) { tasks.push_back(f); }
  ~TooLate() {
    for (auto& task : tasks) task();
  }
};

// In the place of a kind of products: that which the kernel chooses.
struct Chosen {};

template <class Products, class... Args>
void RunForward(Args&&... args) {
  if constexpr (std::is_same_v<Products, Chosen>) {
    Forward(args...);
  } else {
    internal::Forward<Products>(args...);
  }
}

template <class Products, class... Args>
void RunBackward(Args&&... args) {
  if constexpr (std::is_same_v<Products, Chosen>) {
    Backward(args...);
  } else {
    internal::Backward<Products>(args...);
  }
}

// The two passes, each with products of one kind; `bfloat16` is for those that are chosen.
template <class ForwardProducts, class BackwardProducts>
Results<float> Kernel(const Problem& p, Use use, Index threads, bool bfloat16 = false) {
  const Sizes& s = p.s;
  const float* const mask = use.mask ? p.mask.data() : nullptr;
  Resets resets{};
  if (use.resets) resets = {p.resets.get(), p.c_reset.data(), p.h_reset.data()};
  Results<float> out(s);
  const Index steps = s.members * s.time * s.batch;
  Floats cells(steps * s.padded()), gates(steps * kGates * s.padded());
  Weights<const float> weights{};
  for (int g = 0; g < kGates; ++g) {
    weights.x[g] = p.wx[g].data(), weights.h[g] = p.wh[g].data(), weights.bias[g] = p.b[g].data();
  }
  const auto forward = [&](const ForwardResults& results) {
    Threads pool;
    const ForwardArgs args{p.x.data(), p.c0.data(), p.h0.data(), p.last.data(), weights, mask, resets, bfloat16};
    RunForward<ForwardProducts>(pool, threads, s, args, results);
  };
  forward({out.c.data(), out.h.data(), out.y.data(), cells.data(), gates.data()});
  // Without what training saves, and without the outputs, the state must be the same to the last bit.
  for (const bool keep_outputs : {false, true}) {
    Results<float> again(s);
    forward({again.c.data(), again.h.data(), keep_outputs ? again.y.data() : nullptr});
    if (again.c != out.c || again.h != out.h || (keep_outputs && again.y != out.y)) {
      std::printf("not the same bits\n"), std::exit(1);
    }
  }
  const auto backward = [&](Results<float>& results, const float* d_outputs, bool wants_dx) {
    Weights<float> d{};
    for (int g = 0; g < kGates; ++g) {
      d.x[g] = results.wx[g].data(), d.h[g] = results.wh[g].data(), d.bias[g] = results.b[g].data();
    }
    Threads pool;
    const BackwardArgs args{p.x.data(),   p.c0.data(),   p.h0.data(),  p.last.data(), weights,   out.y.data(),
                            cells.data(), gates.data(),  p.dc.data(),  p.dh.data(),   d_outputs, mask,
                            resets,       bfloat16};
    RunBackward<BackwardProducts>(pool, threads, s, args,
                                  BackwardResults{results.dc0.data(), results.dh0.data(), d,
                                                  wants_dx ? results.dx.data() : nullptr, results.dc_reset.data(),
                                                  results.dh_reset.data()});
  };
  backward(out, p.dy.data(), true);
  // What is not asked for changes nothing else: without dx, and without gradients by the outputs where those
  // are zero.
  for (const bool by_outputs : {false, true}) {
    Results<float> with(s), without(s);
    const Floats zeros(p.dy.size());
    backward(with, by_outputs ? p.dy.data() : zeros.data(), true);
    backward(without, by_outputs ? p.dy.data() : nullptr, false);
    if (with.wx != without.wx || with.wh != without.wh || with.b != without.b || with.dh0 != without.dh0 ||
        with.dh_reset != without.dh_reset) {
      std::printf("not the same bits without dx\n"), std::exit(1);
    }
  }
  return out;
}

double Difference(const Floats& got, const Doubles& expected) {
  double difference = 0, size = 1e-30;
  for (std::size_t i = 0; i < got.size(); ++i) {
    difference += (got[i] - expected[i]) * (got[i] - expected[i]);
    size += expected[i] * expected[i];
  }
  return std::sqrt(difference / size);
}

// The slices of a batch are its rows in order, none is empty, and none cuts a group in two.
void CheckSlices() {
  for (const Index threads : {1, 2, 3, 8, 64}) {
    for (const Index members : {1, 2, 5}) {
      for (Index batch = 1; batch < 200; ++batch) {
        for (const Index groups : {Index{1}, Index{2}, Index{7}, batch}) {
          if (batch % groups != 0) continue;
          const Sizes s{members, 100, batch, 28, 64, groups};
          for (const Slicing slicing : {Slicing{6, 16}, Slicing{16, 32}}) {
            const Index slices = NumSlices(s, threads, slicing), rows = groups > 1 ? batch / groups : slicing.unit;
            Index next = 0;
            for (Index i = 0; i < slices; ++i) {
              const Range slice = SliceRows(s, i, slices, slicing);
              if (slice.begin != next || slice.end <= next || slice.begin % rows != 0) next = batch + 1;
              next = std::max(next, slice.end);
            }
            if (next != batch) std::printf("wrong slices of %d rows\n", int(batch)), std::exit(1);
            // With enough slices for that, every thread has as many.
            const Index even = threads / std::gcd(threads, members), least = std::max(even, CeilDiv(threads, members));
            if (groups == 1 && slices > least && slices % even != 0) {
              std::printf("%d slices for %d threads\n", int(slices), int(threads)), std::exit(1);
            }
          }
        }
      }
    }
  }
}

// Every task runs once, and none before all of the phase before it have.
template <class Pool>
void CheckPhasesHere(const char* pool_name) {
  for (const Index threads : {0, 1, 2, 5, 64}) {
    const std::vector<Index> tasks{3, 0, 1, 70, 7, 0};
    std::vector<std::vector<std::atomic<int>>> runs;
    for (const Index count : tasks) runs.emplace_back(count);
    std::atomic<bool> in_order{true};
    std::vector<Phase> phases;
    for (std::size_t p = 0; p < tasks.size(); ++p) {
      phases.push_back({tasks[p], [&runs, &in_order, p](Index task) {
                          for (std::size_t before = 0; before < p; ++before) {
                            for (const auto& count : runs[before]) {
                              if (count != 1) in_order = false;
                            }
                          }
                          ++runs[p][task];
                        }});
    }
    Pool pool;
    RunPhases(pool, threads, phases);
    for (const auto& phase : runs) {
      for (const auto& count : phase) {
        if (count != 1 || !in_order) std::printf("phases with %s went wrong\n", pool_name), std::exit(1);
      }
    }
  }
}

// A thread that does not belong to the pool leaves the work to it, one that does takes part.
template <class Pool>
void CheckPhases(const char* pool_name) {
  std::thread([&] { CheckPhasesHere<Pool>(pool_name); }).join();
  std::thread([&] {
    internal::EnterPool();
    CheckPhasesHere<Pool>(pool_name);
  }).join();
}

#ifdef LSTM_JAX_TILES

// Three bfloat16 add up to a float exactly, but for what is below 2^-126; an infinite one counts as the largest, NaN
// stays NaN.
void CheckParts() {
  const float largest = std::numeric_limits<float>::max(), infinity = std::numeric_limits<float>::infinity();
  Floats values{0.0f, -0.0f, 1.0f, -1.0f / 3, 1e-45f, -1e-39f, 1e-30f, 3e38f, largest, -largest, infinity, -infinity};
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (int i = 0; i < 1000; ++i) values.push_back(std::ldexp(normal(random), i % 200 - 100));
  for (const float value : values) {
    const auto parts = Split<kExactParts>(Broadcast(value));
    float sum = 0;
    for (const Bits& part : parts) {
      if ((part[3] & 0xffff) != 0) std::printf("a part of %g is no bfloat16\n", value), std::exit(1);
      sum += ((Vec)part)[3];
    }
    const float expected = std::clamp(value, -largest, largest);
    if (std::abs(expected) < 0x1p-100f ? std::abs(sum - expected) >= 0x1p-126f : sum != expected) {
      std::printf("%g is not the sum of its parts\n", value), std::exit(1);
    }
  }
  for (const std::uint32_t bits : {0x7fc00000u, 0x7f800001u, 0xffffffffu}) {
    float nan, sum = 0;
    std::memcpy(&nan, &bits, sizeof nan);
    for (const Bits& part : Split<kExactParts>(Vec{} + nan)) sum += ((Vec)part)[3];
    const float alone = ((Vec)Split<kRoundedParts>(Vec{} + nan)[0])[3];
    if (!std::isnan(sum) || !std::isnan(alone)) std::printf("the parts of NaN are not NaN\n"), std::exit(1);
  }
}

// A float is rounded to the nearest bfloat16, and from the middle of two to the even one.
void CheckRounding() {
  const float largest = std::numeric_limits<float>::max(), infinity = std::numeric_limits<float>::infinity();
  const std::pair<float, float> cases[] = {
      {0.0f, 0.0f}, {-1.0f, -1.0f}, {0x1.01p0f, 0x1.0p0f}, {0x1.010002p0f, 0x1.02p0f}, {0x1.03p0f, 0x1.04p0f},
      {-0x1.02fffep-90f, -0x1.02p-90f}, {0x1.ffp9f, 0x1p10f}, {largest, infinity}, {-infinity, -infinity}};
  for (const auto& [value, expected] : cases) {
    const float got = ((Vec)Split<kRoundedParts>(Broadcast(value))[0])[3];
    if (got != expected) std::printf("%g is rounded to %g\n", value, got), std::exit(1);
  }
}

// Tiles are for large sizes, enough rows for each thread, and one group, unless they are named.
void CheckChoice() {
  const Sizes large{1, 28, 128, 28, 64}, grouped{1, 28, 128, 28, 64, 2};
  const Sizes small{1, 28, 128, 28, 32}, narrow{1, 28, 8, 28, 64};
  const auto usual = [](const Sizes& s, Index threads) { return UseTiles(s, threads, Products::kUsual); };
  const auto named = [](const Sizes& s) { return UseTiles(s, 2, Products::kTiles); };
  const bool right = usual(large, 1) && usual(large, 2) && usual({3, 28, 256, 28, 64}, 2) && !usual(grouped, 2) &&
                     !usual(small, 2) && !usual(narrow, 2) && !usual(large, 128) && named(large) && named(narrow) &&
                     !named(grouped) && !UseTiles(large, 2, Products::kVectors);
  if (!right) std::printf("a wrong choice between vectors and tiles\n"), std::exit(1);
}

#endif

// Asking for large pages changes nothing in an array, whatever its size and place, and nothing beside it.
void CheckLargePages() {
  PreferLargePages(nullptr, 0);
  for (const std::size_t bytes : {1, 4096, 2 << 20, (4 << 20) + 1, 9 << 20}) {
    for (const std::size_t offset : {0, 4, 4100}) {
      std::vector<char> memory(offset + bytes, 7);
      PreferLargePages(memory.data() + offset, bytes);
      for (const char value : memory) {
        if (value != 7) std::printf("large pages of %zu bytes lost some\n", bytes), std::exit(1);
      }
    }
  }
}

// Forward and Backward choose between kinds of products; a pool that does not know its size has one thread.
void CheckPublic() {
  for (const Sizes& s : {Sizes{1, 3, 64, 28, 64}, Sizes{1, 3, 64, 28, 64, 4}, Sizes{1, 3, 5, 4, 7}}) {
    const Problem p(s, 1);
    for (const bool bfloat16 : {false, true}) {
      Results<float> expected = Kernel<ForwardVectors, BackwardVectors>(p, Use{}, 1);
      const char* products = "vectors";
#ifdef LSTM_JAX_TILES
      if (s.batch == 64 && s.groups == 1 && amx::Available()) {
        expected = bfloat16 ? Kernel<ForwardTiles<kRoundedParts>, BackwardTiles<kRoundedParts>>(p, Use{}, 1)
                            : Kernel<ForwardTiles<kExactParts>, BackwardTiles<kExactParts>>(p, Use{}, 1);
        products = "tiles";
      }
#endif
      for (const Index threads : {0, 1}) {
        const Results<float> got = Kernel<Chosen, Chosen>(p, Use{}, threads, bfloat16);
        for (std::size_t i = 0; i < got.All().size(); ++i) {
          if (*got.All()[i] != *expected.All()[i]) {
            std::printf("not the bits of %s\n", products), std::exit(1);
          }
        }
      }
    }
  }
}

// The two kinds of products are timed in turns, for so long and so often.
void CheckTimes() {
  std::array<double, 3> ratios{};
  const Sizes s{2, 3, 40, 28, 65};
  const bool right = TilesToVectors(s, 3, true, 60.0, 3, ratios.data()) == 3 &&
                     TilesToVectors(s, 1, false, 1e-9, 3, ratios.data()) == 0 &&
                     std::all_of(ratios.begin(), ratios.end(), [](double ratio) { return ratio > 0 && ratio < 1e6; });
  if (!right) std::printf("the kinds of products are not timed as asked for\n"), std::exit(1);
}

}  // namespace

int main() {
  CheckSlices();
  CheckTimes();
  CheckLargePages();
  CheckPhases<NoHelpers>("no helpers");
  CheckPhases<AtOnce>("helpers at once");
  CheckPhases<TooLate>("late helpers");
  CheckPhases<Threads>("threads");
#ifdef LSTM_JAX_TILES
  CheckParts();
  CheckRounding();
  if (amx::Available()) CheckChoice();
#endif
  // One of everything; tails of tiles and of vectors; several panels; more steps than are summed up at once;
  // several members; several groups; more threads than rows; several slices for each thread; weights that fill a cache.
  const Sizes cases[] = {{1, 1, 1, 1, 1},     {1, 2, 3, 2, 4},    {1, 3, 7, 5, 17},      {1, 2, 13, 70, 66, 1},
                         {1, 90, 5, 1, 3},    {3, 4, 6, 3, 20},   {1, 5, 12, 4, 33, 4},  {2, 3, 10, 2, 16, 5},
                         {1, 2, 20, 120, 130}, {1, 28, 32, 28, 64}, {1, 9, 64, 28, 64, 64},
                         {1, 9, 70, 28, 64},  {3, 5, 50, 28, 32},  {1, 9, 96, 28, 64, 8},  {2, 9, 96, 28, 64, 12},
                         {1, 3, 70, 40, 49}};
  unsigned seed = 0;
  bool vectors = false, tiles = false;
  for (const Sizes& s : cases) {
    const Problem problem(s, ++seed);
    for (const Use use : {Use{false, false}, Use{seed % 2 == 0, seed % 2 != 0}, Use{true, true}}) {
      const Results<double> expected = Plain(problem, use);
      for (const Index threads : {1, 2, 5}) {
        // Float32 sums of some hundred terms: a few times 1e-7. Roundings to bfloat16: 2e-3 each, up to 2e-2 together.
        const auto compare = [&](const char* with, const Results<float>& got, double allowed = 1e-5) {
          for (std::size_t i = 0; i < got.All().size(); ++i) {
            const double difference = Difference(*got.All()[i], *expected.All()[i]);
            if (difference < allowed) continue;
            std::printf("result %zu of case %u%s%s with %s and %d threads differs by %g\n", i, seed,
                        use.mask ? " with a mask" : "", use.resets ? " with resets" : "", with, int(threads), difference);
            std::exit(1);
          }
        };
#ifndef LSTM_JAX_EMULATE_TILES  // other builds have real vectors
        compare("vectors", Kernel<ForwardVectors, BackwardVectors>(problem, use, threads));
        vectors = true;
#endif
#ifdef LSTM_JAX_TILES
        if (!amx::Available()) continue;
        // Tiles are right for any sizes, but not for several groups. Emulated ones are slow: not all combinations.
        if (s.groups > 1 || threads != (use.mask ? 5 : 2)) continue;
        compare("tiles", Kernel<ForwardTiles<kExactParts>, BackwardTiles<kExactParts>>(problem, use, threads));
        compare("tiles of bfloat16",
                Kernel<ForwardTiles<kRoundedParts>, BackwardTiles<kRoundedParts>>(problem, use, threads), 5e-2);
        tiles = true;
#endif
      }
    }
  }
  CheckPublic();
  std::printf("%u cases agree with%s%s\n", seed, vectors ? " vectors" : "", tiles ? " tiles" : "");
}
