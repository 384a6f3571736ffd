// What a cell's program launches, one entry a kernel, while somebody asks: for tests, and to see where time goes.
#pragma once

#include <cstdint>
#include <vector>

namespace fastdarts {

struct Launch {
    const char *op, *function;
    std::int64_t count;  // of convolutions, factorised reductions or edges
    bool weights;        // whether gradients of parameters are computed
    double seconds;
};

void record_launches(bool on);         // a recording begins empty
std::vector<Launch> launches();        // since it began
bool recording_launches();             // of this process
void add_launch(const Launch& launch);
double now();  // seconds of a clock that only goes forward

template <typename Kernel>
void launched(const char* op, const char* function, std::int64_t count, bool weights, const Kernel& kernel) {
    if (!recording_launches()) {
        kernel();
        return;
    }
    const double start = now();
    kernel();
    add_launch({op, function, count, weights, now() - start});
}

}  // namespace fastdarts
