// Work in phases on a pool of threads, without the risk of waiting for a thread that never comes.
//
// Two kernels may run at the same time on one pool (two directions of a bidirectional layer, two devices):
// if each waited for helpers that the other keeps busy, both would wait for ever. So nobody waits for
// a thread that has not begun. Tasks are claimed one by one, and what is waited for are only tasks that a
// running thread has claimed. A helper that comes late finds nothing to do.
//
// Every thread begins with a share of its own, and only then takes from others. A thread of the pool mostly has the
// same share in every call: the backward pass finds in a core's cache what the forward pass wrote there.

#ifndef LSTM_JAX_PHASES_H_
#define LSTM_JAX_PHASES_H_

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace lstm_jax {

struct Range {
  std::int64_t begin, end;
  std::int64_t size() const { return end - begin; }
};

inline Range Share(std::int64_t whole, std::int64_t part, std::int64_t parts) {
  return {whole * part / parts, whole * (part + 1) / parts};
}

// `work(i)` for i from 0 to `tasks` - 1, in any order, at the same time. Must not throw.
struct Phase {
  std::int64_t tasks;
  std::function<void(std::int64_t)> work;
};

namespace internal {

// Wait until `value` is `expected`, which a running thread will see to: awake at first.
//
// The tasks of a phase mostly end within some tenths of a millisecond of each other. Asleep at once, the two
// passes took 1.05 to 1.1 times as long (T = 28, B = 128, H = 64, two threads). The price: meanwhile this core
// does nothing for others.
inline void WaitFor(const std::atomic<std::int64_t>& value, std::int64_t expected) {
  using Clock = std::chrono::steady_clock;
  constexpr int kLooksAtOnce = 64;  // before a look at the clock
  const auto asleep = Clock::now() + std::chrono::microseconds(500);
  do {
    for (int i = 0; i < kLooksAtOnce; ++i) {
      if (value.load() == expected) return;
#if defined(__x86_64__)
      asm volatile("pause");
#endif
    }
  } while (Clock::now() < asleep);
  for (std::int64_t now; (now = value.load()) != expected;) value.wait(now);
}

// The number of a thread of a pool, from 0 in the order in which they first help; -1 for other threads.
inline int& PlaceInPool() {
  static thread_local int place = -1;
  return place;
}

inline void EnterPool() {
  static std::atomic<int> places{0};
  if (int& place = PlaceInPool(); place < 0) place = places.fetch_add(1);
}

class Job {
 public:
  // At least one phase, and none without tasks.
  Job(std::vector<Phase> phases, std::int64_t shares)
      : shares_(shares), phases_(std::move(phases)), claimed_(phases_.size() * shares), done_(phases_.size()) {}

  // Take part until there is nothing more to claim, and wait for what others have claimed but in the last phase.
  void TakePart() {
    begun_.store(true);
    const std::int64_t own = std::max(PlaceInPool(), 0);
    for (std::size_t p = 0; p < phases_.size(); ++p) {
      const Phase& phase = phases_[p];
      for (std::int64_t i = 0; i < shares_; ++i) {
        const std::int64_t share = (own + i) % shares_;
        const Range range = Share(phase.tasks, share, shares_);
        std::atomic<std::int64_t>& claimed = claimed_[p * shares_ + share];
        while (claimed.load() < range.size()) {
          const std::int64_t task = range.begin + claimed.fetch_add(1);
          if (task >= range.end) break;  // another thread was faster
          phase.work(task);
          if (done_[p].fetch_add(1) + 1 == phase.tasks) TellDone(p);
        }
      }
      if (p + 1 < phases_.size()) WaitFor(done_[p], phase.tasks);  // the next phase reads what this one wrote
    }
  }

  // Take part, and wait until all is done.
  void TakePartToTheEnd() {
    TakePart();
    WaitFor(done_.back(), phases_.back().tasks);
  }

  // Leave the work to others and wait, asleep, until all is done; but take part if nobody begins.
  void LeaveToOthers() {
    constexpr std::chrono::milliseconds kPatience{1};
    std::unique_lock lock(mutex_);
    const auto all_done = [this] { return done_.back().load() == phases_.back().tasks; };
    if (all_done_.wait_for(lock, kPatience, all_done)) return;
    if (begun_.load()) return all_done_.wait(lock, all_done);
    lock.unlock();
    TakePartToTheEnd();
  }

 private:
  void TellDone(std::size_t p) {
    done_[p].notify_all();
    if (p + 1 < phases_.size()) return;
    const std::lock_guard lock(mutex_);  // so that nobody goes to sleep between a look and this
    all_done_.notify_all();
  }

  const std::int64_t shares_;
  const std::vector<Phase> phases_;
  std::vector<std::atomic<std::int64_t>> claimed_, done_;  // of each share of each phase; of each phase
  std::atomic<bool> begun_{false};
  std::mutex mutex_;
  std::condition_variable all_done_;
};

}  // namespace internal

// Run the phases one after the other, each on up to `threads` threads, and return when all is done.
// `pool.Schedule(f)` must call f() at some time, on some thread.
//
// A caller that is not of the pool, or has never helped, leaves the work to it. XLA has such threads for programs that are called one by
// one. Working on one core beside the pool's threads, it often made the helper share that core while the other rested:
// in a sixth of all calls the helper came a millisecond late, and a train step took 1.2 to 1.35 times as long as in a
// loop (T = 28, B = 128, H = 64, two cores).
template <class Pool>
void RunPhases(Pool& pool, std::int64_t threads, std::vector<Phase> phases) {
  std::erase_if(phases, [](const Phase& phase) { return phase.tasks == 0; });
  if (phases.empty()) return;
  std::int64_t most = 1;
  for (const Phase& phase : phases) most = std::max(most, phase.tasks);
  // Shared with the helpers: one may wake up long after the work is done.
  const std::int64_t shares = std::max<std::int64_t>(1, std::min(threads, most));
  const auto job = std::make_shared<internal::Job>(std::move(phases), shares);
  const bool takes_part = shares == 1 || internal::PlaceInPool() >= 0;
  for (std::int64_t i = takes_part ? 1 : 0; i < shares; ++i) {
    try {
      pool.Schedule([job] {
        internal::EnterPool();
        job->TakePart();
      });
    } catch (const std::bad_alloc&) {
      break;  // with fewer helpers, then
    }
  }
  takes_part ? job->TakePartToTheEnd() : job->LeaveToOthers();
}

}  // namespace lstm_jax

#endif  // LSTM_JAX_PHASES_H_
