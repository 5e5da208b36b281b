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

INLINE float *partial_of(const Layout &l, float *work, int k, int64_t sample, int64_t chunk) {
    return work + l.at_partial + (k * l.rows + sample * l.chunks + chunk) * l.padded;
}

INLINE const char *at_element(const void *base, const int64_t *stride, int64_t sample, int64_t group, int64_t channel,
                              int64_t inner, int64_t size) {
    return (const char *)base +
           (sample * stride[0] + group * stride[1] + channel * stride[2] + inner * stride[3]) * size;
}

// Steps through planes in order without a division for each.
struct Place {
    int64_t plane, group, channel;
    Place(const actswap_call &c, int64_t plane)
        : plane(plane), group(plane / c.channels), channel(plane % c.channels) {}
    void next(const actswap_call &c) {
        ++plane;
        if (++channel == c.channels) channel = 0, ++group;
    }
};

// All positions of a unit share one value: the cap in forward, the mean's part of the gradient in backward.
INLINE vf cap_of(const actswap_call &c) { return splat(c.flags & ACTSWAP_CAPPED ? c.cap : __builtin_inff()); }

// Positions [0, n) of one vector, n <= W.
template <class F, class E, Mode M>
INLINE void step(const F &f, const char *x, const char *g, char *y, vf share, vf *sums, int n, int dtype) {
    vf v = E::load(x, n, dtype);
    if (M == Mode::FORWARD) {
        E::store(y, vmin(share, F::value(f, v)), n, dtype);  // a NaN value stays, because it is the second operand
    } else {
        vf d = F::template gradient<M != Mode::GRADIENT>(f, v, E::load(g, n, dtype), sums);
        if (M == Mode::GRADIENT) d += share;
        if (M != Mode::SUMS) E::store(y, d, n, dtype);
    }
}

// Prefetches what comes next. Short planes and columns of rows are more streams than the processor's own prefetcher
// follows. This makes planes of 14 x 14 a third faster, and PAU in rows of 768 channels twice as fast.
constexpr int64_t AHEAD = 1024;
template <Mode M> INLINE void ahead(const char *x, const char *g, const char *y) {
    __builtin_prefetch(x);
    if (M != Mode::FORWARD) __builtin_prefetch(g);
    if (M != Mode::SUMS) __builtin_prefetch(y, 1);
}

// Whole vectors of [0, count), then the rest.
template <class Body> INLINE void sweep(int64_t count, Body body) {
    int64_t i = 0;
    for (; i + W <= count; i += W) body(i, W);
    if (i < count) body(i, (int)(count - i));
}

// The start of the first of some rows, and the distance to the next.
struct Rows {
    const char *x, *g;
    char *y;
    int64_t x_step, g_step, y_step;
    float *sums;         // partial sums of the unit; sum k is at k * sums_step
    int64_t sums_step;
    const float *share;  // the mean's share of grad_x
    int64_t channel;
};

template <class F, class E, Mode M>
static void planes(const actswap_call &c, const Layout &l, float *work, int64_t sample, int64_t chunk, int64_t first,
                   int64_t end) {
    const int64_t size = E::bytes(c.dtype);
    int64_t from = chunk * l.span, count = actswap::smaller(l.span, c.inner - from);
    Table table = table_of(c, l, work, sample, true);
    const int used = F::RUNTIME ? l.sums : F::SUMS;
    for (Place at(c, first); at.plane < end; at.next(c)) {
        const int64_t plane = at.plane;
        auto start = [&](const void *base, const int64_t *stride) {
            return (char *)at_element(base, stride, sample, at.group, at.channel, from, size);
        };
        const char *x = start(c.x, c.x_stride), *g = M == Mode::FORWARD ? x : start(c.grad_y, c.g_stride);
        char *y = start(c.y, c.y_stride);
        F f;
        F::load(f, table, plane, W);
        vf share = M == Mode::FORWARD ? cap_of(c) : splat(0.f);
        if (M == Mode::GRADIENT && l.gated) share = splat(work[l.at_dm + sample * l.padded + plane]);
        vf sums[(F::SUMS + 3) / 4 * 4];
        for (int k = 0; k < (used + 3) / 4 * 4; ++k) sums[k] = splat(0.f);
        sweep(count, [&](int64_t i, int n) __attribute__((always_inline)) {
            ahead<M>(x + i * size + AHEAD, g + i * size + AHEAD, y + i * size + AHEAD);
            step<F, E, M>(f, x + i * size, g + i * size, y + i * size, share, sums, n, c.dtype);
        });
        if (M == Mode::SUMS || M == Mode::BOTH)
            for (int k = 0; k < used; k += 4) {
                float four[4];
                hsum4(four, sums[k], sums[k + 1], sums[k + 2], sums[k + 3]);
                for (int i = 0; i < 4 && k + i < used; ++i) partial_of(l, work, k + i, sample, chunk)[plane] = four[i];
            }
    }
}

template <class F, class E, Mode M>
static void planar_unit(const actswap_call &c, const Layout &l, float *work, int64_t unit) {
    const int64_t sample = unit / l.per_sample, j = unit % l.per_sample;
    const int64_t chunk = l.chunks > 1 ? j % l.chunks : 0, plane = l.chunks > 1 ? j / l.chunks : j * l.planes;
    planes<F, E, M>(c, l, work, sample, chunk, plane, actswap::smaller(plane + l.planes, l.C));
}

// n channels from `i` on, in rows [0, rows). Parameters are loaded once, and sums stay in registers for all rows.
template <class F, class E, Mode M>
INLINE void column(const actswap_call &c, const Layout &l, const Table &table, const Rows &at, int64_t i, int n,
                   int64_t rows, bool first) {
    const int64_t size = E::bytes(c.dtype);
    const int used = F::RUNTIME ? l.sums : F::SUMS;
    F f;
    F::load(f, table, at.channel + i, n);
    vf share = M == Mode::FORWARD ? cap_of(c) : splat(0.f);
    if (M == Mode::GRADIENT && l.gated) share = load_f32(at.share + i, n);
    vf sums[F::SUMS];
    for (int k = 0; k < used; ++k) sums[k] = splat(0.f);
    const char *x = at.x + i * size, *g = at.g + i * size;
    char *y = at.y + i * size;
    // Blocks are read in the order of memory, so the next lines are fetched. The next unit's would have left the cache
    // before they are read.
    const int64_t far = c.channels <= W ? AHEAD : rows * at.x_step;
    for (int64_t r = 0; r < rows; ++r, x += at.x_step, g += at.g_step, y += at.y_step) {
        ahead<M>(x + far, g + far, y + far);
        step<F, E, M>(f, x, g, y, share, sums, n, c.dtype);
    }
    if (M == Mode::SUMS || M == Mode::BOTH)
        for (int k = 0; k < used; ++k) {
            float *to = at.sums + k * at.sums_step + i;
            store_f32(to, first ? sums[k] : sums[k] + load_f32(to, n), n);
        }
}

template <class F, class E, Mode M>
static void rowed_unit(const actswap_call &c, const Layout &l, float *work, int64_t unit) {
    const int64_t size = E::bytes(c.dtype);
    int64_t sample = unit / l.per_sample, j = unit % l.per_sample, group = j / l.chunks, chunk = j % l.chunks;
    int64_t from = chunk * l.span, end = actswap::smaller(from + l.span, c.inner);
    Table table = table_of(c, l, work, sample, false);
    const char *gradient = M == Mode::FORWARD ? (const char *)c.x : (const char *)c.grad_y;
    const int64_t *g_stride = M == Mode::FORWARD ? c.x_stride : c.g_stride;
    Rows at = {at_element(c.x, c.x_stride, sample, group, 0, from, size),
               at_element(gradient, g_stride, sample, group, 0, from, size),
               (char *)at_element(c.y, c.y_stride, sample, group, 0, from, size),
               c.x_stride[3] * size, g_stride[3] * size, c.y_stride[3] * size,
               partial_of(l, work, 0, sample, chunk) + group * c.channels, l.rows * l.padded,
               work + l.at_dm + sample * l.padded + group * c.channels, group * c.channels};
    // Several rows at a time, so that parameters are loaded and sums are stored once for all of them. They are few, so
    // that memory is read nearly in order, and because rows of 768 channels share four sets of the first-level cache.
    // Forward has no sums; with few parameters it takes one row at a time.
    const int64_t together = c.channels <= W ? l.span : M == Mode::FORWARD && F::SUMS <= 4 ? 1 : 8;
    for (int64_t row = from; row < end; row += together) {
        const int64_t rows = actswap::smaller(together, end - row);
        int64_t i = 0;
        if (M == Mode::FORWARD && rows == 1)
            for (; i + W <= c.channels; i += W) column<F, E, M>(c, l, table, at, i, W, 1, row == from);
        else
            for (; i + W <= c.channels; i += W) column<F, E, M>(c, l, table, at, i, W, rows, row == from);
        if (i < c.channels) column<F, E, M>(c, l, table, at, i, (int)(c.channels - i), rows, row == from);
        at.x += rows * at.x_step, at.g += rows * at.g_step, at.y += rows * at.y_step;
    }
}

// Sums of x for the mean, in the same units and places as the sums of the gradients.
template <class E> static void mean_unit(const actswap_call &c, const Layout &l, float *work, int64_t unit) {
    const int64_t size = E::bytes(c.dtype);
    int64_t sample = unit / l.per_sample, j = unit % l.per_sample;
    if (l.planar) {
        int64_t chunk = l.chunks > 1 ? j % l.chunks : 0, plane = l.chunks > 1 ? j / l.chunks : j * l.planes;
        int64_t end = actswap::smaller(plane + l.planes, l.C);
        int64_t from = chunk * l.span, count = actswap::smaller(l.span, c.inner - from);
        float *to = partial_of(l, work, 0, sample, chunk);
        auto sum = [&](const Place &at) __attribute__((always_inline)) {
            const char *x = at_element(c.x, c.x_stride, sample, at.group, at.channel, from, size);
            vf s[4] = {};
            int64_t i = 0;
            for (; i + 4 * W <= count; i += 4 * W)
                for (int u = 0; u < 4; ++u) {
                    __builtin_prefetch(x + (i + u * W) * size + AHEAD);
                    s[u] += E::load(x + (i + u * W) * size, W, c.dtype);
                }
            for (; i + W <= count; i += W) {
                __builtin_prefetch(x + i * size + AHEAD);
                s[0] += E::load(x + i * size, W, c.dtype);
            }
            if (i < count) s[1] += E::load(x + i * size, (int)(count - i), c.dtype);
            return (s[0] + s[1]) + (s[2] + s[3]);
        };
        for (Place at(c, plane); at.plane < end;) {
            vf s[4] = {};
            const int64_t first = at.plane, some = actswap::smaller(4, end - first);
            for (int k = 0; k < some; ++k, at.next(c)) s[k] = sum(at);
            float four[4];
            hsum4(four, s[0], s[1], s[2], s[3]);
            for (int k = 0; k < some; ++k) to[first + k] = four[k];
        }
        return;
    }
    int64_t group = j / l.chunks, chunk = j % l.chunks;
    int64_t from = chunk * l.span, end = actswap::smaller(from + l.span, c.inner);
    float *at = partial_of(l, work, 0, sample, chunk) + group * c.channels;
    const char *x = at_element(c.x, c.x_stride, sample, group, 0, 0, size);
    const int64_t step = c.x_stride[3] * size;
    if (c.channels <= W) {  // blocks: sums stay in enough registers to hide the latency of an addition
        const int n = (int)c.channels;
        vf s[8] = {};
        int64_t row = from;
        for (; row + 8 <= end; row += 8)
            for (int u = 0; u < 8; ++u) {
                const char *here = x + (row + u) * step;
                __builtin_prefetch(here + 2 * AHEAD);
                s[u] += E::load(here, n, c.dtype);
            }
        for (; row < end; ++row) s[0] += E::load(x + row * step, n, c.dtype);
        store_f32(at, ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7])), n);
        return;
    }
    for (int64_t row = from; row < end; row += 4) {
        const int64_t rows = actswap::smaller(4, end - row);
        sweep(c.channels, [&](int64_t i, int n) __attribute__((always_inline)) {
            vf s = row == from ? splat(0.f) : load_f32(at + i, n);
            const char *from = x + row * step + i * size;
            for (int64_t r = 0; r < rows; ++r, from += step) {
                __builtin_prefetch(from + rows * step);
                s += E::load(from, n, c.dtype);
            }
            store_f32(at + i, s, n);
        });
    }
}

// grad_x += the mean's share, for float32. This is cheaper than computing the gradient a second time.
static void add_unit(const actswap_call &c, const Layout &l, float *work, int64_t unit) {
    const int64_t sample = unit / l.per_sample, j = unit % l.per_sample;
    const float *share = work + l.at_dm + sample * l.padded;
    if (l.planar) {
        int64_t chunk = l.chunks > 1 ? j % l.chunks : 0, plane = l.chunks > 1 ? j / l.chunks : j * l.planes;
        int64_t end = actswap::smaller(plane + l.planes, l.C);
        int64_t from = chunk * l.span, count = actswap::smaller(l.span, c.inner - from);
        for (Place at(c, plane); at.plane < end; at.next(c)) {
            float *y = (float *)at_element(c.y, c.y_stride, sample, at.group, at.channel, from, 4);
            const vf all = splat(share[at.plane]);
            sweep(count, [&](int64_t i, int n) __attribute__((always_inline)) {
                __builtin_prefetch(y + i + AHEAD / 4, 1);
                store_f32(y + i, load_f32(y + i, n) + all, n);
            });
        }
        return;
    }
    int64_t group = j / l.chunks, chunk = j % l.chunks;
    int64_t from = chunk * l.span, end = actswap::smaller(from + l.span, c.inner);
    for (int64_t r = from; r < end; ++r) {
        float *y = (float *)at_element(c.y, c.y_stride, sample, group, 0, r, 4);
        sweep(c.channels, [&](int64_t i, int n) __attribute__((always_inline)) {
            __builtin_prefetch(y + i + AHEAD / 4, 1);
            store_f32(y + i, load_f32(y + i, n) + load_f32(share + group * c.channels + i, n), n);
        });
    }
}

}  // namespace ACTSWAP_BUILD
