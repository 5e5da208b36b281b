/* The kernel core of actswap: trainable activations, forward and backward, as a C ABI.
 *
 * No framework and no thread library inside. A call is a plain struct; the work is a short list of phases, each a
 * range of independent units that the host may split over its own threads as it likes:
 *
 *     size_t bytes = actswap_workspace(&call);            // the host allocates it, 64-byte aligned
 *     for (int p = 0; p < actswap_phases(&call); ++p)     // phases in order, a barrier between two of them
 *         parallel_for(actswap_units(&call, p), [&](int64_t begin, int64_t end) {
 *             actswap_run(&call, work, p, begin, end);
 *         });
 *
 * Forward of an operator that does not pool writes the workspace in phase 0 alone, from its parameters: a host may keep
 * it, share it between threads, and leave phase 0 out of later calls with the same parameters and number of channels.
 *
 * The result has the same bits however the units are split. Arithmetic is float32 whatever the dtype, sums of
 * parameter gradients are float32 within a fixed chunk and float64 across chunks. y may be x (in place) when the
 * strides agree. Parameters and their gradients are float32 always, dense, in the shapes listed below.
 */
#ifndef ACTSWAP_KERNELS_H
#define ACTSWAP_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define ACTSWAP_API __declspec(dllexport)
#else
#define ACTSWAP_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define ACTSWAP_ABI 5
#define ACTSWAP_SLOTS 10

enum actswap_dtype { ACTSWAP_F32 = 0, ACTSWAP_BF16 = 1, ACTSWAP_F16 = 2 };

/* Operators with their parameter slots. C = groups * channels, H = hidden, K = pieces; j runs a1..aK, b1..bK.
 * A slot marked (C) may hold a single value instead, said by its bit in `shared`; a (C, n) slot then holds (1, n).
 * A slot marked "or NULL" has the constant in brackets when absent.
 *
 *   ACON      y = (p1-p2) x sigmoid(beta (p1-p2) x) + p2 x. 0 p1 (C) or NULL [1], 1 p2 (C) or NULL [0],
 *             2 beta (C) or NULL [1]. Swish: p1 = p2 = NULL. ACON-B: p1 = NULL, p2 = p.
 *   META_ACON ACON with beta = scale * sigmoid(w2 (w1 m + b1) + b2) per sample, m the mean over `inner`.
 *             0 p1 (C), 1 p2 (C), 2 scale (C) or NULL [1], 3 w1 (H, C), 4 b1 (H) or NULL [0], 5 w2 (C, H),
 *             6 b2 (C) or NULL [0].
 *             9 of both gated operators: w2 once more, turned to (H, rows of w2), or NULL: forward of a batch of
 *             one is faster with it, and reads only the rows of hidden units that are not 0.
 *   DY_RELU   y = max_k(a_k x + b_k), coef = init + lambda_j * (2 sigmoid(w2 relu(w1 m + b1) + b2) - 1).
 *             0 w1 (H, C), 1 b1 (H), 2 w2 (2K*C, H), 3 b2 (2K*C), 4 init (2K, C), 5 lambdas (2K);
 *             variant A (one set of lines for all channels): ACTSWAP_SPATIAL_ALL, w2 (2K, H), b2 (2K), init (2K, 1).
 *             Variant C: ACTSWAP_ATTENTION, y times gain min(inner/3 softmax((ws . x + bs) / tau), 1) of the position;
 *             6 ws (C), 7 bs (1) or NULL: no part in the result, its gradient is 0, 8 tau and gain (2), no gradient.
 *   PAU       t = clamp(x, lo, hi) / s, y = P(t)/Q(t) + slope_lo * min(x-lo, 0) + slope_hi * max(x-hi, 0).
 *             0 a (C, degree_p + 1), 1 b (C, degree_q) or for form C (C, degree_q + 1),
 *             2 tails (C, 5) = s, lo, hi, slope_lo, slope_hi.
 *   OPAU      the same in an orthogonal basis: 0 c (C, degree_p + 1), 1 d (C, degree_q), 2 tails (C, 5);
 *             Q = 1 + sum_{j>=1} |d_j| |f_j(t)| (form A, safe) or 1 + sum d_j f_j(t) (form unsafe).
 */
enum actswap_op {
    ACTSWAP_ACON = 0,
    ACTSWAP_META_ACON = 1,
    ACTSWAP_DY_RELU = 2,
    ACTSWAP_PAU = 3,
    ACTSWAP_OPAU = 4
};

/* PAU: UNSAFE Q = 1 + sum b_j t^j; A 1 + sum |b_j t^j|; B 1 + |sum b_j t^j|; C 0.1 + |sum from j = 0|. */
enum actswap_form { ACTSWAP_UNSAFE = 0, ACTSWAP_FORM_A = 1, ACTSWAP_FORM_B = 2, ACTSWAP_FORM_C = 3 };

enum actswap_basis {
    ACTSWAP_CHEBYSHEV_T = 0,
    ACTSWAP_CHEBYSHEV_U = 1,
    ACTSWAP_LEGENDRE = 2,
    ACTSWAP_LAGUERRE = 3,
    ACTSWAP_HERMITE_PROB = 4,
    ACTSWAP_HERMITE_PHYS = 5
};

enum actswap_flags {
    ACTSWAP_BACKWARD = 1,    /* compute grad_x and the grad_param slots that are not NULL; y is not touched */
    ACTSWAP_SPATIAL_ALL = 2, /* DY_RELU variant A */
    ACTSWAP_SPLIT = 4,       /* META_ACON, DY_RELU: phases over planes instead of samples (few samples, many threads) */
    ACTSWAP_ATTENTION = 8,   /* DY_RELU variant C */
    ACTSWAP_CAPPED = 16      /* forward: y = min(y, cap); NaN stays */
};

/* A convolution on NCHWc blocks of B = 8 or 16 channels, float32, that makes what the activation of its call takes:
 * x = conv + bias + sum. It is worked off in pieces that the activation finds in the cache. Of samples, heights and
 * positions there is nothing between two in memory.
 */
typedef struct actswap_convolution {
    const float *x;      /* (batch, inputs / B, height, width, B) */
    const float *weight; /* (groups, inputs / B, kernel, B inputs, B outputs); depthwise: (groups, kernel, B) */
    const float *bias;   /* (C) */
    const float *sum;    /* of y's shape and strides, or NULL; may be y */
    int64_t inputs;      /* channels of x; 0 for a depthwise convolution, which has as many as the call */
    int64_t height, width, out_width;     /* of x, and of y, whose positions are the call's `inner` */
    int64_t kernel[2], stride[2], pad[2]; /* rows, columns; pad above and on the left. Dense ones are 1 x 1 with a
                                             stride of 1, or 3 x 3 with one stride of 1 or 2 and no pad over 1 */
    int64_t x_size, weight_size, bias_size, sum_size; /* numbers behind the pointers; checked against the sizes above */
} actswap_convolution;

/* A tensor is [batch][groups][channels][inner] with strides in elements, of which either the inner or the channel
 * stride is 1. NCHW: groups 1, inner H*W, strides (C*H*W, 0, H*W, 1). Channels-last and NLC: groups 1, inner H*W,
 * strides (H*W*C, 0, 1, C). NCHWc blocks of 16: groups C/16, channels 16, strides (C*H*W, 16*H*W, 1, 16).
 * Channel index of the parameters: group * channels + channel. Parameters per layer: groups = channels = 1.
 */
typedef struct actswap_call {
    uint32_t abi;        /* ACTSWAP_ABI */
    int32_t op;          /* enum actswap_op */
    int32_t dtype;       /* enum actswap_dtype of x, y, grad_y, grad_x */
    int32_t flags;       /* enum actswap_flags */
    int32_t form;        /* enum actswap_form */
    int32_t basis;       /* enum actswap_basis */
    int32_t degree_p;    /* numerator degree, at most 15 */
    int32_t degree_q;    /* denominator degree, at most 15 */
    int32_t hidden;      /* H */
    int32_t pieces;      /* K, at most 4 */
    uint32_t shared;     /* bit i: parameter slot i holds one value (or one row) for all channels */
    float cap;           /* with ACTSWAP_CAPPED: forward computes min(y, cap) */
    int32_t pooled;      /* not 0, forward of META_ACON and DY_RELU: the means are not made of x, they are given in
                            `mean`, (batch, pooled), and the first weights are (H, pooled) */
    int64_t batch, groups, channels, inner;
    int64_t x_stride[4]; /* batch, group, channel, inner; the same layout (which one is 1) in all tensors */
    int64_t y_stride[4]; /* of y, and of grad_x in backward */
    int64_t g_stride[4]; /* of grad_y */
    const void *x;
    void *y;             /* forward: y; backward: grad_x (META_ACON, DY_RELU: or NULL where not wanted) */
    const void *grad_y;
    float *mean;         /* META_ACON, DY_RELU, (batch, C), then for ACTSWAP_ATTENTION the softmax, (batch, inner):
                            written by forward where not NULL, unless `pooled` says that they are given; read by
                            backward, which computes it again where NULL */
    const float *param[ACTSWAP_SLOTS];
    float *grad_param[ACTSWAP_SLOTS]; /* same shapes as param; NULL where not wanted */
    const actswap_convolution *convolution; /* or NULL; forward without attention, y must be x, in blocks of B channels
                                               without gaps between the positions */
    int64_t x_size, y_size, g_size; /* elements from x, y and grad_y on that are theirs */
    int64_t mean_size;              /* numbers behind `mean` */
    int64_t param_size[ACTSWAP_SLOTS]; /* numbers behind each parameter, and behind its gradient if that is wanted */
} actswap_call;

/* "" if the call can be run, else what is wrong with it, in words. If the pointers and sizes are true, then a call that
 * passes reads and writes only what is behind them; the other functions rely on that and check nothing again. */
ACTSWAP_API const char *actswap_check(const actswap_call *call);
ACTSWAP_API size_t actswap_workspace(const actswap_call *call);
ACTSWAP_API int actswap_phases(const actswap_call *call);
ACTSWAP_API int64_t actswap_units(const actswap_call *call, int phase);
ACTSWAP_API void actswap_run(const actswap_call *call, void *work, int phase, int64_t begin, int64_t end);

/* Instruction set in use: "avx512bf16", "avx512", "avx2", "base" (SSE2 or NEON). The environment variable ACTSWAP_ISA names
 * one to use instead; one that the processor lacks is not taken. */
ACTSWAP_API const char *actswap_isa(void);

#ifdef __cplusplus
}
#endif
#endif
