// Work in phases on a pool of threads, without the risk of waiting for a thread that never comes.
//
// Two kernels may run at the same time on one pool (two directions of a bidirectional layer, two devices):
// if each waited for helpers that the other keeps busy, both would wait for ever. So nobody waits for
// helpers here. Tasks are claimed one by one, the caller claims too, and what is waited for are only tasks
// that a running thread has claimed. A helper that comes late finds nothing to do.

#ifndef LSTM_JAX_PHASES_H_
#define LSTM_JAX_PHASES_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
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

class Job {
 public:
  explicit Job(std::vector<Phase> phases) : phases_(std::move(phases)), progress_(phases_.size()) {}

  // Take part until all phases are done.
  void TakePart() {
    for (std::size_t p = 0; p < phases_.size(); ++p) {
      const std::int64_t tasks = phases_[p].tasks;
      Progress& progress = progress_[p];
      for (std::int64_t i; (i = progress.claimed.fetch_add(1)) < tasks;) {
        phases_[p].work(i);
        if (progress.done.fetch_add(1) + 1 == tasks) progress.done.notify_all();
      }
      // The next phase reads what this one wrote.
      for (std::int64_t done; (done = progress.done.load()) < tasks;) progress.done.wait(done);
    }
  }

 private:
  struct Progress {
    std::atomic<std::int64_t> claimed{0}, done{0};
  };
  std::vector<Phase> phases_;
  std::vector<Progress> progress_;
};

}  // namespace internal

// Run the phases one after the other, each on up to `threads` threads, and return when all is done.
// `pool.Schedule(f)` must call f() at some time, on some thread.
template <class Pool>
void RunPhases(Pool& pool, std::int64_t threads, std::vector<Phase> phases) {
  std::int64_t most = 1;
  for (const Phase& phase : phases) most = std::max(most, phase.tasks);
  // Shared with the helpers: one may wake up long after the work is done.
  const auto job = std::make_shared<internal::Job>(std::move(phases));
  for (std::int64_t i = 1; i < std::min(threads, most); ++i) {
    try {
      pool.Schedule([job] { job->TakePart(); });
    } catch (const std::bad_alloc&) {
      break;  // with fewer helpers, then
    }
  }
  job->TakePart();
}

}  // namespace lstm_jax

#endif  // LSTM_JAX_PHASES_H_
