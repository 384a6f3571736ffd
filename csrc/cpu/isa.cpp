// The choice of the instruction set: the widest of the processor, unless a test or a benchmark asks for another.

#include "../isa.h"

#include <algorithm>
#include <atomic>
#include <stdexcept>

namespace fastdarts {
namespace {

const char* const kNames[] = {"base", "avx2", "avx512"};

Isa widest() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"))
        return Isa::avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::avx2;
#endif
    return Isa::base;
}

std::atomic<Isa>& chosen() {
    static std::atomic<Isa> value{widest()};
    return value;
}

}  // namespace

Isa isa() { return chosen().load(std::memory_order_relaxed); }

std::string isa_name() { return kNames[static_cast<int>(isa())]; }

std::vector<std::string> isa_names() { return {kNames, kNames + static_cast<int>(widest()) + 1}; }

void choose_isa(const std::string& name) {
    const auto names = isa_names();
    const auto found = std::find(names.begin(), names.end(), name);
    if (found == names.end()) throw std::invalid_argument("this processor has no instruction set called " + name);
    chosen().store(static_cast<Isa>(found - names.begin()), std::memory_order_relaxed);
}

}  // namespace fastdarts
