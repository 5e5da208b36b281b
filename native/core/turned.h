// Short planes, W channels at a time. Along a plane of 7 x 7 a quarter of the lanes is idle, and every plane ends in as
// many sums across lanes as there are parameters. Turned into rows of W channels it has neither: parameters are vectors,
// sums stay in their lanes. Worth the way there and back where there are many parameters.
#pragma once
#include "passes.h"

namespace ACTSWAP_BUILD {

// Four elements each from W / 4 places, `apart` bytes from one to the next, and back.
template <class E> INLINE vf load_fours(const char *p, int64_t apart, int dtype) {
    const int64_t bytes = 4 * E::bytes(dtype);
#if defined(__AVX512F__)
    if (bytes == 16) {
        __m512 v = _mm512_castps128_ps512(_mm_loadu_ps((const float *)p));
        v = _mm512_insertf32x4(v, _mm_loadu_ps((const float *)(p + apart)), 1);
        v = _mm512_insertf32x4(v, _mm_loadu_ps((const float *)(p + 2 * apart)), 2);
        return (vf)_mm512_insertf32x4(v, _mm_loadu_ps((const float *)(p + 3 * apart)), 3);
    }
#endif
    char all[4 * W];
    for (int i = 0; i < W / 4; ++i) {
        if (bytes == 8) memcpy(all + 8 * i, p + i * apart, 8);
        else memcpy(all + 16 * i, p + i * apart, 16);
    }
    return E::load(all, W, dtype);
}
template <class E> INLINE void store_fours(char *p, int64_t apart, vf v, int dtype) {
    const int64_t bytes = 4 * E::bytes(dtype);
#if defined(__AVX512F__)
    if (bytes == 16) {
        _mm_storeu_ps((float *)p, _mm512_castps512_ps128((__m512)v));
        _mm_storeu_ps((float *)(p + apart), _mm512_extractf32x4_ps((__m512)v, 1));
        _mm_storeu_ps((float *)(p + 2 * apart), _mm512_extractf32x4_ps((__m512)v, 2));
        return _mm_storeu_ps((float *)(p + 3 * apart), _mm512_extractf32x4_ps((__m512)v, 3));
    }
#endif
    char all[4 * W];
    E::store(all, v, W, dtype);
    for (int i = 0; i < W / 4; ++i) {
        if (bytes == 8) memcpy(p + i * apart, all + 8 * i, 8);
        else memcpy(p + i * apart, all + 16 * i, 16);
    }
}

// In each block of four lanes: lane j of v[k] becomes lane k of v[j].
INLINE void transpose4(vf *v) {
#if defined(__AVX512F__)
    const __m512 a = (__m512)v[0], b = (__m512)v[1], c = (__m512)v[2], d = (__m512)v[3];
    const __m512d p = (__m512d)_mm512_unpacklo_ps(a, b), q = (__m512d)_mm512_unpacklo_ps(c, d);
    const __m512d r = (__m512d)_mm512_unpackhi_ps(a, b), s = (__m512d)_mm512_unpackhi_ps(c, d);
    v[0] = (vf)_mm512_unpacklo_pd(p, q), v[1] = (vf)_mm512_unpackhi_pd(p, q);
    v[2] = (vf)_mm512_unpacklo_pd(r, s), v[3] = (vf)_mm512_unpackhi_pd(r, s);
#elif defined(__AVX2__)
    const __m256 a = (__m256)v[0], b = (__m256)v[1], c = (__m256)v[2], d = (__m256)v[3];
    const __m256d p = (__m256d)_mm256_unpacklo_ps(a, b), q = (__m256d)_mm256_unpacklo_ps(c, d);
    const __m256d r = (__m256d)_mm256_unpackhi_ps(a, b), s = (__m256d)_mm256_unpackhi_ps(c, d);
    v[0] = (vf)_mm256_unpacklo_pd(p, q), v[1] = (vf)_mm256_unpackhi_pd(p, q);
    v[2] = (vf)_mm256_unpacklo_pd(r, s), v[3] = (vf)_mm256_unpackhi_pd(r, s);
#else
    vf to[4];
    for (int j = 0; j < 4; ++j)
        for (int k = 0; k < 4; ++k) to[j][k] = v[k][j];
    for (int j = 0; j < 4; ++j) v[j] = to[j];
#endif
}

// W planes of `count` >= 4 positions, `apart` bytes from one to the next, to rows of W floats. What is left of a fourth
// position is done again with the three before it.
template <class E> static void turn_in(float *to, const char *from, int64_t apart, int64_t count, int dtype) {
    const int64_t size = E::bytes(dtype);
    for (int64_t r = 0; r < count; r += 4) {
        r = actswap::smaller(r, count - 4);
        vf v[4];
        for (int k = 0; k < 4; ++k) v[k] = load_fours<E>(from + k * apart + r * size, 4 * apart, dtype);
        transpose4(v);
        for (int k = 0; k < 4; ++k) store_f32(to + (r + k) * W, v[k], W);
    }
}

template <class E> static void turn_out(char *to, int64_t apart, const float *from, int64_t count, int dtype) {
    const int64_t size = E::bytes(dtype);
    for (int64_t r = 0; r < count; r += 4) {
        r = actswap::smaller(r, count - 4);
        vf v[4];
        for (int k = 0; k < 4; ++k) v[k] = load_f32(from + (r + k) * W, W);
        transpose4(v);
        for (int k = 0; k < 4; ++k) store_fours<E>(to + k * apart + r * size, 4 * apart, v[k], dtype);
    }
}

// Where the planes after a tile lie: they are fetched while the tile is worked on.
struct Next {
    const char *x, *g, *y;
    int64_t step;
};

// The rows of a tile, W channels from `channel` on; the result takes the place of x. One body for all dtypes.
template <class F, Mode M>
static __attribute__((noinline)) void turned_rows(const Table &table, int64_t channel, float *x, const float *g, vf share,
                                                  vf *total, int used, int64_t rows, Next next) {
    F f;
    F::load(f, table, channel, W);
    if (!F::RUNTIME) used = F::SUMS;
    vf sums[F::SUMS];
    for (int k = 0; k < used; ++k) sums[k] = splat(0.f);
    for (int64_t r = 0; r < rows; ++r) {
        ahead<M>(next.x + r * next.step, next.g + r * next.step, next.y + r * next.step);
        step<F, F32, M>(f, (char *)(x + r * W), (const char *)(g + r * W), (char *)(x + r * W), share, sums, W, 0);
    }
    for (int k = 0; k < used; ++k) total[k] = sums[k];
}

template <class F, class E, Mode M> static void turned_unit(const actswap_call &c, const Layout &l, float *work, int64_t unit) {
    const int64_t size = E::bytes(c.dtype), sample = unit / l.per_sample;
    int64_t plane = unit % l.per_sample * l.planes;
    const int64_t end = actswap::smaller(plane + l.planes, l.C);
    const Table table = table_of(c, l, work, sample, false);
    alignas(64) float x[actswap::SHORT * W], g[actswap::SHORT * W];
    auto start = [&](const void *base, const int64_t *stride, int64_t channel) {
        return (char *)at_element(base, stride, sample, 0, channel, 0, size);
    };
    for (; plane + W <= end; plane += W) {
        vf share = M == Mode::FORWARD ? cap_of(c) : splat(0.f), sums[F::SUMS];
        if (M == Mode::GRADIENT && l.gated) share = load_f32(work + l.at_dm + sample * l.padded + plane, W);
        const Next next = {start(c.x, c.x_stride, plane + W), start(c.grad_y, c.g_stride, plane + W),
                           start(c.y, c.y_stride, plane + W), W * size};
        turn_in<E>(x, start(c.x, c.x_stride, plane), c.x_stride[2] * size, c.inner, c.dtype);
        if (M != Mode::FORWARD) turn_in<E>(g, start(c.grad_y, c.g_stride, plane), c.g_stride[2] * size, c.inner, c.dtype);
        turned_rows<F, M>(table, plane, x, g, share, sums, l.sums, c.inner, next);
        if (M != Mode::SUMS) turn_out<E>(start(c.y, c.y_stride, plane), c.y_stride[2] * size, x, c.inner, c.dtype);
        if (M == Mode::SUMS || M == Mode::BOTH)
            for (int k = 0; k < (F::RUNTIME ? l.sums : F::SUMS); ++k)
                store_f32(partial_of(c, l, work, k, sample, 0) + plane, sums[k], W);
    }
    planes<F, E, M>(c, l, work, sample, 0, plane, end);
}

}  // namespace ACTSWAP_BUILD
