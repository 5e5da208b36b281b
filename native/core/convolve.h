// A convolution of NCHWc blocks: 1 x 1, 3 x 3, or depthwise. The activation runs on each piece of the result while that
// piece is in the cache.
#pragma once
#include <type_traits>

#include "apply.h"

namespace ACTSWAP_BUILD {

// The positions of a tile of N vectors of channels: its accumulators leave registers for the operands.
constexpr int wide(int N) { return W < 16 ? 6 : N > 2 ? 7 : 14; }

// Cuts [0, n) into tiles whose width is known when the body is compiled.
template <int WIDE, class Body> INLINE void in_tiles(int64_t n, Body body) {
    int64_t i = 0;
    for (; i + WIDE <= n; i += WIDE) body(i, std::integral_constant<int, WIDE>());
    for (; i + WIDE / 2 <= n; i += WIDE / 2) body(i, std::integral_constant<int, WIDE / 2>());
    for (; i + 2 <= n; i += 2) body(i, std::integral_constant<int, 2>());
    if (i < n) body(i, std::integral_constant<int, 1>());
}

// The addresses of one sample. B channels are a block of V vectors.
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
    // The offset in y of a vector of channels, counted through all blocks.
    int64_t at(int64_t vector) const { return vector / V * group + vector % V * W; }
};

alignas(64) static const float NOTHING[16] = {};

// The initial values of a tile's accumulators: those at `from`, `step` apart by position, plus those at `more`.
struct Start {
    const float *from, *more;
    int64_t step;
    bool far;
};

// Adds the products of one tap of one block of x to the tile, whose P positions are STRIDE apart in x. The outer two
// positions have their own addresses, because they may lie outside the picture.
template <int B, int P, int N, int STRIDE>
INLINE void add_products(vf (&acc)[P][N], const float *first, const float *x, const float *last, const float *const *w,
                         int64_t offset) {
    const float *weight[N];
    for (int v = 0; v < N; ++v) weight[v] = w[v] + offset;
    for (int i = 0; i < B; ++i) {
        vf row[N];
        for (int v = 0; v < N; ++v) row[v] = load_f32(weight[v] + i * B, W);
        for (int p = 0; p < P; ++p) {
            const vf u = splat(p == 0 ? first[i] : p == P - 1 ? last[i] : x[p * STRIDE * B + i]);
            for (int v = 0; v < N; ++v) acc[p][v] += u * row[v];
        }
    }
}

// What the tiles of a few vectors of outputs share, for `some` blocks of inputs.
template <int B, int N> struct Panel {
    const float *w[N], *next[N];  // weights of the first of them, and those that come after them
    float *y[N];                  // of the first position
    Start start[N];
    int64_t some, share;  // floats of the next weights to fetch with every product

    Panel(const Blocks<B> &b, int64_t vector, int64_t first, int64_t some, int64_t from, int64_t count) : some(some) {
        const actswap_convolution &conv = b.conv;
        const int64_t blocks = conv.inputs / B, size = conv.kernel[0] * conv.kernel[1] * B * B;
        const bool more = first + some < blocks;
        for (int v = 0; v < N; ++v) {
            const int64_t at = b.at(vector + v) + from * B;
            const float *bias = conv.bias + (vector + v) * W;
            y[v] = b.y + at;
            w[v] = conv.weight + ((vector + v) / b.V * blocks + first) * size + (vector + v) % b.V * W;
            next[v] = more ? w[v] + some * size : conv.weight + (vector + N + v) / b.V * blocks * size;
            start[v] = first ? Start{y[v], NOTHING, B, false}
                       : b.sum ? Start{b.sum + at, bias, B, true}
                               : Start{bias, NOTHING, 0, false};
        }
        share = (B * B / 16 * wide(N) + count / 2) / count * 16;
    }
    template <int P> [[gnu::always_inline]] void begin(vf (&acc)[P][N], int64_t i) const {
        for (int v = 0; v < N; ++v) {
            const vf more = load_f32(start[v].more, W);
            const float *from = start[v].from + i * start[v].step;
            for (int p = 0; p < P; ++p) acc[p][v] = load_f32(from + p * start[v].step, W) + more;
        }
        if (start[0].far)  // prefetch that of the next tile
            for (int v = 0; v < N; ++v)
                for (int p = 0; p < P; ++p) __builtin_prefetch(start[v].from + (i + P + p) * B);
    }
    [[gnu::always_inline]] void fetch() {
        for (int v = 0; v < N; ++v)
            for (int64_t i = 0; i < share; i += 16, next[v] += 16) __builtin_prefetch(next[v], 0, 2);
    }
    template <int P> [[gnu::always_inline]] void end(const vf (&acc)[P][N], int64_t i) const {
        for (int v = 0; v < N; ++v) {
            float *to = y[v] + i * B;
            for (int p = 0; p < P; ++p) store_f32(to + p * B, acc[p][v], W);
        }
    }
};

// 1 x 1: positions [from, end) in one run.
template <int B, int N>
static void pointwise(const Blocks<B> &b, Panel<B, N> panel, int64_t first, int64_t from, int64_t end) {
    const int64_t step = b.conv.height * b.conv.width * B;
    const float *x = b.x + first * step + from * B;
    in_tiles<wide(N)>(end - from, [&](int64_t i, auto width) __attribute__((always_inline)) {
        constexpr int P = width;
        vf acc[P][N];
        panel.begin(acc, i);
        for (int64_t k = 0; k < panel.some; ++k) {
            panel.fetch();
            const float *at = x + i * B + k * step;
            add_products<B, P, N, 1>(acc, at, at, at + (P - 1) * B, panel.w, k * B * B);
        }
        panel.end(acc, i);
    });
}

// 3 x 3, padded by 0 or 1, row by row. The first and the last position of a row may see outside the picture.
template <int B, int N, int STRIDE>
static void spatial(const Blocks<B> &b, Panel<B, N> panel, int64_t first, int64_t from, int64_t end) {
    const actswap_convolution &conv = b.conv;
    const int64_t step = conv.height * conv.width * B, start = from;
    while (from < end) {
        const int64_t row = from / conv.out_width, column = from % conv.out_width;
        const int64_t count = actswap::smaller(conv.out_width - column, end - from);
        const int64_t top = row * STRIDE - conv.pad[0];
        const int64_t r0 = actswap::larger(0, -top), r1 = actswap::smaller(3, conv.height - top);
        in_tiles<wide(N)>(count, [&](int64_t i, auto width) __attribute__((always_inline)) {
            constexpr int P = width;
            const int64_t left = (column + i) * STRIDE - conv.pad[1];
            const bool begins = left < 0, ends = left + (P - 1) * STRIDE + 3 > conv.width;
            const float *x = b.x + first * step + left * B;
            vf acc[P][N];
            panel.begin(acc, from - start + i);
            for (int64_t k = 0; k < panel.some; ++k)
                for (int64_t r = r0; r < r1; ++r)
                    for (int64_t c = 0; c < 3; ++c) {
                        const float *at = x + k * step + ((top + r) * conv.width + c) * B;
                        const bool before = begins && c == 0, after = ends && c == 2;
                        const float *outer[2] = {before || (P == 1 && after) ? NOTHING : at,
                                                 after ? NOTHING : at + (P - 1) * STRIDE * B};
                        const int64_t tap = k * 9 + r * 3 + c;
                        panel.fetch();
                        add_products<B, P, N, STRIDE>(acc, outer[0], at, outer[1], panel.w, tap * B * B);
                    }
            panel.end(acc, from - start + i);
        });
        from += count;
    }
}

// Inputs at a time, over all taps. Their weights stay in the first-level cache for all positions.
constexpr int64_t DEPTH = 576;

template <int B, int N> static void dense(const Blocks<B> &b, int64_t vector, int64_t from, int64_t end) {
    const actswap_convolution &conv = b.conv;
    const int64_t taps = conv.kernel[0] * conv.kernel[1], blocks = conv.inputs / B;
    const int64_t most = actswap::larger(1, DEPTH / N / (taps * B));
    const int64_t even = actswap::ceil_div(blocks, actswap::ceil_div(blocks, most));
    for (int64_t first = 0; first < blocks; first += even) {
        const Panel<B, N> panel(b, vector, first, actswap::smaller(even, blocks - first), from, end - from);
        if (conv.kernel[0] == 1) pointwise(b, panel, first, from, end);
        else if (conv.stride[0] == 1) spatial<B, N, 1>(b, panel, first, from, end);
        else spatial<B, N, 2>(b, panel, first, from, end);
    }
}

// Positions at either end of a row whose taps may lie outside the picture.
constexpr int MARGIN = 3;

// P positions side by side. If EDGE, the outer ones may see outside the picture.
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
    if (width > 32)  // a large picture is not in the cache: prefetch what the next row of positions reads
        for (int64_t r = k.kernel[0]; r < k.kernel[0] + k.stride[0]; ++r)
            for (int64_t i = 0; i < P * stride; ++i) __builtin_prefetch(x + (r * width + i) * B);
    if (b.sum)
        for (int p = 0; p < P; ++p) acc[p] += load_f32(b.sum + at + p * B, W);
    for (int p = 0; p < P; ++p) store_f32(y + p * B, acc[p], W);
}

template <int B> static void depthwise(const Blocks<B> &b, int64_t vector, int64_t from, int64_t end) {
    const actswap_convolution &k = b.conv;
    const int64_t reach = k.width + k.pad[1] - k.kernel[1];  // the last position that lies inside, times the stride
    while (from < end) {
        const int64_t row = from / k.out_width, start = from % k.out_width;
        const int64_t count = actswap::smaller(k.out_width - start, end - from);
        in_tiles<wide(1)>(count, [&](int64_t i, auto width) __attribute__((always_inline)) {
            const int64_t column = start + i;
            const bool inside = column * k.stride[1] >= k.pad[1] && (column + width - 1) * k.stride[1] <= reach;
            if (inside) depthwise_tile<B, width, false>(b, vector, row, column);
            else depthwise_tile<B, width, true>(b, vector, row, column);
        });
        from += count;
    }
}

// One unit: a chunk of positions of some blocks.
template <int B> static void convolved(const actswap_call &c, const Layout &l, float *work, Unit after, int64_t unit) {
    const int64_t sets = actswap::ceil_div(c.groups, l.together), sample = unit / (sets * l.chunks);
    const int64_t chunk = unit / sets % l.chunks, group = unit % sets * l.together;
    const int64_t from = chunk * l.span, end = actswap::smaller(from + l.span, c.inner);
    const int64_t groups = actswap::smaller(l.together, c.groups - group);
    const Blocks<B> b(c, sample);
    const int64_t last = (group + groups) * b.V;
    for (int64_t v = group * b.V; v < last;) {
        // Deep tiles read each input less often, which pays if there are many inputs.
        const bool many = W == 16 && (b.conv.inputs >= 256 || b.conv.kernel[0] > 1);
        const int deep = !b.conv.inputs ? 1 : many && v + 4 <= last ? 4 : v + 2 <= last ? 2 : 1;
        if (!b.conv.inputs) depthwise<B>(b, v, from, end);
        else if (deep == 4) dense<B, W == 16 ? 4 : 2>(b, v, from, end);
        else if (deep == 2) dense<B, 2>(b, v, from, end);
        else dense<B, 1>(b, v, from, end);
        v += deep;
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
