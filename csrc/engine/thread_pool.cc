#include "engine/thread_pool.h"

#include <algorithm>
#include <fstream>
#include <set>
#include <string>

#include "engine/float_environment.h"

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace earmark {
namespace {

// A few microseconds between two ops of one network are spun through; longer waits sleep.
constexpr int kSpins = 20000;

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

#if defined(__linux__)
// The cgroup's CPU quota, rounded up; 0 if there is none.
int quota_cpus() {
  std::ifstream v2("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (v2 >> quota >> period) {
    if (quota == "max" || period <= 0) return 0;
    try {
      return std::max(1, static_cast<int>(std::stod(quota) / period + 0.999));
    } catch (const std::exception&) {
      return 0;
    }
  }
  double v1_quota = 0;
  double v1_period = 0;
  std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") >> v1_quota;
  std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_period_us") >> v1_period;
  if (v1_quota <= 0 || v1_period <= 0) return 0;
  return std::max(1, static_cast<int>(v1_quota / v1_period + 0.999));
}

int affinity_cores() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 0;
  std::set<std::string> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    std::string siblings;
    std::ifstream("/sys/devices/system/cpu/cpu" + std::to_string(cpu) +
                  "/topology/thread_siblings_list") >>
        siblings;
    cores.insert(siblings.empty() ? "cpu" + std::to_string(cpu) : siblings);
  }
  return static_cast<int>(cores.size());
}
#endif

}  // namespace

int default_threads() {
  int cores = 0;
#if defined(__linux__)
  cores = affinity_cores();
  const int quota = quota_cpus();
  if (quota > 0) cores = cores > 0 ? std::min(cores, quota) : quota;
#endif
  if (cores <= 0) cores = static_cast<int>(std::thread::hardware_concurrency());
  return std::max(1, cores);
}

ThreadPool::ThreadPool(int threads) {
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    epoch_.fetch_add(1);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::parallel_for(int units, const std::function<void(int, int)>& body) {
  std::unique_lock<std::mutex> busy(busy_, std::defer_lock);
  if (workers_.empty() || units <= 1 || !busy.try_lock()) {
    for (int unit = 0; unit < units; ++unit) body(unit, 0);
    return;
  }
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    units_ = units;
    body_ = &body;
    next_.store(0);
    open_ = true;
    epoch_.fetch_add(1);
  }
  wake_.notify_all();
  for (int unit = next_.fetch_add(1); unit < units; unit = next_.fetch_add(1)) body(unit, 0);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    open_ = false;
  }
  // Only workers that took part are waited for: one that has lost its core must not hold up the
  // others.
  for (int spin = 0; active_.load() > 0; ++spin) {
    if (spin < kSpins) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }
}

void ThreadPool::work(int thread) {
  const FloatEnvironment defaults;
  uint64_t seen = 0;
  while (true) {
    for (int spin = 0; spin < kSpins && epoch_.load() == seen; ++spin) pause();
    const std::function<void(int, int)>* body;
    int units;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return epoch_.load() != seen; });
      seen = epoch_.load();
      if (stop_) return;
      if (!open_) continue;
      active_.fetch_add(1);
      body = body_;
      units = units_;
    }
    for (int unit = next_.fetch_add(1); unit < units; unit = next_.fetch_add(1))
      (*body)(unit, thread);
    active_.fetch_sub(1);
  }
}

}  // namespace earmark
