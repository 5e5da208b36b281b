// The C ABI: checks, phases, and the choice of the instruction-set build. Compiled for the baseline processor.
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "layout.h"

extern "C" {
const actswap::Build *actswap_build_base();
#if defined(ACTSWAP_X86)
const actswap::Build *actswap_build_avx2();
const actswap::Build *actswap_build_avx512();
const actswap::Build *actswap_build_avx512bf16();
#endif
}

namespace actswap {

static const float *bases() {
    static float table[6][16 * 3];
    for (int n = 0; n < 16; ++n) {
        const float k = (float)n, rows[6][3] = {
            {n ? 2.f : 1.f, 0, 1},                                       // Chebyshev T
            {2, 0, 1},                                                   // Chebyshev U
            {(2 * k + 1) / (k + 1), 0, k / (k + 1)},                     // Legendre
            {-1 / (k + 1), (2 * k + 1) / (k + 1), k / (k + 1)},          // Laguerre
            {1, 0, k},                                                   // Hermite, probabilists'
            {2, 0, 2 * k},                                               // Hermite, physicists'
        };
        for (int b = 0; b < 6; ++b) memcpy(&table[b][3 * n], rows[b], sizeof rows[b]);
    }
    return &table[0][0];
}

const float *recurrence(int basis) {
    static const float *table = bases();
    return table + basis * 48;
}

static const Build *pick_build() {
    const Build *found[4] = {actswap_build_base()};
    int count = 1;
#if defined(ACTSWAP_X86)
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (avx2) found[count++] = actswap_build_avx2();
    if (avx512) found[count++] = actswap_build_avx512();
    if (avx512 && __builtin_cpu_supports("avx512bf16")) found[count++] = actswap_build_avx512bf16();
#endif
    const char *wanted = getenv("ACTSWAP_ISA");
    for (int i = 0; wanted && i < count; ++i)
        if (!strcmp(wanted, found[i]->name)) return found[i];
    return found[count - 1];
}

static const Build &build() {
    static const Build *chosen = pick_build();
    return *chosen;
}

enum Phase { PREPARE, APPLY, FINISH, BLOCKS, POOL, BRANCH, SUM, BACK, GRAD, WEIGHTS };

// In float32 the gradient is computed once and the mean's share added afterwards; in the half types that would round
// twice. The attention's pass goes over x again anyway.
static bool adds(const actswap_call &c) { return c.y && c.dtype == ACTSWAP_F32 && !(c.flags & ACTSWAP_ATTENTION); }

static bool wants_sums(const actswap_call &c) {
    for (int i = 0; i < ACTSWAP_SLOTS; ++i)
        if (c.grad_param[i]) return true;
    return false;
}

// True if there is a pass that writes grad_x. The gradient of the attention's weights is computed in the same pass.
static bool wants_grad(const actswap_call &c) {
    return c.y || (c.op == ACTSWAP_DY_RELU && c.flags & ACTSWAP_ATTENTION && c.grad_param[6]);
}

// True if this call computes the mean of x: it was not left by forward, and it is not given.
static bool makes_mean(const actswap_call &c) { return !c.pooled && (!(c.flags & ACTSWAP_BACKWARD) || !c.mean); }

static int phases_of(const actswap_call &c, const Layout &l, Phase *p) {
    int n = 0;
    const bool back = c.flags & ACTSWAP_BACKWARD, split = c.flags & ACTSWAP_SPLIT, sums = back && wants_sums(c);
    if (!l.gated) {
        p[n++] = PREPARE;
        p[n++] = APPLY;
        if (sums) p[n++] = FINISH;
        return n;
    }
    if (!split) {
        p[n++] = BLOCKS;
    } else {
        if (makes_mean(c)) p[n++] = POOL;
        p[n++] = BRANCH;
        p[n++] = back ? SUM : APPLY;
        if (back) p[n++] = BACK;
        if (back && wants_grad(c)) p[n++] = GRAD;
    }
    if (sums) p[n++] = WEIGHTS, p[n++] = FINISH;
    return n;
}

// True if this pass over x runs the convolution; only the first pass does.
static bool convolves(const actswap_call &c, const Layout &l, Mode mode) {
    return c.convolution && mode == (l.gated && makes_mean(c) ? MEAN : FORWARD);
}

static int64_t convolution_units(const actswap_call &c, const Layout &l) {
    return ceil_div(c.groups, l.together) * l.chunks;
}

static int64_t units_of(const actswap_call &c, const Layout &l, Phase phase) {
    if (convolves(c, l, phase == POOL ? MEAN : FORWARD) && (phase == POOL || phase == APPLY))
        return c.batch * convolution_units(c, l);
    switch (phase) {
        case PREPARE:
        case FINISH: return 1;
        case BLOCKS:
        case BRANCH:
        case BACK: return ceil_div(c.batch, l.block);
        case WEIGHTS: return l.R + c.hidden;
        default: return ceil_div(c.batch, l.stack) * l.per_sample;
    }
}

static float value(const actswap_call &c, int slot, int64_t channel, int width, int i, float absent) {
    return c.param[slot] ? c.param[slot][((c.shared >> slot & 1) ? 0 : channel * width) + i] : absent;
}

// Clamps to the range of float32, so that the value times 0 is 0; NaN stays.
static float finite(float v) { return v > FLT_MAX ? FLT_MAX : v < -FLT_MAX ? -FLT_MAX : v; }

// Writes a slot's rows of `width` values as columns of the table.
static void columns(const actswap_call &c, int slot, int width, const Layout &l, float *to) {
    const int64_t step = c.shared >> slot & 1 ? 0 : width;
    for (int64_t i = 0; i < width; ++i)
        for (int64_t ch = 0; ch < l.C; ++ch) to[i * l.padded + ch] = c.param[slot][ch * step + i];
}

static void prepare(const actswap_call &c, const Layout &l, float *work) {
    float *t = work + l.at_table;
    const int64_t row = l.padded;
    memset(t, 0, sizeof(float) * (size_t)(l.table * row));
    if (c.op == ACTSWAP_ACON) {
        for (int64_t ch = 0; ch < l.C; ++ch) {
            float p1 = value(c, 0, ch, 1, 0, 1), p2 = value(c, 1, ch, 1, 0, 0), d = p1 - p2;
            const float bd = finite(d * value(c, 2, ch, 1, 0, 1));
            const int32_t infinite = at_infinity<int32_t>(d, p2, bd);
            t[ch] = d, t[row + ch] = bd == bd ? p2 : bd, t[2 * row + ch] = bd;
            memcpy(t + 3 * row + ch, &infinite, sizeof infinite);
        }
        return;
    }
    const int p = c.degree_p + 1, q = l.table - 5 - p;
    columns(c, 0, p, l, t);
    columns(c, 1, q, l, t + p * row);
    columns(c, 2, 5, l, t + (p + q) * row);
    for (int64_t i = 0; c.form == ACTSWAP_FORM_A && i < q * row; ++i) t[p * row + i] = fabsf(t[p * row + i]);
    for (int64_t ch = 0; ch < l.C; ++ch) t[(p + q) * row + ch] = 1 / t[(p + q) * row + ch];
}

// Adds up a slot's gradient; a shared slot gets the sum over channels.
struct Gradient {
    float *to;
    bool shared;
    double sum[16];
    Gradient(const actswap_call &c, int slot) : to(c.grad_param[slot]), shared(c.shared >> slot & 1), sum{} {}
    void add(int64_t channel, int width, int i, double v) {
        if (shared) sum[i] += v;
        else if (to) to[channel * width + i] = (float)v;
    }
    void close(int width) {
        for (int i = 0; to && shared && i < width; ++i) to[i] = (float)sum[i];
    }
};

static void finish_acon(const actswap_call &c, const Layout &l, float *work) {
    Gradient p1(c, 0), p2(c, 1), last(c, 2);
    const double *sum = (const double *)(work + l.at_total);
    if (l.gated)  // the sum of beta's gradients is one of scale's with its gate
        for (int k = 0; k < 3; ++k) build().over_samples(c, l, work, k, work + l.at_branch, l.R, false, k == 2);
    for (int64_t ch = 0; ch < l.C; ++ch) {
        double a = sum[ch], b = sum[l.padded + ch], d = value(c, 0, ch, 1, 0, 1) - value(c, 1, ch, 1, 0, 0);
        p1.add(ch, 1, 0, b), p2.add(ch, 1, 0, a - b), last.add(ch, 1, 0, d * d * sum[2 * l.padded + ch]);
    }
    p1.close(1), p2.close(1), last.close(1);
}

static void finish_rational(const actswap_call &c, const Layout &l, const double *total) {
    Gradient a(c, 0), b(c, 1);
    const int p = c.degree_p + 1, q = l.sums - p;
    const int64_t step = b.shared ? 0 : q;
    for (int i = 0; i < p; ++i)
        for (int64_t ch = 0; ch < l.C; ++ch) a.add(ch, p, i, total[i * l.padded + ch]);
    for (int j = 0; j < q; ++j)
        for (int64_t ch = 0; ch < l.C; ++ch) {
            const float sign = c.param[1][ch * step + j];
            const double v = total[(p + j) * l.padded + ch];
            b.add(ch, q, j, c.form != ACTSWAP_FORM_A ? v : sign > 0 ? v : sign < 0 ? -v : 0 * v);
        }
    a.close(p), b.close(q);
}

static void finish_lines(const actswap_call &c, const Layout &l, float *work) {
    const bool all = c.flags & ACTSWAP_SPATIAL_ALL, one = all || (c.shared >> 4 & 1);
    for (int j = 0; j < 2 * c.pieces; ++j) {
        const float *theta = work + l.at_branch + (all ? j : j * l.C);
        const double lambda = build().over_samples(c, l, work, j, theta, l.R, all, false);
        if (c.grad_param[5]) c.grad_param[5][j] = (float)lambda;
        if (!c.grad_param[4]) continue;
        const double *sum = (const double *)(work + l.at_total) + j * l.padded;
        double whole = 0;
        for (int64_t ch = 0; ch < l.C; ++ch) {
            whole += sum[ch];
            if (!one) c.grad_param[4][j * l.C + ch] = (float)sum[ch];
        }
        if (one) c.grad_param[4][j] = (float)whole;
    }
}

static void finish_attention(const actswap_call &c, const Layout &l, float *work) {
    Gradient ws(c, 6);
    const float *from = work + l.at_partial + l.sums * l.rows * l.padded;
    for (int64_t ch = 0; ch < l.C && ws.to; ++ch) {
        double sum = 0;
        for (int64_t r = 0; r < l.rows; ++r) sum += from[r * l.padded + ch];
        ws.add(ch, 1, 0, sum);
    }
    ws.close(1);
    if (c.grad_param[7]) c.grad_param[7][0] = 0;
}

static void finish(const actswap_call &c, const Layout &l, float *work) {
    if (!l.gated) build().total(c, l, work, 0, 1);
    switch (c.op) {
        case ACTSWAP_ACON:
        case ACTSWAP_META_ACON: return finish_acon(c, l, work);
        case ACTSWAP_DY_RELU:
            if (l.attended) finish_attention(c, l, work);
            if (c.grad_param[4] || c.grad_param[5]) finish_lines(c, l, work);
            return;
        default: finish_rational(c, l, (const double *)(work + l.at_total));
    }
}

static void forward_samples(const actswap_call &c, const Layout &l, float *work, Mode mode, int64_t s, int64_t e) {
    const bool makes = convolves(c, l, mode);
    const int64_t units = makes ? convolution_units(c, l) : l.per_sample;
    (makes ? build().convolve : build().apply)(c, l, work, mode, s * units, e * units);
}

static void blocks(const actswap_call &c, const Layout &l, float *work, int64_t first, int64_t last) {
    const Build &b = build();
    const bool back = c.flags & ACTSWAP_BACKWARD;
    for (int64_t s = first; s < last; s += l.block) {
        int64_t e = smaller(s + l.block, last), from = s * l.per_sample, to = e * l.per_sample;
        if (makes_mean(c)) forward_samples(c, l, work, MEAN, s, e), b.mean(c, l, work, s, e);
        b.branch(c, l, work, s, e);
        if (!back) {
            forward_samples(c, l, work, FORWARD, s, e);
            continue;
        }
        b.apply(c, l, work, adds(c) ? BOTH : SUMS, from, to);
        b.total(c, l, work, s, e);
        b.branch_back(c, l, work, s, e);
        if (wants_grad(c)) b.apply(c, l, work, adds(c) ? ADD : GRADIENT, from, to);
    }
}

static void run(const actswap_call &c, const Layout &l, float *work, Phase phase, int64_t begin, int64_t end) {
    const Build &b = build();
    const bool back = c.flags & ACTSWAP_BACKWARD;
    const int64_t s = begin * l.block, e = smaller(end * l.block, c.batch);
    switch (phase) {
        case PREPARE: return prepare(c, l, work);
        case APPLY:
            return (convolves(c, l, FORWARD) ? b.convolve : b.apply)(c, l, work, back ? BOTH : FORWARD, begin, end);
        case FINISH: return finish(c, l, work);
        case BLOCKS: return blocks(c, l, work, s, e);
        case POOL: return (convolves(c, l, MEAN) ? b.convolve : b.apply)(c, l, work, MEAN, begin, end);
        case BRANCH:
            if (makes_mean(c)) b.mean(c, l, work, s, e);
            return b.branch(c, l, work, s, e);
        case SUM: return b.apply(c, l, work, adds(c) ? BOTH : SUMS, begin, end);
        case BACK:
            b.total(c, l, work, s, e);
            return b.branch_back(c, l, work, s, e);
        case GRAD: return b.apply(c, l, work, adds(c) ? ADD : GRADIENT, begin, end);
        case WEIGHTS: return b.weights(c, l, work, begin, end);
    }
}

}  // namespace actswap

using namespace actswap;

extern "C" {

ACTSWAP_API const char *actswap_check(const actswap_call *c) { return check(*c, build().width); }

ACTSWAP_API size_t actswap_workspace(const actswap_call *c) { return (size_t)layout_of(*c).size * sizeof(float) + 64; }

ACTSWAP_API int actswap_phases(const actswap_call *c) {
    Phase phases[8];
    return phases_of(*c, layout_of(*c), phases);
}

ACTSWAP_API int64_t actswap_units(const actswap_call *c, int phase) {
    Phase phases[8];
    Layout l = layout_of(*c);
    return phase < phases_of(*c, l, phases) ? units_of(*c, l, phases[phase]) : 0;
}

ACTSWAP_API void actswap_run(const actswap_call *c, void *work, int phase, int64_t begin, int64_t end) {
    Phase phases[8];
    Layout l = layout_of(*c);
    if (phase < phases_of(*c, l, phases) && begin < end) run(*c, l, (float *)work, phases[phase], begin, end);
}

ACTSWAP_API const char *actswap_isa(void) { return build().name; }
}
