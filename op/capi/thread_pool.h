// Threads for callers that have none of their own: kept between calls, where they watch for the next one for a moment
// and then sleep.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <vector>

#include "op/core/parallel.h"

namespace flashonnx {

// Fork and join. One call at a time has the workers; a call that finds them busy runs on its own thread alone.
class ThreadPool {
 public:
  // The process's pool. A fork leaves its workers behind, so that a child process gets a new one.
  static ThreadPool& instance();

  // Of `threads`, the caller's own is one. Workers that cannot be started are done without.
  void run(int threads, int64_t count, Parallel::Task task, void* context);

 private:
  struct Job {
    Parallel::Task task = nullptr;
    void* context = nullptr;
    int64_t count = 0;
    int workers = 0;
  };

  void start_workers(int workers);
  void work(int worker);
  void take_tasks(const Job& job);

  std::mutex busy_;  // held by the call that has the workers

  std::mutex mutex_;  // guards what follows; the atomic ones are also watched without it
  std::condition_variable posted_, finished_;
  Job job_;
  std::atomic<uint64_t> jobs_posted_{0};
  std::atomic<int> working_{0};
  int workers_ = 0;

  std::atomic<int64_t> next_{0};
};

// A share of the process's pool. 0 threads: as many as the machine has.
class PoolParallel final : public Parallel {
 public:
  explicit PoolParallel(int threads);
  void run(int64_t count, Task task, void* context) const override;

 private:
  int threads_;
};

}  // namespace flashonnx
