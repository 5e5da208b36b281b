// Short planes, in tiles of W channels. In a plane of 7 x 7 a quarter of the lanes would be idle, and every plane would
// end in one sum across lanes for each parameter. Therefore the few elements that do not fill a vector go into vectors
// across the channels. If all samples have the same parameters, each channel's sums stay vectors from one sample to the
// next.
#pragma once
#include "passes.h"

namespace ACTSWAP_BUILD {

constexpr int ASIDE = 4;  // most leftover elements of a plane for which vectors across the channels pay

// Copy element r of channel k from or to place r W + k. Channels are `apart` bytes from each other.
INLINE void gather(char *to, const char *from, int64_t apart, int channels, int rest, int64_t size) {
    for (int k = 0; k < channels; ++k, from += apart)
        for (int r = 0; r < rest; ++r)
            if (size == 4) memcpy(to + (r * W + k) * 4, from + r * 4, 4);
            else memcpy(to + (r * W + k) * 2, from + r * 2, 2);
}
INLINE void scatter(char *to, const char *from, int64_t apart, int channels, int rest, int64_t size) {
    for (int k = 0; k < channels; ++k, to += apart)
        for (int r = 0; r < rest; ++r)
            if (size == 4) memcpy(to + r * 4, from + (r * W + k) * 4, 4);
            else memcpy(to + r * 2, from + (r * W + k) * 2, 2);
}

// The leftover elements, computed in place of x. Parameters are vectors, and each sum stays in its lane.
template <class F, class E, Mode M>
static __attribute__((noinline)) void aside(const Table &table, int64_t channel, char *x, const char *g, vf share,
                                            vf *total, int used, int n, int rest, int dtype) {
    F f;
    F::load(f, table, channel, n);
    if (!F::RUNTIME) used = F::SUMS;
    vf sums[F::SUMS];
    for (int k = 0; k < used; ++k) sums[k] = total[k];
    for (int64_t r = 0, row = W * E::bytes(dtype); r < rest; ++r)
        step<F, E, M>(f, x + r * row, g + r * row, x + r * row, share, sums, n, dtype);
    for (int k = 0; k < used; ++k) total[k] = sums[k];
}

// Channels [plane, plane + n) of samples [sample, end). The sums go to row `row` of the partial sums.
template <class F, class E, Mode M>
static void tile(const actswap_call &c, const Layout &l, float *work, int64_t row, int64_t sample, int64_t end,
                 int64_t plane, int n) {
    constexpr bool SUMMED = M == Mode::SUMS || M == Mode::BOTH;
    const int64_t size = E::bytes(c.dtype), whole = c.inner / W * W, first = sample;
    const int used = F::RUNTIME ? l.sums : F::SUMS, rest = c.inner - whole <= ASIDE ? (int)(c.inner - whole) : 0;
    const int64_t count = rest ? whole : c.inner;
    const int64_t x_apart = c.x_stride[2] * size, g_apart = c.g_stride[2] * size, y_apart = c.y_stride[2] * size;
    vf sums[W][F::SUMS], across[F::SUMS];
    for (int k = 0; SUMMED && k < used; ++k) {
        across[k] = splat(0.f);
        for (int i = 0; i < W; ++i) sums[i][k] = splat(0.f);
    }
    alignas(64) char rest_x[ASIDE * W * 4], rest_g[ASIDE * W * 4];
    // A plane is only about three vectors, so a channel's parameters and sums stay in registers for the planes of
    // several samples.
    const int64_t together = l.gated ? 1 : 8;
    for (; sample < end; sample += together) {
        const int64_t last = actswap::smaller(sample + together, end);
        auto start = [&](const void *base, const int64_t *stride, int64_t s) {
            return (char *)at_element(base, stride, s, 0, plane, 0, size);
        };
        const char *x = start(c.x, c.x_stride, sample);
        const char *g = M == Mode::FORWARD ? x : start(c.grad_y, c.g_stride, sample);
        char *y = start(c.y, c.y_stride, sample);
        const int64_t x_next = c.x_stride[0] * size, g_next = c.g_stride[0] * size, y_next = c.y_stride[0] * size;
        // Prefetched meanwhile: the next samples' planes, or the next tile's.
        auto far = [&](const int64_t *stride) {
            return size * (last < end ? together * stride[0] : W * stride[2] - (sample - first) * stride[0]);
        };
        const int64_t x_far = far(c.x_stride), g_far = far(c.g_stride), y_far = far(c.y_stride);
        Table table = table_of(c, l, work, sample, true);
        const float *shares = M == Mode::GRADIENT && l.gated ? work + l.at_dm + sample * l.padded + plane : nullptr;
        vf share = M == Mode::FORWARD ? cap_of(c) : splat(0.f);
        for (int i = 0; i < n; ++i) {
            F f;
            F::load(f, table, plane + i, W);
            if (shares) share = splat(shares[i]);
            vf sum[F::SUMS];
            for (int k = 0; SUMMED && k < used; ++k) sum[k] = sums[i][k];
            for (int64_t s = 0; s < last - sample; ++s) {
                const char *xs = x + i * x_apart + s * x_next, *gs = g + i * g_apart + s * g_next;
                char *ys = y + i * y_apart + s * y_next;
                sweep(count, [&](int64_t j, int m) __attribute__((always_inline)) {
                    const int64_t o = j * size;
                    ahead<M>(xs + o + x_far, gs + o + g_far, ys + o + y_far);
                    step<F, E, M>(f, xs + o, gs + o, ys + o, share, sum, m, c.dtype);
                });
            }
            for (int k = 0; SUMMED && k < used; ++k) sums[i][k] = sum[k];
        }
        table.uniform = false;
        if (shares) share = load_f32(shares, n);
        for (int64_t s = sample; rest && s < last; ++s) {
            gather(rest_x, start(c.x, c.x_stride, s) + whole * size, x_apart, n, rest, size);
            if (M != Mode::FORWARD)
                gather(rest_g, start(c.grad_y, c.g_stride, s) + whole * size, g_apart, n, rest, size);
            aside<F, E, M>(table, plane, rest_x, rest_g, share, across, used, n, rest, c.dtype);
            if (M != Mode::SUMS) scatter(start(c.y, c.y_stride, s) + whole * size, rest_x, y_apart, n, rest, size);
        }
    }
    for (int k = 0; SUMMED && k < used; ++k)
        store_f32(partial_of(l, work, k, row, 0) + plane, hsums(sums, k) + across[k], W);
}

template <class F, class E, Mode M>
static void tiled_unit(const actswap_call &c, const Layout &l, float *work, int64_t unit) {
    const int64_t row = unit / l.per_sample, first = row * l.stack, last = actswap::smaller(first + l.stack, c.batch);
    int64_t plane = unit % l.per_sample * l.planes;
    const int64_t end = actswap::smaller(plane + l.planes, l.C);
    for (; plane < end; plane += W)
        tile<F, E, M>(c, l, work, row, first, last, plane, (int)actswap::smaller(W, end - plane));
}

}  // namespace ACTSWAP_BUILD
