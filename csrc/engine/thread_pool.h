// A pool of std::threads that runs one parallel loop at a time. No OpenMP: it clashes with torch's.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace earmark {

// Physical cores this process may use: affinity, cgroup quota and SMT siblings taken into account.
int default_threads();

class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Runs body(unit, thread) for unit = 0 .. units - 1; units are handed out one by one. The caller
  // is thread 0. Where another caller's loop is running, the caller does all its units itself.
  // `body` must not throw.
  void parallel_for(int units, const std::function<void(int unit, int thread)>& body);

 private:
  void work(int thread);

  std::mutex busy_;  // held by the caller whose loop runs
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> epoch_{0};  // loops begun
  std::atomic<int> next_{0};        // unit to hand out
  std::atomic<int> active_{0};      // workers that take part in the loop
  // Under mutex_:
  bool stop_ = false;
  bool open_ = false;  // whether workers may still join
  int units_ = 0;
  const std::function<void(int, int)>* body_ = nullptr;
  std::vector<std::thread> workers_;
};

}  // namespace earmark
