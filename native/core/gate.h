// The two-layer branch of the gated activations, from the mean of a sample to its coefficients and back, and the
// softmax of the attention. Every result is one dot product or one sum over samples in a fixed order, so that it does
// not depend on the range of units.
#pragma once
#include "attention.h"

namespace ACTSWAP_BUILD {

INLINE float *mean_of(const actswap_call &c, const Layout &l, float *work) {
    return c.mean ? c.mean : work + l.at_mean;
}
INLINE double *total_of(const Layout &l, float *work) { return (double *)(work + l.at_total); }

// Sums 16 columns in float64. Source and destination have room for whole vectors.
INLINE void add_rows(double *to, const float *from, int64_t step, int64_t rows) {
    constexpr int N = 32 / W;
    vd sum[N] = {};
    for (int64_t r = 0; r < rows; ++r, from += step)
        for (int i = 0; i < N; ++i) sum[i] += load_wide(from + i * (W / 2));
    for (int i = 0; i < N; ++i) memcpy(to + i * (W / 2), &sum[i], sizeof sum[i]);
}

// Adds the partial sums of a sample (without a gate: of all samples) to float64 totals [set][k][padded].
static void total(const actswap_call &, const Layout &l, float *work, int64_t set, int64_t end) {
    for (; set < end; ++set)
        for (int k = 0; k < l.sums; ++k) {
            double *to = total_of(l, work) + (set * l.sums + k) * l.padded;
            const float *from = partial_of(l, work, k, l.gated ? set : 0, 0);
            for (int64_t i = 0; i < l.C; i += 16) add_rows(to + i, from + i, l.padded, l.gated ? l.chunks : l.rows);
        }
}

// Adds total k over the samples, into the place of the first sample. If `weighted`, each is multiplied by its factor.
// Returns the sum of all totals times their factors. If `uniform`, all channels of a sample have the same factor.
static double over_samples(const actswap_call &c, const Layout &l, float *work, int k, const float *factor,
                           int64_t step, bool uniform, bool weighted) {
    double *to = total_of(l, work) + k * l.padded, dot = 0;
    auto add = [&](int64_t i, auto zero, int64_t wide) __attribute__((always_inline)) {
        auto sum = zero, all = zero;
        for (int64_t b = 0; b < c.batch; ++b) {
            auto v = zero, f = zero;
            memcpy(&v, to + b * l.sums * l.padded + i, sizeof v);
            const float *by = factor + b * step + (uniform ? 0 : i);
            if constexpr (sizeof v == sizeof(double)) f = *by;
            else f = uniform ? (double)*by - zero : load_wide(by);
            f *= v;
            all += f, sum += weighted ? f : v;
        }
        memcpy(to + i, &sum, sizeof sum);
        double each[W / 2] = {};
        memcpy(each, &all, sizeof all);
        for (int64_t n = 0; n < wide; ++n) dot += each[n];
    };
    int64_t i = 0;
    for (; i + W / 2 <= l.C; i += W / 2) add(i, vd{}, W / 2);
    for (; i < l.C; ++i) add(i, 0., 1);
    return dot;
}

static void mean(const actswap_call &c, const Layout &l, float *work, int64_t sample, int64_t end) {
    for (; sample < end; ++sample) {
        float *to = mean_of(c, l, work) + sample * l.C;
        const float *from = partial_of(l, work, 0, sample, 0);
        for (int64_t i = 0; i < l.C; ++i) {
            double s = 0;
            for (int64_t r = 0; r < l.chunks; ++r) s += from[r * l.padded + i];
            to[i] = (float)(s / (double)c.inner);
        }
    }
}

// The samples or vectors of a tile of products: its accumulators leave registers for the operands.
constexpr int TILE = W == 16 ? 4 : 2;

// out[s][r] = bias[r] + sum_i w[r][i] in[s][i] for S samples and 4 or 1 rows.
template <int S, int N> INLINE void dots(float *out, int64_t outs, const float *in, int64_t ins, const float *w,
                                         const float *bias, int64_t n) {
    vf acc[S][N];
    for (int a = 0; a < S; ++a)
        for (int b = 0; b < N; ++b) acc[a][b] = splat(0.f);
    auto add = [&](int64_t i, int m) __attribute__((always_inline)) {
        vf row[N];
        for (int b = 0; b < N; ++b) row[b] = load_f32(w + b * n + i, m);
        for (int a = 0; a < S; ++a) {
            vf v = load_f32(in + a * ins + i, m);
            for (int b = 0; b < N; ++b) acc[a][b] += v * row[b];
        }
    };
    int64_t i = 0;
    for (; i + W <= n; i += W) add(i, W);
    if (i < n) add(i, (int)(n - i));
    typedef float four __attribute__((vector_size(16)));
    alignas(64) float sum[S][4] = {};
    if (S * N == W) store_f32(sum[0], hsums((const vf(*)[1])acc, 0), W);
    for (int a = 0; a < S; ++a) {
        if (N == 4 && S * N != W) hsum4(sum[a], acc[a][0], acc[a][1 % N], acc[a][2 % N], acc[a][3 % N]);
        if (N == 1) sum[a][0] = hsum(acc[a][0]);
        four all, add = {};
        memcpy(&all, sum[a], sizeof all);
        if (bias) memcpy(&add, bias, 4 * N);
        all += add;
        memcpy(out + a * outs, &all, 4 * N);
    }
}

// The loop over rows is outside the loop over samples, so that the weights are read once for all samples.
static void affine(float *out, const float *in, const float *w, const float *bias, int64_t samples, int64_t rows,
                   int64_t n) {
    const int64_t share = 4 * n / samples;  // of the next rows of weights, prefetched for each sample
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) {
        const float *b = bias ? bias + r : nullptr;
        int64_t s = 0;
        for (; s + TILE <= samples; s += TILE) {
            for (int64_t i = s * share; i < (s + TILE) * share; i += 16) __builtin_prefetch(w + (r + 4) * n + i);
            dots<TILE, 4>(out + s * rows + r, rows, in + s * n, n, w + r * n, b, n);
        }
        for (; s < samples; ++s) dots<1, 4>(out + s * rows + r, rows, in + s * n, n, w + r * n, b, n);
    }
    for (; r < rows; ++r)
        for (int64_t s = 0; s < samples; ++s)
            dots<1, 1>(out + s * rows + r, rows, in + s * n, n, w + r * n, bias ? bias + r : nullptr, n);
}

// out[a][i] = sum_k left[a * left_a + k * left_k] right[k][i] for A rows and B vectors of columns. The last vector has
// `last` columns.
template <int A, int B> INLINE void outer(float *out, int64_t outs, const float *left, int64_t left_a, int64_t left_k,
                                          const float *right, int64_t rights, int64_t count, int last) {
    vf acc[A][B];
    for (int a = 0; a < A; ++a)
        for (int b = 0; b < B; ++b) acc[a][b] = splat(0.f);
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
    for (int64_t i = 0; i < n;) {
        const int64_t rest = n - i;
        const int wide = rest >= TILE * W ? TILE * W : (int)actswap::smaller(rest, W);
        for (int64_t r = 0; r < rows;) {
            float *to = out + r * outs + i;
            const float *from = left + r * left_a, *by = right + i;
            const bool four = rows - r >= 4;
            if (wide > W && four) outer<4, TILE>(to, outs, from, left_a, left_k, by, rights, count, W);
            else if (wide > W) outer<1, TILE>(to, outs, from, left_a, left_k, by, rights, count, W);
            else if (four) outer<4, 1>(to, outs, from, left_a, left_k, by, rights, count, wide);
            else outer<1, 1>(to, outs, from, left_a, left_k, by, rights, count, wide);
            r += four ? 4 : 1;
        }
        i += wide;
    }
}

// out[s][i] = sum_r in[s][r] w[r][i].
static void transposed(float *out, int64_t outs, const float *in, const float *w, int64_t samples, int64_t rows,
                       int64_t n) {
    product(out, outs, in, rows, 1, w, n, samples, rows, n);
}

// out[i] = bias[i] + sum_k in[k] w[k][i] over the k for which in[k] is not 0. For one sample, reading the weights is
// the cost, and a ReLU leaves about half of the k.
static void sparse(float *out, const float *in, const float *w, const float *bias, int64_t rows, int64_t count) {
    constexpr int AT_ONCE = 4;
    const float *row[AT_ONCE];
    float factor[AT_ONCE];
    for (int64_t i = 0; i < rows; ++i) out[i] = bias ? bias[i] : 0.f;
    for (int64_t k = 0; k < count;) {
        int found = 0;
        for (; k < count && found < AT_ONCE; ++k)
            if (in[k] != 0) row[found] = w + k * rows, factor[found++] = in[k];
        for (int j = found; found && j < AT_ONCE; ++j) row[j] = row[0], factor[j] = 0.f;
        if (found)
            sweep(rows, [&](int64_t i, int n) __attribute__((always_inline)) {
                vf sum = load_f32(out + i, n);
                for (int j = 0; j < AT_ONCE; ++j) sum += splat(factor[j]) * load_f32(row[j] + i, n);
                store_f32(out + i, sum, n);
            });
    }
}

// Computes the probabilities from the scores, unless forward left them, and then the factors.
static void softmax(const actswap_call &c, const Layout &l, float *work, int64_t sample) {
    const float tau = c.param[8][0], gain = c.param[8][1], gamma = (float)c.inner / 3.f;
    float *p = probability_of(c, l, work, sample), *factor = work + l.at_factor + sample * c.inner;
    if (!(c.flags & ACTSWAP_BACKWARD) || !c.mean) {
        float most = p[0] / tau;
        for (int64_t i = 0; i < c.inner; ++i) p[i] /= tau, most = p[i] > most ? p[i] : most;
        double sum = 0;
        sweep(c.inner, [&](int64_t i, int n) __attribute__((always_inline)) {
            store_f32(p + i, exp_minus(most - load_f32(p + i, n)), n);
        });
        for (int64_t i = 0; i < c.inner; ++i) sum += p[i];
        for (int64_t i = 0; i < c.inner; ++i) p[i] = (float)(p[i] / sum);
    }
    for (int64_t i = 0; i < c.inner; ++i) {
        float a = gamma * p[i];
        factor[i] = gain * (a > 1.f ? 1.f : a);
    }
}

// Computes the gradients of the scores from those of the factors.
static void softmax_back(const actswap_call &c, const Layout &l, float *work, int64_t sample) {
    const float tau = c.param[8][0], gain = c.param[8][1], gamma = (float)c.inner / 3.f;
    const float *p = probability_of(c, l, work, sample);
    float *d = work + l.at_slope + sample * c.inner;
    double mean = 0;
    for (int64_t i = 0; i < c.inner; ++i) {
        d[i] = gamma * p[i] <= 1.f ? d[i] * gain * gamma : 0.f;
        mean += (double)p[i] * d[i];
    }
    for (int64_t i = 0; i < c.inner; ++i) d[i] = (float)(p[i] * (d[i] - mean) / tau);
}

INLINE vf values_of(const actswap_call &c, int slot, int64_t i, int n, float absent) {
    if (!c.param[slot]) return splat(absent);
    return c.shared >> slot & 1 ? splat(c.param[slot][0]) : load_f32(c.param[slot] + i, n);
}
// W totals from float64 to float32. Rows of totals are padded by at least W, so whole vectors may be read.
INLINE vf rounded(const double *from) {
    typedef double vd __attribute__((vector_size(8 * W)));
    vd v;
    memcpy(&v, from, sizeof v);
    return __builtin_convertvector(v, vf);
}

static void branch(const actswap_call &c, const Layout &l, float *work, int64_t sample, int64_t end) {
    const bool meta = c.op == ACTSWAP_META_ACON;
    const int first = meta ? 3 : 0;
    const int64_t H = c.hidden, R = l.R, n = end - sample, pooled = c.pooled ? c.pooled : l.C;
    float *h = work + l.at_hidden + sample * H, *z = work + l.at_branch + sample * R;
    affine(h, mean_of(c, l, work) + sample * pooled, c.param[first], c.param[first + 1], n, H, pooled);
    if (!meta)
        for (int64_t i = 0; i < n * H; ++i) h[i] = h[i] < 0 ? 0.f : h[i];
    // The batch decides, not n: n depends on the split between threads, and the bits must not.
    if (c.batch == 1 && c.param[9]) sparse(z, h, c.param[9], c.param[first + 3], R, H);
    else affine(z, h, c.param[first + 2], c.param[first + 3], n, R, H);
    for (int64_t i = 0; i < n * R; i += W) {
        int m = (int)actswap::smaller(W, n * R - i);
        vf s = sigmoid(load_f32(z + i, m), nullptr);
        store_f32(z + i, meta ? s : 2.f * s - 1.f, m);
    }
    for (; sample < end; ++sample, z += R) {
        if (l.attended) softmax(c, l, work, sample);
        float *table = work + l.at_table + sample * l.table * l.padded;
        if (meta) {
            sweep(l.C, [&](int64_t i, int n) __attribute__((always_inline)) {
                vf p2 = values_of(c, 1, i, n, 0), d = values_of(c, 0, i, n, 1) - p2;
                vf bd = values_of(c, 2, i, n, 1) * load_f32(z + i, n) * d;
                store_f32(table + i, d, n), store_f32(table + l.padded + i, pick(bd == bd, p2, bd), n);
                store_f32(table + 2 * l.padded + i, bd, n);
                store_f32(table + 3 * l.padded + i, bits_to_float(actswap::at_infinity<vi>(d, p2, bd)), n);
            });
            continue;
        }
        const int J = 2 * c.pieces;
        const bool all = c.flags & ACTSWAP_SPATIAL_ALL, one = all || (c.shared >> 4 & 1);
        for (int j = 0; j < J; ++j) {
            float *to = table + j * l.padded, lambda = c.param[5][j];
            const float *init = c.param[4] + (one ? j : j * l.C), *theta = z + (all ? j : j * l.C);
            sweep(l.C, [&](int64_t i, int n) __attribute__((always_inline)) {
                vf start = one ? splat(*init) : load_f32(init + i, n);
                store_f32(to + i, start + lambda * (all ? splat(*theta) : load_f32(theta + i, n)), n);
            });
        }
    }
}

// Computes dz, dh and the gradient of the mean, divided by the number of positions, from the totals of the samples.
static void branch_back(const actswap_call &c, const Layout &l, float *work, int64_t sample, int64_t end) {
    const bool meta = c.op == ACTSWAP_META_ACON;
    const int first = meta ? 3 : 0;
    const int64_t H = c.hidden, R = l.R, n = end - sample;
    const float *branch = work + l.at_branch, *h = work + l.at_hidden;
    float *dz = work + l.at_dz, *dh = work + l.at_dh + sample * H, *dm = work + l.at_dm + sample * l.padded;
    for (int64_t b = sample; b < end; ++b) {
        const double *sums = total_of(l, work) + b * l.sums * l.padded;
        if (l.attended) softmax_back(c, l, work, b);
        if (meta) {
            sweep(l.C, [&](int64_t i, int n) __attribute__((always_inline)) {
                vf d = values_of(c, 0, i, n, 1) - values_of(c, 1, i, n, 0), s = load_f32(branch + b * R + i, n);
                store_f32(dz + b * R + i,
                          rounded(sums + 2 * l.padded + i) * d * d * values_of(c, 2, i, n, 1) * s * (1 - s), n);
            });
            continue;
        }
        const bool all = c.flags & ACTSWAP_SPATIAL_ALL;
        for (int j = 0; j < 2 * c.pieces; ++j) {
            const double *from = sums + j * l.padded;
            const float half = c.param[5][j] * 0.5f, *theta = branch + b * R + (all ? j : j * l.C);
            float *to = dz + b * R + (all ? j : j * l.C);
            if (all) {
                double whole = 0;
                for (int64_t i = 0; i < l.C; ++i) whole += from[i];
                *to = (float)whole * half * (1 - *theta * *theta);
                continue;
            }
            sweep(l.C, [&](int64_t i, int n) __attribute__((always_inline)) {
                vf t = load_f32(theta + i, n);
                store_f32(to + i, rounded(from + i) * half * (1 - t * t), n);
            });
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
        const float *delta = work + (second ? l.at_dz : l.at_dh);
        const float *in = second ? work + l.at_hidden : mean_of(c, l, work);
        float *dw = c.grad_param[first + 2 * second], *db = c.grad_param[first + 1 + 2 * second];
        if (dw) product(dw + from * n, n, delta + from, 1, rows, in, n, to - from, c.batch, n);
        for (int64_t r = from; db && r < to; r += 16) {
            double sum[16];  // this may read beyond the last row: other numbers of the workspace follow it
            add_rows(sum, delta + r, rows, c.batch);
            for (int64_t i = 0; i < actswap::smaller(16, to - r); ++i) db[r + i] = (float)sum[i];
        }
    }
}

}  // namespace ACTSWAP_BUILD
