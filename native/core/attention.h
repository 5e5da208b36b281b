// DY-ReLU C: the lines, times the factor of each position, gain min(gamma softmax((ws . x + bs) / tau), 1). A unit is a
// range of positions with all their channels. Sums of a position are complete in its unit; sums of a channel are
// partial, as elsewhere. bs shifts all scores by the same amount, which does not change a softmax.
#pragma once
#include "passes.h"

namespace ACTSWAP_BUILD {

INLINE float *probability_of(const actswap_call &c, const Layout &l, float *work, int64_t sample) {
    return (c.mean ? c.mean + c.batch * l.C : work + l.at_score) + sample * c.inner;
}
INLINE float weight_of(const actswap_call &c, int64_t channel) { return c.param[6][c.shared >> 6 & 1 ? 0 : channel]; }
INLINE vf weights_of(const actswap_call &c, int64_t channel, int n) {
    return c.shared >> 6 & 1 ? splat(*c.param[6]) : load_f32(c.param[6] + channel, n);
}

// The scores of a unit's positions, and the sums of the channels for the mean.
template <class E> static void score_unit(const actswap_call &c, const Layout &l, float *work, int64_t unit) {
    const int64_t size = E::bytes(c.dtype), sample = unit / l.per_sample, chunk = unit % l.per_sample;
    const int64_t from = chunk * l.span, count = actswap::smaller(l.span, c.inner - from);
    float *score = probability_of(c, l, work, sample) + from, *mean = partial_of(l, work, 0, sample, chunk);
    if (l.planar) {
        for (int64_t plane = 0; plane < l.C; ++plane) {
            const char *x = at_element(c.x, c.x_stride, sample, plane / c.channels, plane % c.channels, from, size);
            const vf w = splat(weight_of(c, plane));
            vf sum = splat(0.f);
            sweep(count, [&](int64_t i, int n) __attribute__((always_inline)) {
                __builtin_prefetch(x + i * size + AHEAD);
                vf v = E::load(x + i * size, n, c.dtype);
                sum += v;
                store_f32(score + i, plane ? load_f32(score + i, n) + w * v : w * v, n);
            });
            mean[plane] = hsum(sum);
        }
        return;
    }
    for (int64_t r = 0; r < count; ++r) {
        vf sum = splat(0.f);
        for (int64_t group = 0; group < c.groups; ++group) {
            const char *x = at_element(c.x, c.x_stride, sample, group, 0, from + r, size);
            const int64_t first = group * c.channels;
            sweep(c.channels, [&](int64_t i, int n) __attribute__((always_inline)) {
                vf v = E::load(x + i * size, n, c.dtype);
                sum += weights_of(c, first + i, n) * v;
                store_f32(mean + first + i, r ? load_f32(mean + first + i, n) + v : v, n);
            });
        }
        score[r] = hsum(sum);
    }
}

// One vector, with the position's factor and slope (the gradient of the score) and the channel's weight.
template <class F, class E, Mode M>
INLINE void attend(const F &f, const char *x, const char *g, char *y, int n, int dtype, vf factor, vf slope, vf weight,
                   vf share, vf *sums, vf *there) {
    vf v = E::load(x, n, dtype);
    if (M == Mode::FORWARD) return E::store(y, F::value(f, v) * factor, n, dtype);
    vf u = E::load(g, n, dtype);
    vf d = F::template gradient<M == Mode::SUMS>(f, v, u * factor, sums);
    if (M == Mode::SUMS) {
        *there += u * F::value(f, v);
    } else {
        sums[0] += slope * v;
        if (y) E::store(y, d + share + weight * slope, n, dtype);
    }
}

template <class F, class E, Mode M>
static void attend_unit(const actswap_call &c, const Layout &l, float *work, int64_t unit) {
    const int64_t size = E::bytes(c.dtype), sample = unit / l.per_sample, chunk = unit % l.per_sample;
    const int64_t from = chunk * l.span, count = actswap::smaller(l.span, c.inner - from);
    const float *factor = work + l.at_factor + sample * c.inner + from, *share = work + l.at_dm + sample * l.padded;
    float *slope = work + l.at_slope + sample * c.inner + from;  // mode SUMS writes the gradient of the factor there
    const Table table = table_of(c, l, work, sample, l.planar);
    // The sums of the pass are those of the lines' coefficients, or that of ws.
    const int used = M == Mode::FORWARD ? 0 : M == Mode::SUMS ? l.sums : 1, row = M == Mode::SUMS ? 0 : l.sums;
    const bool back = M == Mode::GRADIENT;
    float *partial = used ? partial_of(l, work, row, sample, chunk) : nullptr;
    const int64_t apart = l.rows * l.padded;
    auto place = [&](const void *base, const int64_t *stride, int64_t group, int64_t channel, int64_t r) {
        return base ? (char *)at_element(base, stride, sample, group, channel, from + r, size) : nullptr;
    };
    F f;
    vf sums[(F::SUMS + 3) / 4 * 4];
    if (l.planar) {
        for (int64_t plane = 0; plane < l.C; ++plane) {
            const int64_t group = plane / c.channels, channel = plane % c.channels;
            const char *x = place(c.x, c.x_stride, group, channel, 0);
            const char *g = M == Mode::FORWARD ? x : place(c.grad_y, c.g_stride, group, channel, 0);
            char *y = place(c.y, c.y_stride, group, channel, 0);
            F::load(f, table, plane, W);
            const vf weight = splat(weight_of(c, plane)), dm = back ? splat(share[plane]) : splat(0.f);
            for (int k = 0; k < (used + 3) / 4 * 4; ++k) sums[k] = splat(0.f);
            sweep(count, [&](int64_t i, int n) __attribute__((always_inline)) {
                ahead<M>(x + i * size + AHEAD, g + i * size + AHEAD, y ? y + i * size + AHEAD : x);
                vf there = M == Mode::SUMS && plane ? load_f32(slope + i, n) : splat(0.f);
                attend<F, E, M>(f, x + i * size, g + i * size, y ? y + i * size : y, n, c.dtype,
                                load_f32(factor + i, n), back ? load_f32(slope + i, n) : splat(0.f), weight, dm, sums,
                                &there);
                if (M == Mode::SUMS) store_f32(slope + i, there, n);
            });
            for (int k = 0; k < used; ++k) partial[k * apart + plane] = hsum(sums[k]);
        }
        return;
    }
    for (int64_t r = 0; r < count; ++r) {
        const vf a = splat(factor[r]), s = back ? splat(slope[r]) : splat(0.f);
        vf there = splat(0.f);
        for (int64_t group = 0; group < c.groups; ++group) {
            const char *x = place(c.x, c.x_stride, group, 0, r);
            const char *g = M == Mode::FORWARD ? x : place(c.grad_y, c.g_stride, group, 0, r);
            char *y = place(c.y, c.y_stride, group, 0, r);
            const int64_t first = group * c.channels;
            sweep(c.channels, [&](int64_t i, int n) __attribute__((always_inline)) {
                ahead<M>(x + i * size + AHEAD, g + i * size + AHEAD, y ? y + i * size + AHEAD : x);
                F::load(f, table, first + i, n);
                for (int k = 0; k < used; ++k) sums[k] = splat(0.f);
                attend<F, E, M>(f, x + i * size, g + i * size, y ? y + i * size : y, n, c.dtype, a, s,
                                weights_of(c, first + i, n), back ? load_f32(share + first + i, n) : splat(0.f), sums,
                                &there);
                for (int k = 0; k < used; ++k) {
                    float *to = partial + k * apart + first + i;
                    store_f32(to, r ? load_f32(to, n) + sums[k] : sums[k], n);
                }
            });
        }
        if (M == Mode::SUMS) slope[r] = hsum(there);
    }
}

}  // namespace ACTSWAP_BUILD
