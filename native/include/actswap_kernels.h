// The kernel core of actswap: trainable activations, forward and backward, as a C ABI. This header is C99 and C++.
//
// The core contains no framework and no thread library. A call is a plain struct. Its work is a short list of phases.
// Each phase is a range of independent units that the host may split over its own threads as it likes:
//
//     size_t bytes = actswap_workspace(&call);            // the host allocates it, 64-byte aligned
//     for (int p = 0; p < actswap_phases(&call); ++p)     // phases in order, a barrier between two of them
//         parallel_for(actswap_units(&call, p), [&](int64_t begin, int64_t end) {
//             actswap_run(&call, work, p, begin, end);
//         });
//
// Forward of an operator that does not pool writes the workspace in phase 0 only, from the parameters. A host may
// therefore keep the workspace, share it between threads, and skip phase 0 in later calls that have the same parameters
// and number of channels.
//
// The result has the same bits however the units are split. Arithmetic is float32 for every dtype. Sums of parameter
// gradients are float32 within a fixed chunk and float64 across chunks. y may be x (in place) if their strides agree.
// Parameters and their gradients are always float32 and dense, in the shapes listed below.
#pragma once

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

// Operators with their parameter slots. C = groups * channels, H = hidden, K = pieces; j runs over a1..aK, b1..bK.
// A slot marked (C) may hold one value for all channels; its bit in `shared` says so. A (C, n) slot then holds (1, n).
// A slot marked "or NULL" has the constant in brackets if it is NULL.
//
//   ACON      y = (p1-p2) x sigmoid(beta (p1-p2) x) + p2 x. 0 p1 (C) or NULL [1], 1 p2 (C) or NULL [0],
//             2 beta (C) or NULL [1]. Swish: p1 = p2 = NULL. ACON-B: p1 = NULL, p2 = p.
//   META_ACON ACON with beta = scale * sigmoid(w2 (w1 m + b1) + b2) per sample, m the mean over `inner`.
//             0 p1 (C), 1 p2 (C), 2 scale (C) or NULL [1], 3 w1 (H, C), 4 b1 (H) or NULL [0], 5 w2 (C, H),
//             6 b2 (C) or NULL [0].
//             9 of both gated operators: w2 transposed, (H, rows of w2), or NULL. It makes forward of a batch of one
//             faster: only the rows of hidden units that are not 0 are read.
//   DY_RELU   y = max_k(a_k x + b_k), coef = init + lambda_j * (2 sigmoid(w2 relu(w1 m + b1) + b2) - 1).
//             0 w1 (H, C), 1 b1 (H), 2 w2 (2K*C, H), 3 b2 (2K*C), 4 init (2K, C), 5 lambdas (2K).
//             Variant A (one set of lines for all channels): ACTSWAP_SPATIAL_ALL, w2 (2K, H), b2 (2K), init (2K, 1).
//             Variant C: ACTSWAP_ATTENTION, y times gain min(inner/3 softmax((ws . x + bs) / tau), 1) of the position;
//             6 ws (C), 7 bs (1) or NULL, 8 tau and gain (2). bs does not change the result, so its gradient is 0;
//             tau and gain have no gradient.
//   PAU       t = clamp(x, lo, hi) / s, y = P(t)/Q(t) + slope_lo * min(x-lo, 0) + slope_hi * max(x-hi, 0).
//             0 a (C, degree_p + 1), 1 b (C, degree_q), for form C (C, degree_q + 1),
//             2 tails (C, 5) = s, lo, hi, slope_lo, slope_hi.
//   OPAU      the same in an orthogonal basis: 0 c (C, degree_p + 1), 1 d (C, degree_q), 2 tails (C, 5);
//             Q = 1 + sum_{j>=1} |d_j| |f_j(t)| (form A, safe) or 1 + sum d_j f_j(t) (form unsafe).
enum actswap_op {
    ACTSWAP_ACON = 0,
    ACTSWAP_META_ACON = 1,
    ACTSWAP_DY_RELU = 2,
    ACTSWAP_PAU = 3,
    ACTSWAP_OPAU = 4
};

// Q of a PAU: UNSAFE 1 + sum b_j t^j; A 1 + sum |b_j t^j|; B 1 + |sum b_j t^j|; C 0.1 + |sum b_j t^j from j = 0|.
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
    ACTSWAP_BACKWARD = 1,     // compute grad_x and the grad_param slots that are not NULL; y is not computed
    ACTSWAP_SPATIAL_ALL = 2,  // DY_RELU variant A
    ACTSWAP_SPLIT = 4,        // META_ACON, DY_RELU: phases over planes instead of samples (few samples, many threads)
    ACTSWAP_ATTENTION = 8,    // DY_RELU variant C
    ACTSWAP_CAPPED = 16       // forward: y = min(y, cap); NaN stays
};

// A convolution whose result, x = conv + bias + sum, is the input of the call's activation. Tensors are float32, in
// NCHWc blocks of B = 8 or 16 channels. The work is done piece by piece, so that the activation finds each piece in the
// cache. Samples, rows and positions are contiguous in memory.
typedef struct actswap_convolution {
    const float *x;       // (batch, inputs / B, height, width, B)
    const float *weight;  // (groups, inputs / B, kernel, B inputs, B outputs); depthwise: (groups, kernel, B)
    const float *bias;    // (C)
    const float *sum;     // of y's shape and strides, or NULL; may be y
    int64_t inputs;       // channels of x; 0 for a depthwise convolution, which has as many as the call
    int64_t height, width, out_width;  // of x, and of y, whose positions are the call's `inner`
    // Rows, columns; pad above and on the left. A dense kernel is 1 x 1 with stride 1, or 3 x 3 with the same stride,
    // 1 or 2, on both axes and a pad of at most 1.
    int64_t kernel[2], stride[2], pad[2];
    int64_t x_size, weight_size, bias_size, sum_size;  // numbers behind the pointers; checked against the sizes above
} actswap_convolution;

// A tensor is [batch][groups][channels][inner] with strides in elements; the inner or the channel stride is 1.
// NCHW: groups 1, inner H*W, strides (C*H*W, 0, H*W, 1). Channels-last and NLC: groups 1, inner H*W, strides
// (H*W*C, 0, 1, C). NCHWc blocks of 16: groups C/16, channels 16, strides (C*H*W, 16*H*W, 1, 16).
// Channel index of the parameters: group * channels + channel. Parameters per layer: groups = channels = 1.
typedef struct actswap_call {
    uint32_t abi;      // ACTSWAP_ABI
    int32_t op;        // enum actswap_op
    int32_t dtype;     // enum actswap_dtype of x, y, grad_y, grad_x
    int32_t flags;     // enum actswap_flags
    int32_t form;      // enum actswap_form
    int32_t basis;     // enum actswap_basis
    int32_t degree_p;  // numerator degree, at most 15
    int32_t degree_q;  // denominator degree, at most 15
    int32_t hidden;    // H
    int32_t pieces;    // K, at most 4
    uint32_t shared;   // bit i: parameter slot i holds one value (or one row) for all channels
    float cap;         // with ACTSWAP_CAPPED: forward computes min(y, cap)
    // Forward of META_ACON and DY_RELU, if not 0: the means are not computed from x. The caller gives them in `mean`,
    // (batch, pooled), and the first weights are (H, pooled).
    int32_t pooled;
    int64_t batch, groups, channels, inner;
    int64_t x_stride[4];  // batch, group, channel, inner; the axis of stride 1 is the same in all tensors
    int64_t y_stride[4];  // of y, and of grad_x in backward
    int64_t g_stride[4];  // of grad_y
    const void *x;
    void *y;  // forward: y; backward: grad_x (META_ACON, DY_RELU: NULL if not wanted)
    const void *grad_y;
    // META_ACON, DY_RELU: the means, (batch, C), followed for ACTSWAP_ATTENTION by the softmax, (batch, inner).
    // Forward writes them if this is not NULL, unless `pooled` says that they are given. Backward reads them, and
    // computes them again if this is NULL.
    float *mean;
    const float *param[ACTSWAP_SLOTS];
    float *grad_param[ACTSWAP_SLOTS];  // same shapes as param; NULL if not wanted
    // Or NULL. Only for forward without attention; y must be x, in blocks of B channels without gaps between positions.
    const actswap_convolution *convolution;
    int64_t x_size, y_size, g_size;     // elements that may be accessed from x, y and grad_y on
    int64_t mean_size;                  // numbers behind `mean`
    int64_t param_size[ACTSWAP_SLOTS];  // numbers behind each parameter, and behind its gradient if that is wanted
} actswap_call;

// Returns "" if the call can be run, else what is wrong with it. If the pointers and sizes are true, a call that passes
// accesses only the memory behind them. The other functions rely on this check and do not repeat it.
ACTSWAP_API const char *actswap_check(const actswap_call *call);
ACTSWAP_API size_t actswap_workspace(const actswap_call *call);
ACTSWAP_API int actswap_phases(const actswap_call *call);
ACTSWAP_API int64_t actswap_units(const actswap_call *call, int phase);
ACTSWAP_API void actswap_run(const actswap_call *call, void *work, int phase, int64_t begin, int64_t end);

// Returns the instruction set in use: "avx512bf16", "avx512", "avx2" or "base" (SSE2 or NEON). The environment variable
// ACTSWAP_ISA chooses another; it is ignored if the processor lacks that one.
ACTSWAP_API const char *actswap_isa(void);

#ifdef __cplusplus
}
#endif
