// Gather, crop, flip, normalise and cut out: every output pixel is written once, straight from the source image.
//
// A source row meets the output row in one interval, found from (dx, flip) without looking at a pixel; the loops over
// an interval carry no condition, so the compiler vectorises them. Compiled with -ffp-contract=off: a fused
// multiply-add would round once where the reference rounds twice.

#include "../common.h"

#include <algorithm>

namespace fastdarts {
namespace {

// Half a million output elements are about 0.4 ms of one core: for less, waiting at the end for a thread that a busy
// machine has put aside (4 to 8 ms, measured) costs more than a second thread can save.
constexpr std::int64_t kParallelElements = 1 << 19;

struct Interval {
    std::int64_t begin, end;
};

Interval clip(std::int64_t begin, std::int64_t end, std::int64_t length) {
    const std::int64_t low = std::clamp<std::int64_t>(begin, 0, length);
    return {low, std::max(low, std::clamp<std::int64_t>(end, 0, length))};
}

template <typename Pixel>
void augment_row(const Pixel* row, std::int64_t width, std::int64_t dx, bool flip, float scale, float shift,
                 float* out) {
    // Output x reads x + dx, or width - 1 - x + dx when mirrored: the pixels for which that lies inside the row.
    const Interval inside = flip ? clip(dx, width + dx, width) : clip(-dx, width - dx, width);
    const float outside = 0.0f * scale + shift;
    std::fill(out, out + inside.begin, outside);
    if (flip) {
        const Pixel* last = row + (width - 1 + dx);
        for (std::int64_t x = inside.begin; x < inside.end; ++x) out[x] = static_cast<float>(last[-x]) * scale + shift;
    } else {
        for (std::int64_t x = inside.begin; x < inside.end; ++x)
            out[x] = static_cast<float>(row[x + dx]) * scale + shift;
    }
    std::fill(out + inside.end, out + width, outside);
}

template <typename Pixel>
void augment_image(const Pixel* image, const AugmentParams& p, std::int64_t b, float* out) {
    // Past one image length every pixel is outside; clamped, an extreme offset cannot overflow the sum.
    const std::int64_t dy = std::clamp(p.offset[2 * b], -p.height, p.height);
    const std::int64_t dx = std::clamp(p.offset[2 * b + 1], -p.width, p.width);
    const std::int64_t* cut = p.cutout + 4 * b;
    const Interval rows = clip(cut[0], cut[1], p.height), columns = clip(cut[2], cut[3], p.width);
    for (std::int64_t c = 0; c < p.channels; ++c) {
        const float scale = p.scale[c], shift = p.shift[c];
        for (std::int64_t y = 0; y < p.height; ++y, out += p.width) {
            const std::int64_t source = y + dy;
            if (source >= 0 && source < p.height) {
                augment_row(image + (c * p.height + source) * p.width, p.width, dx, p.flip[b], scale, shift, out);
            } else {
                std::fill(out, out + p.width, 0.0f * scale + shift);
            }
            if (y >= rows.begin && y < rows.end) std::fill(out + columns.begin, out + columns.end, 0.0f);
        }
    }
}

}  // namespace

template <typename Pixel>
void augment(const Pixel* images, const AugmentParams& p) {
    require(p.count > 0 && p.channels > 0 && p.height > 0 && p.width > 0 && p.batch >= 0 && p.threads > 0,
            "augment: a size is not positive");
    for (std::int64_t b = 0; b < p.batch; ++b) {
        if (p.index[b] < 0 || p.index[b] >= p.count) {
            throw std::out_of_range("augment: index " + std::to_string(p.index[b]) + " of " +
                                    std::to_string(p.count) + " images");
        }
    }
    const std::int64_t size = p.channels * p.height * p.width;
#pragma omp parallel for schedule(static) num_threads(p.threads) if (p.batch * size >= kParallelElements)
    for (std::int64_t b = 0; b < p.batch; ++b) augment_image(images + p.index[b] * size, p, b, p.out + b * size);
}

template void augment(const std::uint8_t* images, const AugmentParams& p);
template void augment(const float* images, const AugmentParams& p);

}  // namespace fastdarts
