// The recording of launches: autograd may run a backward in a thread of its own, so it belongs to the process.

#include "launches.h"

#include <atomic>
#include <chrono>
#include <mutex>

namespace fastdarts {
namespace {

std::atomic<bool> recording{false};
std::mutex guard;
std::vector<Launch> found;

}  // namespace

bool recording_launches() { return recording.load(std::memory_order_relaxed); }

void record_launches(bool on) {
    const std::lock_guard<std::mutex> lock(guard);
    if (on) found.clear();
    recording.store(on, std::memory_order_relaxed);
}

std::vector<Launch> launches() {
    const std::lock_guard<std::mutex> lock(guard);
    return found;
}

void add_launch(const Launch& launch) {
    const std::lock_guard<std::mutex> lock(guard);
    found.push_back(launch);
}

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace fastdarts
