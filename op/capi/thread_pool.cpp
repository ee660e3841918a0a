#include "op/capi/thread_pool.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <system_error>
#include <thread>

namespace flashonnx {
namespace {

// To be woken takes a thread as long as a small problem takes to compute; this is longer than what a call from Python
// takes beside the op.
constexpr std::chrono::microseconds kWatchFor{200};

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

// Watches for a moment whether `happened`; for longer waits there are condition variables.
template <typename Happened>
void watch_for(const Happened& happened) {
  constexpr int kLooksBetweenClocks = 32;
  const auto end = std::chrono::steady_clock::now() + kWatchFor;
  do {
    for (int i = 0; i < kLooksBetweenClocks; ++i) {
      if (happened()) return;
      pause();
    }
  } while (std::chrono::steady_clock::now() < end);
}

}  // namespace

ThreadPool& ThreadPool::instance() {
  static std::mutex mutex;
  static ThreadPool* pool = nullptr;
  static pid_t owner = 0;
  std::lock_guard<std::mutex> lock(mutex);
  if (pool == nullptr || owner != getpid()) {
    pool = new ThreadPool;  // never deleted: at exit its workers may be gone, or still wait on it
    owner = getpid();
  }
  return *pool;
}

void ThreadPool::run(int threads, int64_t count, Parallel::Task task, void* context) {
  const int workers = static_cast<int>(std::min<int64_t>(threads, count)) - 1;
  std::unique_lock<std::mutex> busy(busy_, std::try_to_lock);
  if (workers <= 0 || !busy.owns_lock()) {
    for (int64_t i = 0; i < count; ++i) task(context, i);
    return;
  }
  start_workers(workers);
  Job job{task, context, count, workers};
  {
    std::lock_guard<std::mutex> lock(mutex_);
    job.workers = std::min(workers, workers_);
    job_ = job;
    next_.store(0, std::memory_order_relaxed);
    ++jobs_posted_;
  }
  posted_.notify_all();
  take_tasks(job);
  std::unique_lock<std::mutex> lock(mutex_);
  job_.workers = 0;  // all tasks are taken: who wakes up now is not waited for
  const auto finished = [this] { return working_ == 0; };
  if (finished()) return;
  lock.unlock();
  watch_for(finished);
  lock.lock();
  finished_.wait(lock, finished);
}

void ThreadPool::start_workers(int workers) {
  try {
    while (workers_ < workers) {
      std::thread(&ThreadPool::work, this, workers_).detach();
      ++workers_;
    }
  } catch (const std::system_error&) {
    // No more threads to be had.
  }
}

void ThreadPool::work(int worker) {
  uint64_t seen = 0;
  const auto posted = [&] { return jobs_posted_ != seen; };
  while (true) {
    watch_for(posted);
    std::unique_lock<std::mutex> lock(mutex_);
    posted_.wait(lock, posted);
    seen = jobs_posted_;
    const Job job = job_;
    if (worker >= job.workers) continue;
    ++working_;
    lock.unlock();
    take_tasks(job);
    lock.lock();
    if (--working_ == 0) finished_.notify_one();
  }
}

void ThreadPool::take_tasks(const Job& job) {
  for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < job.count;) job.task(job.context, i);
}

PoolParallel::PoolParallel(int threads)
    : threads_(threads > 0 ? threads : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()))) {}

void PoolParallel::run(int64_t count, Task task, void* context) const {
  ThreadPool::instance().run(threads_, count, task, context);
}

}  // namespace flashonnx
