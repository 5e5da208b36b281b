// The two-layer branch of the gated activations, from the mean of a sample to its coefficients, and back.
// Every result is one dot product or one sum over samples in a fixed order, whatever the range of the call.
#pragma once
#include "passes.h"

namespace ACTSWAP_BUILD {

INLINE float *mean_of(const actswap_call &c, const Layout &l, float *work) { return c.mean ? c.mean : work + l.at_mean; }
INLINE double *total_of(const Layout &l, float *work) { return (double *)(work + l.at_total); }

// Partial sums of a sample (or, without a gate, of all of them) to float64 totals [set][k][padded].
static void total(const actswap_call &c, const Layout &l, float *work, int64_t set, int64_t end) {
    for (; set < end; ++set)
        for (int k = 0; k < l.sums; ++k) {
            double *to = total_of(l, work) + (set * l.sums + k) * l.padded;
            for (int64_t i = 0; i < l.C; ++i) to[i] = 0;
            int64_t rows = (l.gated ? 1 : c.batch) * l.chunks;
            const float *from = partial_of(c, l, work, k, l.gated ? set : 0, 0);
            for (int64_t r = 0; r < rows; ++r, from += l.padded)
                for (int64_t i = 0; i < l.C; ++i) to[i] += from[i];
        }
}

static void mean(const actswap_call &c, const Layout &l, float *work, int64_t sample, int64_t end) {
    for (; sample < end; ++sample) {
        float *to = mean_of(c, l, work) + sample * l.C;
        const float *from = partial_of(c, l, work, 0, sample, 0);
        for (int64_t i = 0; i < l.C; ++i) {
            double s = 0;
            for (int64_t r = 0; r < l.chunks; ++r) s += from[r * l.padded + i];
            to[i] = (float)(s / (double)c.inner);
        }
    }
}

// out[s][r] = bias[r] + sum_i w[r][i] in[s][i] for S samples and N rows.
template <int S, int N> INLINE void dots(float *out, int64_t outs, const float *in, int64_t ins, const float *w,
                                         const float *bias, int64_t n) {
    vf acc[S][N];
    for (int a = 0; a < S; ++a)
        for (int b = 0; b < N; ++b) acc[a][b] = splat(0.f);
    for (int64_t i = 0; i < n; i += W) {
        int m = (int)actswap::smaller(W, n - i);
        vf row[N];
        for (int b = 0; b < N; ++b) row[b] = load_f32(w + b * n + i, m);
        for (int a = 0; a < S; ++a) {
            vf v = load_f32(in + a * ins + i, m);
            for (int b = 0; b < N; ++b) acc[a][b] += v * row[b];
        }
    }
    for (int a = 0; a < S; ++a) {
        if (N == 4) hsum4(out + a * outs, acc[a][0], acc[a][1 % N], acc[a][2 % N], acc[a][3 % N]);
        else out[a * outs] = hsum(acc[a][0]);
        for (int b = 0; bias && b < N; ++b) out[a * outs + b] += bias[b];
    }
}

// Rows outside, samples inside: the weights are read once for all samples.
static void affine(float *out, const float *in, const float *w, const float *bias, int64_t samples, int64_t rows,
                   int64_t n) {
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) {
        const float *b = bias ? bias + r : nullptr;
        int64_t s = 0;
        for (; s + 4 <= samples; s += 4) dots<4, 4>(out + s * rows + r, rows, in + s * n, n, w + r * n, b, n);
        for (; s < samples; ++s) dots<1, 4>(out + s * rows + r, rows, in + s * n, n, w + r * n, b, n);
    }
    for (; r < rows; ++r)
        for (int64_t s = 0; s < samples; ++s)
            dots<1, 1>(out + s * rows + r, rows, in + s * n, n, w + r * n, bias ? bias + r : nullptr, n);
}

// out[a][i] = sum_k left[a * left_a + k * left_k] right[k][i] for A rows and B vectors of columns, n in all.
template <int A, int B> INLINE void outer(float *out, int64_t outs, const float *left, int64_t left_a, int64_t left_k,
                                          const float *right, int64_t rights, int64_t count, int64_t n) {
    vf acc[A][B];
    for (int a = 0; a < A; ++a)
        for (int b = 0; b < B; ++b) acc[a][b] = splat(0.f);
    int last = (int)actswap::smaller(W, n - (B - 1) * W);
    for (int64_t k = 0; k < count; ++k) {
        vf v[B];
        for (int b = 0; b < B; ++b) v[b] = load_f32(right + k * rights + b * W, b == B - 1 ? last : W);
        for (int a = 0; a < A; ++a) {
            vf u = splat(left[a * left_a + k * left_k]);
            for (int b = 0; b < B; ++b) acc[a][b] += u * v[b];
        }
    }
    for (int a = 0; a < A; ++a)
        for (int b = 0; b < B; ++b) store_f32(out + a * outs + b * W, acc[a][b], b == B - 1 ? last : W);
}

static void product(float *out, int64_t outs, const float *left, int64_t left_a, int64_t left_k, const float *right,
                    int64_t rights, int64_t rows, int64_t count, int64_t n) {
    for (int64_t i = 0; i < n; i += 4 * W) {
        const bool wide = n - i > 3 * W;
        for (int64_t r = 0; r < rows;) {
            const bool four = rows - r >= 4;
            float *to = out + r * outs + i;
            const float *from = left + r * left_a;
            if (wide && four) outer<4, 4>(to, outs, from, left_a, left_k, right + i, rights, count, n - i);
            else if (wide) outer<1, 4>(to, outs, from, left_a, left_k, right + i, rights, count, n - i);
            else
                for (int64_t k = i; k < n; k += W) {
                    if (four) outer<4, 1>(to + k - i, outs, from, left_a, left_k, right + k, rights, count, n - k);
                    else outer<1, 1>(to + k - i, outs, from, left_a, left_k, right + k, rights, count, n - k);
                }
            r += four ? 4 : 1;
        }
    }
}

// out[s][i] = sum_r in[s][r] w[r][i].
static void transposed(float *out, int64_t outs, const float *in, const float *w, int64_t samples, int64_t rows, int64_t n) {
    product(out, outs, in, rows, 1, w, n, samples, rows, n);
}

INLINE float at(const actswap_call &c, int slot, int64_t i, float absent) {
    return c.param[slot] ? c.param[slot][(c.shared >> slot & 1) ? 0 : i] : absent;
}

static void branch(const actswap_call &c, const Layout &l, float *work, int64_t sample, int64_t end) {
    const bool meta = c.op == ACTSWAP_META_ACON;
    const int first = meta ? 3 : 0;
    const int64_t H = c.hidden, R = l.R, n = end - sample;
    float *h = work + l.at_hidden + sample * H, *z = work + l.at_branch + sample * R;
    affine(h, mean_of(c, l, work) + sample * l.C, c.param[first], c.param[first + 1], n, H, l.C);
    if (!meta)
        for (int64_t i = 0; i < n * H; ++i) h[i] = h[i] < 0 ? 0.f : h[i];
    affine(z, h, c.param[first + 2], c.param[first + 3], n, R, H);
    for (int64_t i = 0; i < n * R; i += W) {
        int m = (int)actswap::smaller(W, n * R - i);
        vf s = sigmoid<false>(load_f32(z + i, m), nullptr);
        store_f32(z + i, meta ? s : 2.f * s - 1.f, m);
    }
    for (; sample < end; ++sample, z += R) {
        float *table = work + l.at_table + sample * l.table * l.padded;
        if (meta) {
            for (int64_t i = 0; i < l.C; ++i) {
                float p1 = at(c, 0, i, 1), p2 = at(c, 1, i, 0), d = p1 - p2;
                table[i] = d, table[l.padded + i] = p2, table[2 * l.padded + i] = at(c, 2, i, 1) * z[i] * d;
            }
            continue;
        }
        const int J = 2 * c.pieces;
        const bool all = c.flags & ACTSWAP_SPATIAL_ALL, one = all || (c.shared >> 4 & 1);
        for (int j = 0; j < J; ++j) {
            float *to = table + j * l.padded, lambda = c.param[5][j];
            const float *init = c.param[4] + (one ? j : j * l.C), *theta = z + (all ? j : j * l.C);
            for (int64_t i = 0; i < l.C; ++i) to[i] = init[one ? 0 : i] + lambda * theta[all ? 0 : i];
        }
    }
}

// From the totals of the samples to dz, dh and the mean's gradient, already divided by the positions.
static void branch_back(const actswap_call &c, const Layout &l, float *work, int64_t sample, int64_t end) {
    const bool meta = c.op == ACTSWAP_META_ACON;
    const int first = meta ? 3 : 0;
    const int64_t H = c.hidden, R = l.R, n = end - sample;
    const float *branch = work + l.at_branch, *h = work + l.at_hidden;
    float *dz = work + l.at_dz, *dh = work + l.at_dh + sample * H, *dm = work + l.at_dm + sample * l.padded;
    for (int64_t b = sample; b < end; ++b) {
        const double *sums = total_of(l, work) + b * l.sums * l.padded;
        if (meta) {
            for (int64_t i = 0; i < l.C; ++i) {
                float d = at(c, 0, i, 1) - at(c, 1, i, 0), s = branch[b * R + i];
                dz[b * R + i] = (float)sums[2 * l.padded + i] * d * d * at(c, 2, i, 1) * s * (1 - s);
            }
            continue;
        }
        const bool all = c.flags & ACTSWAP_SPATIAL_ALL;
        for (int j = 0; j < 2 * c.pieces; ++j) {
            const double *from = sums + j * l.padded;
            double whole = 0;
            if (all)
                for (int64_t i = 0; i < l.C; ++i) whole += from[i];
            for (int64_t i = 0; i < (all ? 1 : l.C); ++i) {
                int64_t r = b * R + (all ? j : j * l.C + i);
                dz[r] = (float)(all ? whole : from[i]) * c.param[5][j] * 0.5f * (1 - branch[r] * branch[r]);
            }
        }
    }
    transposed(dh, H, dz + sample * R, c.param[first + 2], n, R, H);
    if (!meta)
        for (int64_t i = 0; i < n * H; ++i) dh[i] = h[sample * H + i] > 0 ? dh[i] : 0.f;
    transposed(dm, l.padded, dh, c.param[first], n, H, l.C);
    const float per = 1.f / (float)c.inner;
    for (int64_t b = 0; b < n; ++b)
        for (int64_t i = 0; i < l.C; ++i) dm[b * l.padded + i] *= per;
}

// Gradients of the weights, row by row: first those of w2 and b2, then those of w1 and b1.
static void weights(const actswap_call &c, const Layout &l, float *work, int64_t row, int64_t end) {
    const int first = c.op == ACTSWAP_META_ACON ? 3 : 0;
    for (int second = 1; second >= 0; --second) {
        const int64_t rows = second ? l.R : c.hidden, n = second ? c.hidden : l.C, skip = second ? 0 : l.R;
        const int64_t from = actswap::larger(row - skip, 0), to = actswap::smaller(end - skip, rows);
        if (from >= to) continue;
        const float *delta = work + (second ? l.at_dz : l.at_dh), *in = second ? work + l.at_hidden : mean_of(c, l, work);
        float *dw = c.grad_param[first + 2 * second], *db = c.grad_param[first + 1 + 2 * second];
        if (dw) product(dw + from * n, n, delta + from, 1, rows, in, n, to - from, c.batch, n);
        for (int64_t r = from; db && r < to; ++r) {
            double s = 0;
            for (int64_t b = 0; b < c.batch; ++b) s += delta[b * rows + r];
            db[r] = (float)s;
        }
    }
}

}  // namespace ACTSWAP_BUILD
