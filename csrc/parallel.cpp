#include "parallel.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace fhrt {
namespace {

int usable_cores() {
#if defined(__linux__)
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof cores, &cores) == 0) return CPU_COUNT(&cores);
#endif
  return static_cast<int>(std::thread::hardware_concurrency());
}

int default_threads() {
  // Found out once: where the kernel has to be asked, it takes longer than a small op.
  static const int count = [] {
    const char* text = std::getenv("FHRT_NUM_THREADS");
    const int given = text == nullptr ? 0 : std::atoi(text);
    return std::max(1, given > 0 ? given : usable_cores());
  }();
  return count;
}

std::atomic<int> wanted{0};
thread_local bool alone = false;

constexpr int64_t kWorthAThread = 10'000;  // nanoseconds of work for each thread at least

struct Job {
  const std::function<void(int64_t, int64_t)>* body;
  int64_t n, chunk;
  std::atomic<int64_t> next{0};

  void work() {
    for (int64_t begin; (begin = next.fetch_add(chunk)) < n;) (*body)(begin, std::min(begin + chunk, n));
  }
};

class Pool {
 public:
  explicit Pool(int workers) : pid_(getpid()) {
    for (int i = 0; i < workers; ++i) threads_.emplace_back([this] { loop(); });
  }
  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (auto& thread : threads_) thread.join();
  }
  bool of_this_process() const { return pid_ == getpid(); }
  int workers() const { return static_cast<int>(threads_.size()); }

  void run(Job& job) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = &job;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    job.work();
    // Only those who took the job are waited for: a thread that wakes up late finds nothing to do.
    for (int k = 0; k < kSpins && active_.load(std::memory_order_acquire) != 0; ++k) relax();
    std::unique_lock<std::mutex> lock(mutex_);
    job_ = nullptr;
    done_.wait(lock, [this] { return active_ == 0; });
  }

 private:
  // Some tens of microseconds: ops follow one another, and a thread that sleeps takes longer to wake than many of them last. More would
  // take the core from ONNX Runtime or torch.
  static constexpr int kSpins = 1000;

  static void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  void loop() {
    uint64_t seen = 0;
    for (;;) {
      for (int k = 0; k < kSpins && generation_.load(std::memory_order_acquire) == seen; ++k) relax();
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return stop_ || generation_ != seen; });
      if (stop_) return;
      seen = generation_;
      if (!job_) continue;
      Job* job = job_;
      ++active_;
      lock.unlock();
      job->work();
      lock.lock();
      if (--active_ == 0) done_.notify_one();
    }
  }

  pid_t pid_;
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  Job* job_ = nullptr;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> active_{0};
  bool stop_ = false;
};

std::mutex pool_mutex;  // one op at a time uses the pool; a second caller runs alone rather than wait
Pool* pool = nullptr;   // never destroyed at exit: its threads may outlive static destructors

Pool& pool_of(int workers) {
  if (pool && !pool->of_this_process()) pool = nullptr;  // after fork the threads are gone and their locks cannot be trusted
  if (pool && pool->workers() != workers) {
    delete pool;
    pool = nullptr;
  }
  if (!pool) pool = new Pool(workers);
  return *pool;
}

}  // namespace

void set_num_threads(int count) { wanted = std::max(0, count); }
int get_num_threads() {
  int count = wanted;
  return count > 0 ? count : default_threads();
}

void stay_alone() { alone = true; }

void parallel_for(int64_t n, int64_t cost, const std::function<void(int64_t, int64_t)>& body, int limit) {
  if (n <= 0) return;
  const int most = alone ? 1 : limit > 0 ? std::min(limit, get_num_threads()) : get_num_threads();
  const int threads = static_cast<int>(std::clamp<int64_t>(std::min(n, n * cost / kWorthAThread), 1, most));
  std::unique_lock<std::mutex> lock(pool_mutex, std::try_to_lock);
  if (threads == 1 || !lock.owns_lock()) {
    body(0, n);
    return;
  }
  // Without a limit more pieces than threads, for those that are slowed down; with one no more, so that no more can take part.
  Job job{&body, n, limit > 0 ? (n + threads - 1) / threads : std::max<int64_t>(1, n / (4 * threads))};
  pool_of(get_num_threads() - 1).run(job);
}

}  // namespace fhrt
