// The activations, one struct each: it loads parameters from the table, and computes the value, or the gradient with
// its sums. TILED says that short planes are computed in tiles (tiles.h).
#pragma once
#include "actswap_kernels.h"
#include "simd.h"

namespace ACTSWAP_BUILD {

// One sample's table: row k holds parameter k of every channel.
struct Table {
    const float *base;
    int64_t row;
    int p, q, form;        // coefficient counts and form of a rational if known at run time only; p lines of DY-ReLU
    const float *recur;    // OPAU: three-term recurrence, f_{n+1} = (r[3n] t + r[3n+1]) f_n - r[3n+2] f_{n-1}
    bool uniform;          // planar: one channel for the whole vector
    INLINE vf get(const Table &t, int k, int64_t ch, int n) {
        const float *at = t.base + k * t.row + ch;
        return t.uniform ? splat(*at) : load_f32(at, n);
    }
    INLINE vi bits(const Table &t, int k, int64_t ch, int n) {  // the table holds an integer there
        const float *at = t.base + k * t.row + ch;
        int32_t one;
        memcpy(&one, at, sizeof one);
        return t.uniform ? one + vi{} : float_to_bits(load_f32(at, n));
    }
};

// Table rows: p1 - p2, p2 (NaN if the next row is NaN), beta (p1 - p2), the limits at infinity.
// Sums: g x, g x (s + z s'), g x^2 s'.
// For an infinite x, a slope or a beta of 0 would give 0 times infinity. AVX-512 has an instruction that puts the limit
// there. The other builds take a branch for the whole vector, because an infinite x is rare.
struct Acon {
    static constexpr int SUMS = 3, RUNTIME = 0, TILED = 1;
    vf d, p2, bd, power;
#if defined(__AVX512F__)
    vi infinite;
#endif
    INLINE void load(Acon &f, const Table &t, int64_t ch, int n) {
        f.d = Table::get(t, 0, ch, n), f.p2 = Table::get(t, 1, ch, n), f.bd = Table::get(t, 2, ch, n);
        f.power = f.bd * -1.44269504f;
#if defined(__AVX512F__)
        f.infinite = Table::bits(t, 3, ch, n);
#endif
    }
    INLINE vf value(const Acon &f, vf x) {
        vf y = x * (logistic2(f.d, f.power * x) + f.p2);
#if defined(__AVX512F__)
        return (vf)_mm512_fixupimm_ps((__m512)y, (__m512)x, (__m512i)f.infinite, 0);
#else
        if (__builtin_expect(!any_infinite(x), 1)) return y;
        vf r = slope_at_infinity(f, x);
        y = pick(is_infinite(x), x * r, y);
        return pick((vi)(r == 0) & is_infinite(x), splat(0.f), y);  // a line of slope 0 stays 0
#endif
    }
    template <bool SUM> INLINE vf gradient(const Acon &f, vf x, vf g, vf *sums) {
        if (__builtin_expect(!any_infinite(x), 1)) return finite<SUM>(f, x, g, sums);
        // As in the formula, infinite elements do not count in the gradients of the parameters.
        vi out = is_infinite(x);
        vf dx = finite<SUM>(f, pick(out, splat(0.f), x), pick(out, splat(0.f), g), sums);
        return pick(out, g * slope_at_infinity(f, x), dx);
    }
    template <bool SUM> INLINE vf finite(const Acon &f, vf x, vf g, vf *sums) {
        vf ds, s = sigmoid(f.bd * x, &ds);
        vf w = x * ds, t = s + f.bd * w;
        if (SUM) {
            vf gx = g * x;
            sums[0] += gx, sums[1] += gx * t, sums[2] += gx * w;
        }
        return g * (f.d * t + f.p2);
    }
    // The slope of the greater line; of the lesser line if beta < 0; of their mean if beta or the difference is 0.
    INLINE vf slope_at_infinity(const Acon &f, vf x) {
        vf z = f.bd * x;  // infinite, or NaN if it is 0 times infinity
        vf r = f.d * pick(z > 0, splat(1.f), pick(z < 0, splat(0.f), splat(0.5f))) + f.p2;
        return pick(f.bd == f.bd, r, f.bd);  // NaN if the gate's mean is
    }
};

// Table rows: a_1..a_K, b_1..b_K. Sums: the gradient of each. Ties share the gradient, as in torch.maximum.
// K = 0 means that the number of lines is known at run time only.
template <int K> struct Lines {
    static constexpr int MK = K ? K : 4, SUMS = 2 * MK, RUNTIME = !K, TILED = 0;
    int count;
    vf a[MK], b[MK];
    INLINE void load(Lines &f, const Table &t, int64_t ch, int n) {
        f.count = K ? K : t.p;
        for (int k = 0; k < f.count; ++k) f.a[k] = Table::get(t, k, ch, n), f.b[k] = Table::get(t, f.count + k, ch, n);
    }
    INLINE vf value(const Lines &f, vf x) {
        vf y = f.a[0] * x + f.b[0];
        for (int k = 1; k < f.count; ++k) {
            vf z = f.a[k] * x + f.b[k];
            y = pick((vi)(y >= z) | (vi)(y != y), y, z);  // a NaN in either stays
        }
        return y;
    }
    template <bool SUM> INLINE vf gradient(const Lines &f, vf x, vf g, vf *sums) {
        vf share[MK], y = f.a[0] * x + f.b[0];
        share[0] = g;
        for (int k = 1; k < f.count; ++k) {
            vf z = f.a[k] * x + f.b[k];
            vf kept = pick(z > y, splat(0.f), pick(z == y, splat(0.5f), splat(1.f)));
            for (int i = 0; i < k; ++i) share[i] *= kept;
            share[k] = g - g * kept;
            y = vmax(z, y);
        }
        vf dx = f.a[0] * share[0];
        for (int k = 1; k < f.count; ++k) dx += f.a[k] * share[k];
        if (SUM)
            for (int k = 0; k < f.count; ++k) sums[k] += share[k] * x, sums[f.count + k] += share[k];
        return dx;
    }
};

// The slopes beyond a rational's range: any on both sides, flat below (ReLU, GELU), flat on both sides (ReLU6, tanh).
enum Ends { SLOPED, FLAT_BELOW, FLAT };

// Clamps to the calibrated range, with straight lines beyond it. Table rows: 1/s, lo, hi, slope_lo, slope_hi.
// On a flat tail an infinite x would give 0 times infinity, so its distance counts as 0 there.
struct Tails {
    vf inverse, lo, hi, below, above;
#if defined(__AVX512F__)
    vi infinite;  // a table of VFIXUPIMMPS, as in at_infinity
#else
    vf first, last;  // the end of a flat tail, else infinite
#endif
    INLINE void load(Tails &f, const Table &t, int k, int64_t ch, int n) {
        f.inverse = Table::get(t, k, ch, n), f.lo = Table::get(t, k + 1, ch, n), f.hi = Table::get(t, k + 2, ch, n);
        f.below = Table::get(t, k + 3, ch, n), f.above = Table::get(t, k + 4, ch, n);
#if defined(__AVX512F__)
        f.infinite = ((vi)(f.below == 0) & 8 << 16) | ((vi)(f.above == 0) & 8 << 20);
#else
        f.first = pick(f.below == 0, f.lo, splat(-__builtin_inff()));
        f.last = pick(f.above == 0, f.hi, splat(__builtin_inff()));
#endif
    }
    INLINE vf clamp(const Tails &f, vf x) { return vmax(f.lo, vmin(f.hi, x)); }  // NaN stays: x is the second operand
    template <Ends ENDS = SLOPED> INLINE vf outside(const Tails &f, vf x, vf inside) {
        if (ENDS == FLAT) return splat(0.f);
        if (ENDS == FLAT_BELOW) return f.above * (vmax(f.hi, x) - f.hi);
#if defined(__AVX512F__)
        vf u = (vf)_mm512_fixupimm_ps((__m512)(x - inside), (__m512)x, (__m512i)f.infinite, 0);
#else
        vf u = vmax(f.first, vmin(f.last, x)) - inside;
#endif
        return pick(x < f.lo, f.below, f.above) * u;
    }
    INLINE vf gradient(const Tails &f, vf x, vf inside, vf g, vf within) {
        return pick(x == inside, within, g * pick(x < inside, f.below, f.above));
    }
};

// Table rows: a_0..a_m, b_1..b_n (b_0..b_n for form C), tails. For form A the table already holds |b_j|.
// P = 0 means that the degrees are known at run time only; FORM = -1 means the same of the form.
template <int FORM, int P, int Q, Ends ENDS = SLOPED> struct Pade {
    static constexpr int MP = P ? P : 16, MQ = Q ? Q : 16, SUMS = P ? P + Q : 32, RUNTIME = !P, TILED = 1;
    int p, q, form;
    vf a[MP], b[MQ];
    Tails tails;
    INLINE void load(Pade &f, const Table &t, int64_t ch, int n) {
        f.p = P ? P : t.p, f.q = P ? Q : t.q, f.form = FORM < 0 ? t.form : FORM;
        for (int i = 0; i < f.p; ++i) f.a[i] = Table::get(t, i, ch, n);
        for (int j = 0; j < f.q; ++j) f.b[j] = Table::get(t, f.p + j, ch, n);
        Tails::load(f.tails, t, f.p + f.q, ch, n);
    }
    INLINE vf denominator(const Pade &f, vf den) { return (f.form == ACTSWAP_FORM_C ? 0.1f : 1.f) + den; }
    INLINE vf value(const Pade &f, vf x) {
        vf inside = Tails::clamp(f.tails, x), t = inside * f.tails.inverse;
        vf u = f.form == ACTSWAP_FORM_A ? vabs(t) : t;
        vf num = f.a[f.p - 1], den = f.q ? f.b[f.q - 1] : splat(0.f);
        for (int i = f.p - 2; i >= 0; --i) num = num * t + f.a[i];
        for (int j = f.q - 2; j >= 0; --j) den = den * u + f.b[j];
        if (f.form != ACTSWAP_FORM_C) den = den * u;
        if (f.form >= ACTSWAP_FORM_B) den = vabs(den);
        return num / denominator(f, den) + Tails::outside<ENDS>(f.tails, x, inside);
    }
    template <bool SUM> INLINE vf gradient(const Pade &f, vf x, vf g, vf *sums) {
        const bool absolute = f.form == ACTSWAP_FORM_A, flips = f.form >= ACTSWAP_FORM_B;
        const bool offset = f.form != ACTSWAP_FORM_C;
        vf inside = Tails::clamp(f.tails, x), t = inside * f.tails.inverse;
        vf u = absolute ? vabs(t) : t;
        vf num = f.a[f.p - 1], dnum = splat(0.f);
        if (f.p > 1) dnum = num, num = num * t + f.a[f.p - 2];  // the first step by hand saves computing 0 t + num
        for (int i = f.p - 3; i >= 0; --i) dnum = dnum * t + num, num = num * t + f.a[i];
        vf den = f.q ? f.b[f.q - 1] : splat(0.f), dden = splat(0.f);
        const int rest = offset ? f.q : f.q - 1;  // Horner steps: b_1 u + .. takes one more than b_0 + b_1 u + ..
        auto lower = [&](int j) __attribute__((always_inline)) {
            return offset && j == f.q - 1 ? splat(0.f) : f.b[f.q - 2 - j];
        };
        if (rest > 0) dden = den, den = offset && rest == 1 ? den * u : den * u + lower(0);
        for (int j = 1; j < rest; ++j)
            dden = dden * u + den, den = offset && j == rest - 1 ? den * u : den * u + lower(j);
        vf flip = flips ? sign(den) : splat(1.f);
        if (flips) den = vabs(den);
        den = denominator(f, den);
        vf inv = f.form == ACTSWAP_UNSAFE ? 1.f / den : reciprocal(den), gi = g * inv, y = num * inv;
        if (SUM) {
            // The powers of t serve P and Q: |t|^j is t^j for an even j, and its absolute value for an odd j.
            vf down = flips ? gi * y * flip : gi * y, power = t;
            sums[0] += gi;
            if (!offset) sums[f.p] -= down;
            const int first = f.p + !offset - 1;  // the sum of b_j is number f.p + j - 1, for form C f.p + j
            const int most = f.p - 1 > f.q - !offset ? f.p - 1 : f.q - !offset;
            for (int k = 1; k <= most; ++k) {
                if (k < f.p) sums[k] += gi * power;
                if (k <= f.q - !offset) sums[first + k] -= down * (absolute && k % 2 ? vabs(power) : power);
                if (k < most) power *= t;
            }
        }
        vf slope = y * dden;
        if (absolute) slope = with_sign_of(slope, t);
        else if (flips) slope *= flip;
        return Tails::gradient(f.tails, x, inside, g, gi * f.tails.inverse * (dnum - slope));
    }
};

// Table rows: c_0..c_k, d_1..d_l (|d_j| if SAFE), tails. Sums: the gradients of c and d; if SAFE, the signs of d are
// applied later. SAFE = -1 means that it is known at run time only.
// HERMITE: r[3n] is the same for all n and r[3n+1] is 0. The derivative f_n' = r[3n+2] f_{n-1} is the term that the
// recurrence subtracts.
template <int SAFE, int P, int Q, bool HERMITE> struct Orthogonal {
    static constexpr int MP = P ? P : 16, MQ = Q ? Q : 16, SUMS = P ? P + Q : 32, RUNTIME = !P, TILED = 1;
    static constexpr int MF = MP > MQ + 1 ? MP : MQ + 1;
    int p, q, f;
    bool safe;
    const float *recur;
    vf c[MP], d[MQ];
    Tails tails;
    INLINE void load(Orthogonal &o, const Table &t, int64_t ch, int n) {
        o.p = P ? P : t.p, o.q = P ? Q : t.q, o.recur = t.recur;
        o.safe = SAFE < 0 ? t.form == ACTSWAP_FORM_A : SAFE == 1;
        o.f = o.p > o.q + 1 ? o.p : o.q + 1;
        for (int i = 0; i < o.p; ++i) o.c[i] = Table::get(t, i, ch, n);
        for (int j = 0; j < o.q; ++j) o.d[j] = Table::get(t, o.p + j, ch, n);
        Tails::load(o.tails, t, o.p + o.q, ch, n);
    }
    // The factor of f_n in f_{n+1}.
    INLINE vf line(const Orthogonal &o, vf t, int n) {
        return HERMITE ? o.recur[0] * t : o.recur[3 * n] * t + o.recur[3 * n + 1];
    }
    // The recurrence begins with f_0 = 1 and f_1 = r[0] t + r[1], because its general step would multiply by 1 and 0.
    INLINE vf value(const Orthogonal &o, vf x) {
        vf inside = Tails::clamp(o.tails, x), t = inside * o.tails.inverse;
        vf before = splat(1.f), now = line(o, t, 0), num = o.c[0], den = splat(1.f);
        for (int n = 0; n + 1 < o.f; ++n) {
            if (n) {
                vf next = line(o, t, n) * now - o.recur[3 * n + 2] * before;
                before = now, now = next;
            }
            if (n + 1 < o.p) num += o.c[n + 1] * now;
            if (n < o.q) den += o.d[n] * (o.safe ? vabs(now) : now);
        }
        return num / den + Tails::outside(o.tails, x, inside);
    }
    template <bool SUM> INLINE vf gradient(const Orthogonal &o, vf x, vf g, vf *sums) {
        vf inside = Tails::clamp(o.tails, x), t = inside * o.tails.inverse;
        vf value[MF], before = splat(1.f), now = line(o, t, 0), dbefore = splat(0.f), dnow = splat(o.recur[0]);
        vf num = o.c[0], dnum = splat(0.f), den = splat(1.f), dden = splat(0.f);
        value[0] = before;
        for (int n = 0; n + 1 < o.f; ++n) {
            if (n) {
                vf next = line(o, t, n) * now - (HERMITE ? dnow : o.recur[3 * n + 2] * before), dnext;
                if (HERMITE) dnext = o.recur[3 * n + 5] * now;
                else dnext = line(o, t, n) * dnow + o.recur[3 * n] * now;
                if (!HERMITE && n > 1) dnext -= o.recur[3 * n + 2] * dbefore;
                before = now, now = next, dbefore = dnow, dnow = dnext;
            }
            value[n + 1] = now;
            if (n + 1 < o.p) num += o.c[n + 1] * now, dnum += o.c[n + 1] * dnow;
            if (n < o.q) {
                vf d = o.safe ? with_sign_of(o.d[n], now) : o.d[n];  // d |f_n| = d sign(f_n) f_n
                den += d * now, dden += d * dnow;
            }
        }
        vf inv = o.safe ? reciprocal(den) : 1.f / den, gi = g * inv, y = num * inv;
        if (SUM) {
            sums[0] += gi;
            for (int i = 1; i < o.p; ++i) sums[i] += gi * value[i];
            vf down = gi * y;
            for (int j = 0; j < o.q; ++j) sums[o.p + j] -= down * (o.safe ? vabs(value[j + 1]) : value[j + 1]);
        }
        return Tails::gradient(o.tails, x, inside, g, gi * o.tails.inverse * (dnum - y * dden));
    }
};

}  // namespace ACTSWAP_BUILD
