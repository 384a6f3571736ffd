// Which instruction set the vector kernels run with: every file in csrc/cpu/simd is compiled once for each of them, in
// a namespace of its name, and the widest that the processor has is chosen at run time, from one wheel.
#pragma once

#include <string>
#include <vector>

// FASTDARTS_EACH_ISA(declaration) declares a function in every such namespace; FASTDARTS_CALL(function, arguments) calls
// the one that is in force.
#if defined(__x86_64__)
#define FASTDARTS_EACH_ISA(...)                                                                                     \
    namespace base {                                                                                                \
    __VA_ARGS__                                                                                                     \
    }                                                                                                               \
    namespace avx2 {                                                                                                \
    __VA_ARGS__                                                                                                     \
    }                                                                                                               \
    namespace avx512 {                                                                                              \
    __VA_ARGS__                                                                                                     \
    }
#define FASTDARTS_CALL(function, ...)                                                                               \
    (::fastdarts::isa() == ::fastdarts::Isa::avx512 ? ::fastdarts::avx512::function(__VA_ARGS__)                    \
     : ::fastdarts::isa() == ::fastdarts::Isa::avx2 ? ::fastdarts::avx2::function(__VA_ARGS__)                      \
                                                    : ::fastdarts::base::function(__VA_ARGS__))
#else
#define FASTDARTS_EACH_ISA(...)                                                                                     \
    namespace base {                                                                                                \
    __VA_ARGS__                                                                                                     \
    }
#define FASTDARTS_CALL(function, ...) (::fastdarts::base::function(__VA_ARGS__))
#endif

namespace fastdarts {

enum class Isa { base, avx2, avx512 };

Isa isa();
std::string isa_name();
std::vector<std::string> isa_names();      // those that this processor can run, the slowest first
void choose_isa(const std::string& name);  // for tests and benchmarks; throws where the processor has it not

}  // namespace fastdarts
