// What the processor this runs on can do, asked of the processor itself: a container's /proc may be missing or masked.

#include "../common.h"

namespace fastdarts {

std::vector<std::string> instruction_sets() {
    std::vector<std::string> found;
#if defined(__x86_64__) || defined(__i386__)
    __builtin_cpu_init();
    // The builtin takes string literals only, so that a loop over names is no alternative.
    if (__builtin_cpu_supports("sse4.2")) found.push_back("SSE4.2");
    if (__builtin_cpu_supports("avx2")) found.push_back("AVX2");
    if (__builtin_cpu_supports("fma")) found.push_back("FMA");
    if (__builtin_cpu_supports("avx512f")) found.push_back("AVX-512F");
    if (__builtin_cpu_supports("avx512bw")) found.push_back("AVX-512BW");
    if (__builtin_cpu_supports("avx512vl")) found.push_back("AVX-512VL");
    if (__builtin_cpu_supports("avx512bf16")) found.push_back("AVX-512BF16");
#elif defined(__aarch64__)
    found.push_back("NEON");  // mandatory in AArch64
#endif
    return found;
}

}  // namespace fastdarts
