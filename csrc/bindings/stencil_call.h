// What the bindings of csrc/cpu/stencil.h and csrc/cuda/stencil.h share: a source is a tuple of six numbers, a
// convolution one of twelve, in the order of their structs; an address that a call does not need is 0.
#pragma once

#include <array>
#include <vector>

#include "../common.h"
#include "../cpu/stencil.h"
#include "../stencils.h"

namespace fastdarts {

using SourceTuple = std::array<std::int64_t, 6>;
using ConvTuple = std::array<std::int64_t, 12>;

// Owns what a Stencil points to, and has checked every size.
template <typename T>
struct StencilCall {
    using A = Arithmetic<T>;
    std::vector<StencilSource> sources;
    std::vector<StencilConv> convs;
    Stencil stencil{};

    StencilCall(std::int64_t count, std::int64_t channels, const std::vector<SourceTuple>& from,
                const std::vector<ConvTuple>& with, int threads) {
        require(count > 0 && channels > 0 && threads > 0, "stencil: a size is not positive");
        for (const auto& [x, pixel, height, width, dx, dx_pixel] : from) {
            require(height > 0 && width > 0, "stencil: a size is not positive");
            require(pixel >= channels && (dx == 0 || dx_pixel >= channels), "stencil: pixels of a source overlap");
            sources.push_back({maybe<const T>(x, "x"), pixel, height, width, maybe<T>(dx, "dx"), dx_pixel});
        }
        for (const auto& [source, kernel, dilation, stride, depthwise, pointwise, y, y_pixel, g, g_pixel, ddepthwise,
                          dpointwise] : with) {
            require(source >= 0 && source < static_cast<std::int64_t>(sources.size()), "stencil: no such source");
            require(is_stencil(kernel, dilation, stride), "stencil: there is no kernel for a window");
            require((y == 0 || y_pixel >= channels) && (g == 0 || g_pixel >= channels),
                    "stencil: pixels of a convolution's maps overlap");
            // One tap has no distance to the next: kernels for dilation 1 do.
            convs.push_back({source, kernel, kernel == 1 ? 1 : dilation, stride, maybe<const A>(depthwise, "depthwise"),
                             maybe<const A>(pointwise, "pointwise"), maybe<T>(y, "y"), y_pixel,
                             maybe<const T>(g, "g"), g_pixel, maybe<A>(ddepthwise, "ddepthwise"),
                             maybe<A>(dpointwise, "dpointwise")});
        }
        stencil.count = count;
        stencil.channels = channels;
        stencil.sources = sources.data();
        stencil.source_count = static_cast<std::int64_t>(sources.size());
        stencil.convs = convs.data();
        stencil.conv_count = static_cast<std::int64_t>(convs.size());
        stencil.threads = threads;
    }

    void scratch(std::int64_t address, std::int64_t bytes, std::int64_t needed) {
        require(bytes >= needed, "stencil: scratch is too small");
        require(needed == 0 || (address != 0 && address % 64 == 0), "stencil: scratch is not aligned to 64 bytes");
        stencil.scratch = reinterpret_cast<void*>(static_cast<Address>(address));
    }

    void forward(std::int64_t mean, std::int64_t rstd, std::int64_t y_mean, std::int64_t y_var) {
        for (const StencilSource& source : sources) require(source.x, "stencil: x is a null pointer");
        for (const StencilConv& conv : convs)
            require(conv.depthwise && conv.pointwise && conv.y, "stencil: weights or y are a null pointer");
        require((y_mean == 0) == (y_var == 0), "stencil: a mean without a variance");
        normalised(mean, rstd);
        stencil.y_mean = maybe<double>(y_mean, "y_mean");
        stencil.y_var = maybe<double>(y_var, "y_var");
    }

    void backward(std::int64_t mean, std::int64_t rstd, std::int64_t alpha, std::int64_t beta, std::int64_t gamma,
                  std::int64_t sums, std::int64_t products, bool weights, bool add) {
        for (const StencilSource& source : sources)
            require(source.x && source.dx, "stencil: x or dx is a null pointer");
        for (const StencilConv& conv : convs) {
            require(conv.depthwise && conv.pointwise && conv.g, "stencil: weights or g are a null pointer");
            require(!weights || (conv.ddepthwise && conv.dpointwise), "stencil: a weight gradient is a null pointer");
        }
        normalised(mean, rstd);
        require(mean == 0 || (sums != 0 && products != 0 && !add),
                "stencil: sums are a null pointer, or dx is added to");
        require(convs.empty() || (alpha != 0 && beta != 0 && gamma != 0), "stencil: coefficients are a null pointer");
        stencil.alpha = maybe<const double>(alpha, "alpha");
        stencil.beta = maybe<const double>(beta, "beta");
        stencil.gamma = maybe<const double>(gamma, "gamma");
        stencil.sums = maybe<double>(sums, "sums");
        stencil.products = maybe<double>(products, "products");
        stencil.weights = weights;
        stencil.add = add;
    }

  private:
    template <typename E>
    static E* maybe(std::int64_t address, const char* name) {
        return address == 0 ? nullptr : pointer<E>(static_cast<Address>(address), name);
    }

    void normalised(std::int64_t mean, std::int64_t rstd) {
        require((mean == 0) == (rstd == 0), "stencil: mean without rstd");
        stencil.mean = maybe<const double>(mean, "mean");
        stencil.rstd = maybe<const double>(rstd, "rstd");
    }
};

}  // namespace fastdarts
