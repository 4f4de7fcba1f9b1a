// Threads that do one series of stages together.

#pragma once

#include <omp.h>

#include <atomic>
#include <cstdint>
#include <thread>  // yield

namespace gesso {

// A stage is a number of tasks, taken one by one, and ends when all are done.
class Team {
 public:
  explicit Team(int size) : size_(size) {}

  template <class Task>
  void each(int64_t count, Task task) {
    for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count;) task(i);
    meet();
  }

  // On OpenMP's threads, which torch uses too: threads of two pools would wait for each other's
  // cores. There may be fewer than were asked for.
  template <class Work>
  void run(Work work) {
#pragma omp parallel num_threads(size_)
    {
#pragma omp single
      size_ = omp_get_num_threads();
      work();
    }
  }

 private:
  void meet() {
    const int64_t round = round_.load(std::memory_order_acquire);
    if (here_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
      here_.store(0, std::memory_order_relaxed);
      next_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins)
      if (spins > 4000) std::this_thread::yield();
  }

  int size_;
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<int> here_{0};
  alignas(64) std::atomic<int64_t> round_{0};
};

}  // namespace gesso
