// Work in phases on a pool of threads, without the risk of waiting for a thread that never comes.
//
// Two kernels may run at the same time on one pool (two directions of a bidirectional layer, two devices):
// if each waited for helpers that the other keeps busy, both would wait for ever. So nobody waits for
// helpers here. Tasks are claimed one by one, the caller claims too, and what is waited for are only tasks
// that a running thread has claimed. A helper that comes late finds nothing to do.
//
// Every thread begins with a share of its own, and only then takes from others: so the same core mostly works
// on the same slice of the batch, in this call and in the next, and finds in its cache what it wrote.

#ifndef LSTM_JAX_PHASES_H_
#define LSTM_JAX_PHASES_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <new>
#include <utility>
#include <vector>

namespace lstm_jax {

// `work(i)` for i from 0 to `tasks` - 1, in any order, at the same time. Must not throw.
struct Phase {
  std::int64_t tasks;
  std::function<void(std::int64_t)> work;
};

namespace internal {

// Wait until `value` is `expected`, which a running thread will see to.
//
// To be put to sleep and woken up takes a system longer than most of these waits, so try for a while first.
inline void WaitFor(const std::atomic<std::int64_t>& value, std::int64_t expected) {
  constexpr int kTries = 10000;  // up to half a millisecond
  for (int i = 0; i < kTries && value.load() != expected; ++i) {
#if defined(__x86_64__)
    asm volatile("pause");
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }
  for (std::int64_t now; (now = value.load()) != expected;) value.wait(now);
}

class Job {
 public:
  Job(std::vector<Phase> phases, std::int64_t shares) : phases_(std::move(phases)) {
    for (std::size_t p = 0; p < phases_.size(); ++p) progress_.emplace_back(shares);
  }

  // Take part until all phases are done; the first tasks are those of `share`.
  void TakePart(std::int64_t share) {
    for (std::size_t p = 0; p < phases_.size(); ++p) {
      const std::int64_t tasks = phases_[p].tasks;
      Progress& progress = progress_[p];
      const std::int64_t shares = static_cast<std::int64_t>(progress.claimed.size());
      for (std::int64_t i = 0; i < shares; ++i) {
        const std::int64_t from = (share + i) % shares, end = tasks * (from + 1) / shares;
        for (std::int64_t task; (task = tasks * from / shares + progress.claimed[from]++) < end;) {
          phases_[p].work(task);
          if (++progress.done == tasks) progress.done.notify_all();
        }
      }
      WaitFor(progress.done, tasks);  // the next phase reads what this one wrote
    }
  }

 private:
  struct Progress {
    explicit Progress(std::int64_t shares) : claimed(shares) {}
    std::vector<std::atomic<std::int64_t>> claimed;  // of each share
    std::atomic<std::int64_t> done{0};
  };
  std::vector<Phase> phases_;
  std::deque<Progress> progress_;  // which are never moved
};

}  // namespace internal

// Run the phases one after the other, each on up to `threads` threads, and return when all is done.
// `pool.Schedule(f)` must call f() at some time, on some thread.
template <class Pool>
void RunPhases(Pool& pool, std::int64_t threads, std::vector<Phase> phases) {
  std::int64_t most = 1;
  for (const Phase& phase : phases) most = std::max(most, phase.tasks);
  // Shared with the helpers: one may wake up long after the work is done.
  const std::int64_t shares = std::max<std::int64_t>(1, std::min(threads, most));
  const auto job = std::make_shared<internal::Job>(std::move(phases), shares);
  for (std::int64_t i = 1; i < shares; ++i) {
    try {
      pool.Schedule([job, i] { job->TakePart(i); });
    } catch (const std::bad_alloc&) {
      break;  // with fewer helpers, then
    }
  }
  job->TakePart(0);
}

}  // namespace lstm_jax

#endif  // LSTM_JAX_PHASES_H_
