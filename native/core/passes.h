// One pass over the elements of a unit, for any activation, dtype and layout.
#pragma once
#include "functions.h"
#include "layout.h"

namespace ACTSWAP_BUILD {

using actswap::Layout;
using actswap::Mode;

INLINE Table table_of(const actswap_call &c, const Layout &l, const float *work, int64_t sample, bool uniform) {
    int q = c.degree_q + (c.op == ACTSWAP_PAU && c.form == ACTSWAP_FORM_C);
    const float *base = work + l.at_table + (l.gated ? sample * l.table * l.padded : 0);
    int p = c.op == ACTSWAP_DY_RELU ? c.pieces : c.degree_p + 1;
    return {base, l.padded, p, q, c.form, actswap::recurrence(c.basis), uniform};
}

INLINE float *partial_of(const actswap_call &c, const Layout &l, float *work, int k, int64_t sample, int64_t chunk) {
    return work + l.at_partial + ((k * c.batch + sample) * l.chunks + chunk) * l.padded;
}

INLINE const char *at_element(const void *base, const int64_t *stride, int64_t sample, int64_t group, int64_t channel,
                              int64_t inner, int64_t size) {
    return (const char *)base +
           (sample * stride[0] + group * stride[1] + channel * stride[2] + inner * stride[3]) * size;
}

// What every position of a unit shares: forward, the cap; backward, the mean's part of the gradient.
INLINE vf cap_of(const actswap_call &c) { return splat(c.flags & ACTSWAP_CAPPED ? c.cap : __builtin_inff()); }

// Positions [0, n) of one vector, n <= W.
template <class F, class E, Mode M>
INLINE void step(const F &f, const char *x, const char *g, char *y, vf share, vf *sums, int n, int dtype) {
    vf v = E::load(x, n, dtype);
    if (M == Mode::FORWARD) {
        E::store(y, vmin(share, F::value(f, v)), n, dtype);  // NaN of the value stays: it is second
    } else {
        vf d = F::template gradient<M != Mode::GRADIENT>(f, v, E::load(g, n, dtype), sums);
        if (M == Mode::GRADIENT) d += share;
        if (M != Mode::SUMS) E::store(y, d, n, dtype);
    }
}

template <class F, class E, Mode M> static void planar_unit(const actswap_call &c, const Layout &l, float *work, int64_t unit) {
    const int64_t size = E::bytes(c.dtype);
    int64_t sample = unit / l.per_sample, j = unit % l.per_sample;
    int64_t chunk = l.chunks > 1 ? j % l.chunks : 0;
    int64_t plane = l.chunks > 1 ? j / l.chunks : j * l.planes;
    int64_t end = actswap::smaller(plane + l.planes, l.C);
    int64_t from = chunk * l.span, count = actswap::smaller(l.span, c.inner - from);
    Table table = table_of(c, l, work, sample, true);
    const int used = F::RUNTIME ? l.sums : F::SUMS;
    for (; plane < end; ++plane) {
        int64_t group = plane / c.channels, channel = plane % c.channels;
        const char *x = at_element(c.x, c.x_stride, sample, group, channel, from, size);
        char *y = (char *)at_element(c.y, c.y_stride, sample, group, channel, from, size);
        const char *g = M == Mode::FORWARD ? x : at_element(c.grad_y, c.g_stride, sample, group, channel, from, size);
        F f;
        F::load(f, table, plane, W);
        vf share = M == Mode::FORWARD ? cap_of(c) : splat(0.f);
        if (M == Mode::GRADIENT && l.gated) share = splat(work[l.at_dm + sample * l.padded + plane]);
        vf sums[(F::SUMS + 3) / 4 * 4];
        for (int k = 0; k < (used + 3) / 4 * 4; ++k) sums[k] = splat(0.f);
        for (int64_t i = 0; i < count; i += W)
            step<F, E, M>(f, x + i * size, g + i * size, y + i * size, share, sums,
                          (int)actswap::smaller(W, count - i), c.dtype);
        if (M == Mode::SUMS || M == Mode::BOTH)
            for (int k = 0; k < used; k += 4) {
                float four[4];
                hsum4(four, sums[k], sums[k + 1], sums[k + 2], sums[k + 3]);
                for (int i = 0; i < 4 && k + i < used; ++i) partial_of(c, l, work, k + i, sample, chunk)[plane] = four[i];
            }
    }
}

template <class F, class E, Mode M> static void rowed_unit(const actswap_call &c, const Layout &l, float *work, int64_t unit) {
    const int64_t size = E::bytes(c.dtype);
    int64_t sample = unit / l.per_sample, j = unit % l.per_sample, group = j / l.chunks, chunk = j % l.chunks;
    int64_t from = chunk * l.span, end = actswap::smaller(from + l.span, c.inner);
    // Backward takes a few rows at a time: sums stay in registers for all of them. Forward reads straight on (18 %
    // faster for ACON at 768 channels, the same for PAU).
    const int64_t together = c.channels <= W ? l.span : M == Mode::FORWARD ? 1 : 8;
    Table table = table_of(c, l, work, sample, false);
    const int used = F::RUNTIME ? l.sums : F::SUMS;
    const char *x = at_element(c.x, c.x_stride, sample, group, 0, 0, size);
    char *y = (char *)at_element(c.y, c.y_stride, sample, group, 0, 0, size);
    const char *g = M == Mode::FORWARD ? x : at_element(c.grad_y, c.g_stride, sample, group, 0, 0, size);
    const int64_t x_step = c.x_stride[3] * size, y_step = c.y_stride[3] * size, g_step = c.g_stride[3] * size;
    for (int64_t row = from; row < end; row += together) {
        int64_t stop = actswap::smaller(row + together, end);
        for (int64_t i = 0; i < c.channels; i += W) {
            int n = (int)actswap::smaller(W, c.channels - i);
            int64_t ch = group * c.channels + i;
            F f;
            F::load(f, table, ch, n);
            vf share = M == Mode::FORWARD ? cap_of(c) : splat(0.f);
            if (M == Mode::GRADIENT && l.gated) share = load_f32(work + l.at_dm + sample * l.padded + ch, n);
            vf sums[F::SUMS];
            for (int k = 0; k < used; ++k) sums[k] = splat(0.f);
            const char *xr = x + row * x_step + i * size, *gr = g + row * g_step + i * size;
            char *yr = y + row * y_step + i * size;
            for (int64_t r = row; r < stop; ++r, xr += x_step, gr += g_step, yr += y_step)
                step<F, E, M>(f, xr, gr, yr, share, sums, n, c.dtype);
            if (M == Mode::SUMS || M == Mode::BOTH)
                for (int k = 0; k < used; ++k) {
                    float *at = partial_of(c, l, work, k, sample, chunk) + ch;
                    store_f32(at, row == from ? sums[k] : sums[k] + load_f32(at, n), n);
                }
        }
    }
}

// Sums of x for the mean, in the same units and places as the gradients' sums.
template <class E> static void mean_unit(const actswap_call &c, const Layout &l, float *work, int64_t unit) {
    const int64_t size = E::bytes(c.dtype);
    int64_t sample = unit / l.per_sample, j = unit % l.per_sample;
    if (l.planar) {
        int64_t chunk = l.chunks > 1 ? j % l.chunks : 0, plane = l.chunks > 1 ? j / l.chunks : j * l.planes;
        int64_t end = actswap::smaller(plane + l.planes, l.C);
        int64_t from = chunk * l.span, count = actswap::smaller(l.span, c.inner - from);
        for (; plane < end; ++plane) {
            const char *x =
                at_element(c.x, c.x_stride, sample, plane / c.channels, plane % c.channels, from, size);
            vf s[4] = {};
            int64_t i = 0;
            for (; i + 4 * W <= count; i += 4 * W)
                for (int u = 0; u < 4; ++u) s[u] += E::load(x + (i + u * W) * size, W, c.dtype);
            for (; i < count; i += W) 
                s[0] += E::load(x + i * size, (int)actswap::smaller(W, count - i), c.dtype);
            partial_of(c, l, work, 0, sample, chunk)[plane] = hsum((s[0] + s[1]) + (s[2] + s[3]));
        }
        return;
    }
    int64_t group = j / l.chunks, chunk = j % l.chunks;
    int64_t from = chunk * l.span, end = actswap::smaller(from + l.span, c.inner);
    float *at = partial_of(c, l, work, 0, sample, chunk) + group * c.channels;
    const char *x = at_element(c.x, c.x_stride, sample, group, 0, 0, size);
    for (int64_t row = from; row < end; row += 8) {
        int64_t stop = actswap::smaller(row + 8, end);
        for (int64_t i = 0; i < c.channels; i += W) {
            int n = (int)actswap::smaller(W, c.channels - i);
            vf s = row == from ? splat(0.f) : load_f32(at + i, n);
            for (int64_t r = row; r < stop; ++r) s += E::load(x + (r * c.x_stride[3] + i) * size, n, c.dtype);
            store_f32(at + i, s, n);
        }
    }
}

// grad_x += the mean's share, for float32: cheaper than computing the gradient a second time.
static void add_unit(const actswap_call &c, const Layout &l, float *work, int64_t unit) {
    const int64_t sample = unit / l.per_sample, j = unit % l.per_sample;
    const float *share = work + l.at_dm + sample * l.padded;
    if (l.planar) {
        int64_t chunk = l.chunks > 1 ? j % l.chunks : 0, plane = l.chunks > 1 ? j / l.chunks : j * l.planes;
        int64_t end = actswap::smaller(plane + l.planes, l.C);
        int64_t from = chunk * l.span, count = actswap::smaller(l.span, c.inner - from);
        for (; plane < end; ++plane) {
            float *y = (float *)at_element(c.y, c.y_stride, sample, plane / c.channels, plane % c.channels, from, 4);
            for (int64_t i = 0; i < count; i += W) {
                int n = (int)actswap::smaller(W, count - i);
                store_f32(y + i, load_f32(y + i, n) + share[plane], n);
            }
        }
        return;
    }
    int64_t group = j / l.chunks, chunk = j % l.chunks;
    int64_t from = chunk * l.span, end = actswap::smaller(from + l.span, c.inner);
    for (int64_t r = from; r < end; ++r) {
        float *y = (float *)at_element(c.y, c.y_stride, sample, group, 0, r, 4);
        for (int64_t i = 0; i < c.channels; i += W) {
            int n = (int)actswap::smaller(W, c.channels - i);
            store_f32(y + i, load_f32(y + i, n) + load_f32(share + group * c.channels + i, n), n);
        }
    }
}

typedef void (*Unit)(const actswap_call &, const Layout &, float *, int64_t);

template <class F, class E, Mode M> static Unit in_layout(bool planar) {
    return planar ? planar_unit<F, E, M> : rowed_unit<F, E, M>;
}

// ACON goes with and without a gate; the lines always have one, the rationals never.
template <class F, class E, bool ALONE, bool GATED> static Unit unit_of(bool planar, Mode mode) {
    if constexpr (GATED) {
        if (mode == Mode::SUMS) return in_layout<F, E, Mode::SUMS>(planar);
        if (mode == Mode::GRADIENT) return in_layout<F, E, Mode::GRADIENT>(planar);
    }
    if constexpr (ALONE)
        if (mode != Mode::FORWARD) return in_layout<F, E, Mode::BOTH>(planar);
    return in_layout<F, E, Mode::FORWARD>(planar);
}

// What is common is compiled for its dtype and degrees; the rest shares one body that looks them up.
template <class E, bool ROUGH> static Unit common(const actswap_call &c, const Layout &l, Mode mode) {
    const bool degrees = c.degree_p == 5 && c.degree_q == 4;
    if (mode == Mode::MEAN) return mean_unit<E>;
    if (mode == Mode::ADD) return add_unit;
    if (c.op <= ACTSWAP_META_ACON) return unit_of<Acon<ROUGH>, E, true, true>(l.planar, mode);
    if (c.op == ACTSWAP_DY_RELU && c.pieces == 2) return unit_of<Lines<2>, E, false, true>(l.planar, mode);
    if (c.op == ACTSWAP_PAU && degrees && c.form == ACTSWAP_FORM_A)
        return unit_of<Pade<ACTSWAP_FORM_A, 6, 4>, E, true, false>(l.planar, mode);
    if (c.op == ACTSWAP_PAU && degrees && c.form == ACTSWAP_FORM_B)
        return unit_of<Pade<ACTSWAP_FORM_B, 6, 4>, E, true, false>(l.planar, mode);
    if (c.op == ACTSWAP_OPAU && degrees && c.form == ACTSWAP_FORM_A)
        return unit_of<Orthogonal<1, 6, 4>, E, true, false>(l.planar, mode);
    return nullptr;
}

#if !defined(ACTSWAP_BF16_ONLY)
static Unit uncommon(const actswap_call &c, const Layout &l, Mode mode) {
    switch (c.op) {
        case ACTSWAP_ACON:
        case ACTSWAP_META_ACON: return unit_of<Acon<true>, Any, true, true>(l.planar, mode);
        case ACTSWAP_DY_RELU: return unit_of<Lines<0>, Any, false, true>(l.planar, mode);
        case ACTSWAP_PAU: return unit_of<Pade<-1, 0, 0>, Any, true, false>(l.planar, mode);
        default: return unit_of<Orthogonal<-1, 0, 0>, Any, true, false>(l.planar, mode);
    }
}

static void apply(const actswap_call &c, const Layout &l, float *work, Mode mode, int64_t unit, int64_t end) {
    Unit run = c.dtype == ACTSWAP_F32    ? common<F32, false>(c, l, mode)
               : c.dtype == ACTSWAP_BF16 ? common<BF16, true>(c, l, mode)
               : mode == Mode::MEAN      ? mean_unit<Any>
                                         : nullptr;
    if (!run) run = uncommon(c, l, mode);
    for (; unit < end; ++unit) run(c, l, work, unit);
}
#endif

}  // namespace ACTSWAP_BUILD
