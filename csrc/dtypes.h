// Storage types and the type that each is computed in.
#pragma once

#include <cstdint>

namespace fastdarts {

struct bfloat16 {
    std::uint16_t bits;
};
struct float16 {
    std::uint16_t bits;
};

// Arithmetic<T>: what values stored as T are multiplied and added in, and what weights and coefficients are passed as.
template <typename T>
struct ArithmeticOf {
    using type = float;
};
template <>
struct ArithmeticOf<double> {
    using type = double;
};
template <typename T>
using Arithmetic = typename ArithmeticOf<T>::type;

}  // namespace fastdarts
