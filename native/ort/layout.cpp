#include "layout.h"

#include "actswap_kernels.h"

#include <algorithm>
#include <cstring>

namespace actswap {

void lay_out(const Dims &x, const Channels &channels, bool pools, int64_t block, actswap_call *call) {
    const int64_t rank = int64_t(x.size());
    auto product = [&](int64_t from, int64_t to) {
        int64_t n = 1;
        for (int64_t i = from; i < to; ++i) n *= x[size_t(i)];
        return n;
    };
    auto set = [&](int64_t batch, int64_t groups, int64_t width, int64_t inner, const int64_t (&stride)[4]) {
        call->batch = batch, call->groups = groups, call->channels = width, call->inner = inner;
        std::copy(stride, stride + 4, call->x_stride);
        std::copy(stride, stride + 4, call->y_stride);
        call->x_size = call->y_size = product(0, rank);
    };
    if (block) {
        const int64_t inner = x[2] * x[3];
        return set(x[0], x[1] / block, block, inner, {x[1] * inner, block * inner, 1, block});
    }
    if (channels.none()) {
        const int64_t all = product(0, rank);
        return set(1, 1, 1, all, {all, 0, all, 1});
    }
    const int64_t width = channels.width(x);
    if (channels.last == rank && rank > 1) {
        // If the operator does not pool, rows are alike: one long run is split more evenly than many short ones.
        const int64_t batch = pools ? x[0] : 1;
        const int64_t inner = product(pools ? 1 : 0, channels.first);
        return set(batch, 1, width, inner, {inner * width, 0, 1, width});
    }
    const int64_t inner = product(channels.last, rank);
    set(product(0, channels.first), 1, width, inner, {width * inner, 0, inner, 1});
}

void move_axis(const void *from, void *to, int64_t n, int64_t before, int64_t c, int64_t after, int64_t size) {
    const char *x = static_cast<const char *>(from);
    char *y = static_cast<char *>(to);
    const size_t run = size_t(after * size);
    for (int64_t i = 0; i < n; ++i)
        for (int64_t k = 0; k < c; ++k)
            for (int64_t j = 0; j < before; ++j, y += run)
                std::memcpy(y, x + ((i * before + j) * c + k) * after * size, run);
}

}  // namespace actswap
