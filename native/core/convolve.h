// A convolution of NCHWc blocks: 1 x 1, or depthwise. What it makes goes through the activation a piece at a time, while
// it is in the cache.
#pragma once
#include <type_traits>

#include "apply.h"

namespace ACTSWAP_BUILD {

// A tile's accumulators, positions times vectors of channels: as many as leave registers for the operands.
constexpr int WIDE = W == 16 ? 14 : 6, DEEP = 2;

// Cuts [0, n) in tiles whose width the body knows when it is compiled.
template <class Body> INLINE void in_tiles(int64_t n, Body body) {
    int64_t i = 0;
    for (; i + WIDE <= n; i += WIDE) body(i, std::integral_constant<int, WIDE>());
    for (; i + WIDE / 2 <= n; i += WIDE / 2) body(i, std::integral_constant<int, WIDE / 2>());
    for (; i + 2 <= n; i += 2) body(i, std::integral_constant<int, 2>());
    if (i < n) body(i, std::integral_constant<int, 1>());
}

// What lies where for one sample; B channels are a block of V vectors.
template <int B> struct Blocks {
    static constexpr int V = B / W;
    const actswap_convolution &conv;
    const float *x, *sum;
    float *y;
    int64_t group;  // from one block of y to the next

    Blocks(const actswap_call &c, int64_t sample) : conv(*c.convolution), sum(conv.sum), group(c.y_stride[1]) {
        const int64_t channels = conv.inputs ? conv.inputs : c.groups * B;
        x = conv.x + sample * channels * conv.height * conv.width;
        y = (float *)c.y + sample * c.y_stride[0];
        if (sum) sum += sample * c.y_stride[0];
    }
    // Of a vector of channels, counted through all blocks: its place in a position's row of y.
    int64_t at(int64_t vector) const { return vector / V * group + vector % V * W; }
};

alignas(64) static const float NOTHING[W] = {};

// Where a tile's accumulators begin: `from`, `step` apart by position, plus `more`.
struct Start {
    const float *from, *more;
    int64_t step;
    bool far;
};

// P positions and N vectors of outputs; `inputs` blocks of x, `step` apart.
template <int B, int P, int N>
INLINE void dense_tile(float *const *y, const Start *start, const float *x, int64_t step, const float *const *w,
                       int64_t inputs, const float **next, int64_t share) {
    vf acc[P][N];
    for (int v = 0; v < N; ++v) {
        const vf more = load_f32(start[v].more, W);
        for (int p = 0; p < P; ++p) {
            acc[p][v] = load_f32(start[v].from + p * start[v].step, W) + more;
            // What comes from another tensor is far away: the next tile's is fetched meanwhile.
            if (start[v].far) __builtin_prefetch(start[v].from + (P + p) * B);
        }
    }
    const float *weight[N];
    for (int v = 0; v < N; ++v) weight[v] = w[v];
    for (int64_t k = 0; k < inputs; ++k, x += step) {
        for (int v = 0; v < N; ++v)
            for (int64_t i = 0; i < share; i += 16, next[v] += 16) __builtin_prefetch(next[v], 0, 2);
        for (int i = 0; i < B; ++i) {
            vf row[N];
            for (int v = 0; v < N; ++v) row[v] = load_f32(weight[v], W), weight[v] += B;
            for (int p = 0; p < P; ++p) {
                const vf u = splat(x[p * B + i]);
                for (int v = 0; v < N; ++v) acc[p][v] += u * row[v];
            }
        }
    }
    for (int v = 0; v < N; ++v) {
        float *to = y[v];
        for (int p = 0; p < P; ++p) store_f32(to + p * B, acc[p][v], W);
    }
}

// Inputs at a time: what their weights take stays in the first-level cache while the positions pass.
constexpr int64_t DEPTH = 256;

template <int B, int N> static void dense(const Blocks<B> &b, int64_t vector, int64_t from, int64_t end) {
    const actswap_convolution &conv = b.conv;
    const int64_t step = conv.height * conv.width * B, blocks = conv.inputs / B;
    for (int64_t first = 0; first < blocks; first += DEPTH / B) {
        const int64_t some = actswap::smaller(DEPTH / B, blocks - first);
        const float *w[N], *x = b.x + first * step + from * B;
        float *y[N];
        Start start[N];
        for (int v = 0; v < N; ++v) {
            const int64_t at = b.at(vector + v) + from * B;
            const float *bias = conv.bias + (vector + v) * W;
            y[v] = b.y + at;
            w[v] = conv.weight + ((vector + v) / b.V * blocks + first) * B * B + (vector + v) % b.V * W;
            start[v] = first ? Start{y[v], NOTHING, B, false}
                       : b.sum ? Start{b.sum + at, bias, B, true}
                               : Start{bias, NOTHING, 0, false};
        }
        // The weights after these are fetched meanwhile, a share with every tile and block.
        const bool more = first + some < blocks;
        const float *next[N];
        for (int v = 0; v < N; ++v)
            next[v] = more ? w[v] + some * B * B : conv.weight + (vector + N + v) / b.V * blocks * B * B;
        const int64_t share = (B * B / 16 * WIDE + (end - from) / 2) / (end - from) * 16;
        in_tiles(end - from, [&](int64_t, auto width) __attribute__((always_inline)) {
            dense_tile<B, width, N>(y, start, x, step, w, some, next, share);
            x += width * B;
            for (int v = 0; v < N; ++v) y[v] += width * B, start[v].from += width * start[v].step;
        });
    }
}

// Positions at either end of a row whose taps may lie outside the picture.
constexpr int MARGIN = 3;

// P positions side by side, of which the outer ones may see the picture's EDGE.
template <int B, int P, bool EDGE>
INLINE void depthwise_tile(const Blocks<B> &b, int64_t vector, int64_t row, int64_t column) {
    const actswap_convolution &k = b.conv;
    const int64_t top = row * k.stride[0] - k.pad[0], left = column * k.stride[1] - k.pad[1];
    const int64_t first = actswap::larger(0, -top), last = actswap::smaller(k.kernel[0], k.height - top);
    const int64_t taps = k.kernel[1], width = k.width, stride = k.stride[1], step = stride * B;
    const int64_t at = b.at(vector) + (row * k.out_width + column) * B;
    const float *x = b.x + (vector / b.V * k.height * width + top * width + left) * B + vector % b.V * W;
    const float *w = k.weight + vector / b.V * k.kernel[0] * taps * B + vector % b.V * W;
    float *y = b.y + at;
    vf acc[P];
    for (int p = 0; p < P; ++p) acc[p] = load_f32(k.bias + vector * W, W);
    for (int64_t r = first; r < last; ++r)
        for (int64_t c = 0; c < taps; ++c) {
            const vf tap = load_f32(w + (r * taps + c) * B, W);
            const float *from = x + (r * width + c) * B;
            for (int p = 0; p < P; ++p) {
                const bool outer = EDGE && (p < MARGIN || p >= P - MARGIN);
                if (!outer || (uint64_t)(left + p * stride + c) < (uint64_t)width)
                    acc[p] += tap * load_f32(from + p * step, W);
            }
        }
    if (b.sum)
        for (int p = 0; p < P; ++p) acc[p] += load_f32(b.sum + at + p * B, W);
    for (int p = 0; p < P; ++p) store_f32(y + p * B, acc[p], W);
}

template <int B> static void depthwise(const Blocks<B> &b, int64_t vector, int64_t from, int64_t end) {
    const actswap_convolution &k = b.conv;
    const int64_t reach = k.width + k.pad[1] - k.kernel[1];  // of a row's positions, times the stride
    while (from < end) {
        const int64_t row = from / k.out_width, start = from % k.out_width;
        const int64_t count = actswap::smaller(k.out_width - start, end - from);
        in_tiles(count, [&](int64_t i, auto width) __attribute__((always_inline)) {
            const int64_t column = start + i;
            const bool inside = column * k.stride[1] >= k.pad[1] && (column + width - 1) * k.stride[1] <= reach;
            if (inside) depthwise_tile<B, width, false>(b, vector, row, column);
            else depthwise_tile<B, width, true>(b, vector, row, column);
        });
        from += count;
    }
}

// One unit: a chunk of positions of as many blocks as a tile is deep.
template <int B> static void convolved(const actswap_call &c, const Layout &l, float *work, Unit after, int64_t unit) {
    const int64_t sets = actswap::ceil_div(c.groups, l.together), sample = unit / (sets * l.chunks);
    const int64_t chunk = unit / sets % l.chunks, group = unit % sets * l.together;
    const int64_t from = chunk * l.span, end = actswap::smaller(from + l.span, c.inner);
    const int64_t groups = actswap::smaller(l.together, c.groups - group);
    const Blocks<B> b(c, sample);
    for (int64_t v = group * b.V; v < (group + groups) * b.V;) {
        const bool deep = b.conv.inputs && v + DEEP <= (group + groups) * b.V;
        if (!b.conv.inputs) depthwise<B>(b, v, from, end);
        else if (deep) dense<B, DEEP>(b, v, from, end);
        else dense<B, 1>(b, v, from, end);
        v += deep ? DEEP : 1;
    }
    for (int64_t g = group; g < group + groups; ++g) after(c, l, work, sample * l.per_sample + g * l.chunks + chunk);
}

static void convolve(const actswap_call &c, const Layout &l, float *work, Mode mode, int64_t unit, int64_t end) {
    const Unit after = unit_for(c, l, mode);
    for (; unit < end; ++unit) {
        if constexpr (W <= 8)
            if (c.channels == 8) {
                convolved<8>(c, l, work, after, unit);
                continue;
            }
        convolved<16>(c, l, work, after, unit);
    }
}

}  // namespace ACTSWAP_BUILD
