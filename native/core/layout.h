// The layout of a call: its split into units and the offsets in its workspace. This is plain arithmetic, shared by the
// dispatcher and by every instruction-set build.
#pragma once
#include "actswap_kernels.h"

namespace actswap {

constexpr int64_t CHUNK = 8192;  // elements of one unit; fixed, so that the bits of a sum do not depend on threads
constexpr int64_t SHORT = 128;  // most positions of a short plane
constexpr int64_t TOGETHER = 4 * CHUNK;  // elements of a tile's samples if they share their sums

struct Layout {
    bool planar;       // inner stride 1 (NCHW), else channel stride 1 (NHWC, blocks)
    bool tiled;        // planar, short planes: tiles of W channels; not for DY-ReLU, which is bound by memory anyway
    bool gated;        // coefficients depend on the sample's mean
    bool attended;     // each position has a factor too: units are positions with all their channels
    int64_t C, padded; // channels of the parameters, and padded to whole vectors
    int table, sums;   // rows of the parameter table, and of the parameter gradients
    int64_t span;      // planar: positions per chunk; else rows per chunk
    int64_t chunks;    // chunks of one plane, or of one group's rows
    int64_t planes;    // planar: planes per unit (1 if chunks > 1)
    int64_t stack;     // samples of one unit
    int64_t per_sample;  // units of one sample, or of one stack
    int64_t rows;      // of partial sums, for each sum
    int64_t block;     // gated: samples of one unit
    int64_t R;         // gated: rows of w2
    int64_t together;  // with a convolution: groups of one unit
    // offsets in the workspace, in floats
    int64_t at_table, at_partial, at_total, at_mean, at_hidden, at_branch, at_dz, at_dh, at_dm;
    int64_t at_score, at_factor, at_slope, size;
};

// static: the linker must not replace another build's copy by one that is compiled for more instructions.
static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

static inline Layout layout_of(const actswap_call &c) {
    Layout l = {};
    const bool back = c.flags & ACTSWAP_BACKWARD;
    l.planar = c.x_stride[3] == 1;
    l.stack = 1;
    l.gated = c.op == ACTSWAP_META_ACON || c.op == ACTSWAP_DY_RELU;
    l.attended = c.op == ACTSWAP_DY_RELU && c.flags & ACTSWAP_ATTENTION;
    l.C = c.groups * c.channels;
    l.padded = ceil_div(l.C, 16) * 16 + 16;
    int p = c.degree_p + 1, q = c.degree_q + (c.op == ACTSWAP_PAU && c.form == ACTSWAP_FORM_C);
    switch (c.op) {
        case ACTSWAP_ACON:
        case ACTSWAP_META_ACON: l.table = 4, l.sums = 3; break;
        case ACTSWAP_DY_RELU: l.table = l.sums = 2 * c.pieces; break;
        default: l.table = p + q + 5, l.sums = p + q;
    }
    if (l.planar && l.attended) {
        l.span = CHUNK / 8;  // all that belongs to a few positions stays in the first-level cache
        l.chunks = larger(1, ceil_div(c.inner, l.span));
        l.planes = l.C;
        l.per_sample = l.chunks;
    } else if (l.planar) {
        l.span = CHUNK;
        l.chunks = larger(1, ceil_div(c.inner, CHUNK));
        l.planes = l.chunks > 1 ? 1 : larger(1, CHUNK / larger(1, c.inner));
        l.tiled = c.groups == 1 && c.channels >= 16 && c.inner <= SHORT && c.op != ACTSWAP_DY_RELU;
        if (l.tiled && back && !l.gated) {
            l.stack = larger(1, smaller(32, TOGETHER / (16 * c.inner)));
            l.stack = ceil_div(c.batch, ceil_div(c.batch, l.stack));
            l.planes = 16;
        }
        if (l.planes > 16) l.planes = l.planes / 16 * 16;
        l.per_sample = l.chunks > 1 ? l.C * l.chunks : ceil_div(l.C, l.planes);
    } else {
        l.span = larger(ceil_div(c.inner, 64), CHUNK / larger(1, c.channels));
        // The sums of a chunk are written and read once more. At least eight rows for each sum pay for that, unless
        // they leave too few units.
        if (back) l.span = larger(l.span, smaller(8 * l.sums, ceil_div(c.inner * c.batch, 32)));
        l.span = larger(8, ceil_div(l.span, 8) * 8);
        if (c.convolution) {  // whole tiles, or whole rows of them
            const bool rows = !c.convolution->inputs || c.convolution->kernel[0] > 1;
            const int64_t tiles = rows ? c.convolution->out_width : 14;
            l.span = larger(1, l.span / tiles) * tiles;
        }
        l.chunks = larger(1, ceil_div(c.inner, l.span));
        l.planes = 1;
        l.per_sample = (l.attended ? 1 : c.groups) * l.chunks;
    }
    l.R = c.op == ACTSWAP_META_ACON ? l.C : 2 * c.pieces * (c.flags & ACTSWAP_SPATIAL_ALL ? 1 : l.C);
    l.together = 4;
    // One unit holds as many samples as fit in half a megabyte, or more if the weights are large: reading them should
    // cost at most an eighth of reading x.
    const int64_t weights = c.hidden * (l.C + l.R), sample = larger(1, l.C * c.inner);
    l.block = larger(1, smaller(32, larger(1 << 17, 8 * weights) / sample));
    if (l.block > 4) l.block = l.block / 4 * 4;

    l.rows = ceil_div(c.batch, l.stack) * l.chunks;
    int64_t sets = l.gated ? c.batch : 1, at = 0;
    auto take = [&at](int64_t n) {
        int64_t here = at;
        at += ceil_div(n, 16) * 16;
        return here;
    };
    l.at_table = take(sets * l.table * l.padded);
    l.at_partial = back || l.gated ? take((back ? l.sums + l.attended : 1) * l.rows * l.padded) : 0;
    l.at_total = back ? take(sets * l.sums * l.padded * 2) : 0;
    if (l.gated) {
        l.at_mean = take(c.mean ? 0 : c.batch * l.C);
        l.at_hidden = take(c.batch * c.hidden);
        l.at_branch = take(c.batch * l.R);
        l.at_dz = back ? take(c.batch * l.R) : 0;
        l.at_dh = back ? take(c.batch * c.hidden) : 0;
        l.at_dm = back ? take(c.batch * l.padded) : 0;
    }
    if (l.attended) {
        l.at_score = take(c.mean ? 0 : c.batch * c.inner);
        l.at_factor = take(c.batch * c.inner);
        l.at_slope = take(back ? c.batch * c.inner : 0);
    }
    l.size = at;
    return l;
}

// The limits of an ACON at x = -inf and x = +inf, as a table of VFIXUPIMMPS. The limit is that of the greater line; of
// the lesser line if beta < 0; of their mean if beta or the difference is 0. A line of slope 0 stays 0. If a parameter
// is NaN, so is the result. F is float and I int32_t, or both are vectors.
template <class I, class F> static inline I at_infinity(F d, F p2, F bd) {
    const I keep = I{}, below = keep + 4, above = keep + 5, zero = keep + 8;
    auto entry = [&](float side) {
        const F z = bd * side, none = F{}, half = none + 0.5f, one = none + 1.f;
        const F y = side * (d * (z > 0 ? one : (z < 0 ? none : half)) + p2);
        return (bd != bd) | (y != y) ? keep : (y > 0 ? above : (y < 0 ? below : zero));
    };
    return entry(-1) << 16 | entry(1) << 20;  // entries of four bits by class of x: -inf is number 4, +inf number 5
}

// Three-term recurrence of a basis: f_{n+1} = (r[3n] t + r[3n+1]) f_n - r[3n+2] f_{n-1}, n = 0..15.
const float *recurrence(int basis);

// What one pass over the elements computes. BOTH: grad_x and the sums. GRADIENT: grad_x with the mean's share.
// ADD: grad_x += the mean's share.
enum Mode { FORWARD, MEAN, SUMS, GRADIENT, BOTH, ADD };

// The functions of an instruction-set build.
struct Build {
    const char *name;
    int width;  // floats of a vector
    void (*apply)(const actswap_call &, const Layout &, float *work, Mode, int64_t unit, int64_t end);
    void (*convolve)(const actswap_call &, const Layout &, float *work, Mode, int64_t unit, int64_t end);
    void (*total)(const actswap_call &, const Layout &, float *work, int64_t sample, int64_t end);
    void (*mean)(const actswap_call &, const Layout &, float *work, int64_t sample, int64_t end);
    void (*branch)(const actswap_call &, const Layout &, float *work, int64_t sample, int64_t end);
    void (*branch_back)(const actswap_call &, const Layout &, float *work, int64_t sample, int64_t end);
    double (*over_samples)(const actswap_call &, const Layout &, float *work, int k, const float *factor, int64_t step,
                           bool uniform, bool weighted);
    void (*weights)(const actswap_call &, const Layout &, float *work, int64_t row, int64_t end);
};

}  // namespace actswap
