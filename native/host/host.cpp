#include "host.h"

#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace {

// Threads wait for a job, then each takes ranges of units until none is left. The pool runs one job at a time; a caller
// that finds it busy works alone. It is never destroyed, because threads must not be joined while a process unloads.
class Pool {
  public:
    void run(const actswap_call *call, void *work, int phase, int64_t units, int threads) {
        std::unique_lock<std::mutex> busy(busy_, std::try_to_lock);
        if (!busy || threads < 2 || units < 2) return actswap_run(call, work, phase, 0, units);
        while ((int)threads_.size() + 1 < threads) threads_.emplace_back(&Pool::serve, this, (int)threads_.size());
        {
            std::lock_guard<std::mutex> lock(mutex_);
            call_ = call, work_ = work, phase_ = phase, units_ = units;
            grain_ = units / (threads * 4) > 1 ? units / (threads * 4) : 1;
            next_ = 0;
            helpers_ = threads - 1;
            left_ = helpers_;
            ++job_;
        }
        wake_.notify_all();
        take();
        std::unique_lock<std::mutex> lock(mutex_);
        done_.wait(lock, [this] { return left_ == 0; });
    }

  private:
    void take() {
        for (int64_t at; (at = next_.fetch_add(grain_)) < units_;)
            actswap_run(call_, work_, phase_, at, at + grain_ < units_ ? at + grain_ : units_);
    }

    void serve(int index) {
        uint64_t seen = 0;
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            wake_.wait(lock, [&] { return job_ != seen; });
            seen = job_;
            if (index >= helpers_) continue;
            lock.unlock();
            take();
            lock.lock();
            if (--left_ == 0) done_.notify_one();
        }
    }

    std::mutex busy_, mutex_;
    std::condition_variable wake_, done_;
    std::vector<std::thread> threads_;
    const actswap_call *call_ = nullptr;
    void *work_ = nullptr;
    int phase_ = 0, helpers_ = 0, left_ = 0;
    int64_t units_ = 0, grain_ = 1;
    std::atomic<int64_t> next_{0};
    uint64_t job_ = 0;
};

Pool *pool_of_this_process() {
    static std::mutex mutex;
    static Pool *pool = nullptr;
    static pid_t owner = 0;
    std::lock_guard<std::mutex> lock(mutex);
    if (owner != getpid()) pool = new Pool, owner = getpid();  // a forked child does not have its parent's threads
    return pool;
}

// Each calling thread reuses its workspace: the page faults of a new one would cost as much as the kernel.
struct Workspace {
    void *data = nullptr;
    size_t size = 0;
    ~Workspace() { free(data); }
    void *get(size_t bytes) {
        if (bytes > size) {
            free(data);
            size = (bytes + 4095) / 4096 * 4096;
            data = aligned_alloc(64, size);
            if (!data) size = 0;
        }
        return data;
    }
};

}  // namespace

extern "C" ACTSWAP_API int actswap_host_run(const actswap_call *call, int threads) {
    static thread_local Workspace workspace;
    if (*actswap_check(call)) return 1;
    // If there are fewer than two units for each thread, the phases run over planes instead of samples.
    actswap_call spread = *call;
    const bool gated = call->op == ACTSWAP_META_ACON || call->op == ACTSWAP_DY_RELU;
    if (threads > 1 && gated && actswap_units(call, 0) < 2 * threads) {
        spread.flags |= ACTSWAP_SPLIT;
        call = &spread;
    }
    void *work = workspace.get(actswap_workspace(call));
    if (!work) return 2;
    const int phases = actswap_phases(call);
    Pool *pool = threads > 1 ? pool_of_this_process() : nullptr;
    for (int phase = 0; phase < phases; ++phase) {
        const int64_t units = actswap_units(call, phase);
        if (pool) pool->run(call, work, phase, units, threads);
        else actswap_run(call, work, phase, 0, units);
    }
    return 0;
}
