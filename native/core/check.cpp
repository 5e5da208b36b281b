#include "check.h"

#include <initializer_list>

namespace actswap {
namespace {

// Elements of a tensor and floats of a workspace up to which no offset, in bytes either, leaves 64 bits.
constexpr int64_t LARGEST = (int64_t)1 << 48;

// A product of numbers that are not negative; more than LARGEST if it is too large, so that comparisons fail.
int64_t times(int64_t a, int64_t b) {
    int64_t product;
    return __builtin_mul_overflow(a, b, &product) ? INT64_MAX : product;
}

bool shared(const actswap_call &c, int slot) { return c.shared >> slot & 1; }

// The parameters' channels.
int64_t width_of(const actswap_call &c) { return c.groups * c.channels; }

// True if a slot holds `count` numbers. A slot that may be missing may be NULL.
bool holds(const actswap_call &c, int slot, int64_t count, bool may_miss = false) {
    return c.param[slot] ? c.param_size[slot] == count : may_miss && !c.grad_param[slot];
}

// True if a slot holds `each` numbers for every channel, or once for all channels.
bool per_channel(const actswap_call &c, int slot, int64_t each, bool may_miss = false) {
    return holds(c, slot, shared(c, slot) ? each : times(each, width_of(c)), may_miss);
}

// True if all elements of a tensor lie within its first `size` elements.
bool reaches(const actswap_call &c, const int64_t *stride, int64_t size) {
    const int64_t extent[4] = {c.batch, c.groups, c.channels, c.inner};
    int64_t last = 0;
    for (int i = 0; i < 4; ++i) {
        if (stride[i] < 0 || stride[i] > LARGEST) return false;
        const int64_t far = times(extent[i] - 1, stride[i]);
        if (far > LARGEST) return false;
        last += far;
    }
    return last < size;
}

const char *check_tensors(const actswap_call &c) {
    if (c.batch < 1 || c.groups < 1 || c.channels < 1 || c.inner < 1) return "every extent must be positive";
    if (times(times(c.batch, c.groups), times(c.channels, c.inner)) > LARGEST) return "the tensor is too large";
    const bool back = c.flags & ACTSWAP_BACKWARD, gated = c.op == ACTSWAP_META_ACON || c.op == ACTSWAP_DY_RELU;
    for (const int64_t *strides : {c.x_stride, c.y_stride, c.g_stride})  // they are multiplied, if only to fetch ahead
        for (int i = 0; i < 4; ++i)
            if (strides[i] < 0 || strides[i] > LARGEST) return "a stride is out of range";
    const int dense = c.x_stride[3] == 1 ? 3 : 2;
    if (c.x_stride[dense] != 1 || c.y_stride[dense] != 1 || (back && c.g_stride[dense] != 1))
        return "the inner axis of all tensors, or the channel axis of all, must have stride 1";
    if (!c.x || (!c.y && !(gated && back))) return "x or y is missing";
    if (back && !c.grad_y) return "the gradient of y is missing";
    if (!reaches(c, c.x_stride, c.x_size) || (c.y && !reaches(c, c.y_stride, c.y_size)) ||
        (back && !reaches(c, c.g_stride, c.g_size)))
        return "the strides lead out of a tensor";
    const int64_t extent[4] = {c.batch, c.groups, c.channels, c.inner};
    for (int i = 0; c.y && i < 4; ++i) {
        if (extent[i] > 1 && c.y_stride[i] == 0) return "two elements of y are in one place";
        if (c.x == c.y && c.x_stride[i] != c.y_stride[i]) return "y in the place of x has other strides";
    }
    return nullptr;
}

const char *check_acon(const actswap_call &c) {
    for (int slot = 0; slot < 3; ++slot)
        if (!per_channel(c, slot, 1, true)) return "a parameter has neither one value nor one for each channel";
    return nullptr;
}

// The checks that meta-ACON and DY-ReLU share: the two layers of the gate, the mean, and the size of the workspace.
const char *check_gate(const actswap_call &c, int first, int64_t rows) {
    const bool attended = c.flags & ACTSWAP_ATTENTION;
    if (c.hidden < 1) return "hidden must be positive";
    if (c.pooled < 0 || (c.pooled && (!c.mean || c.flags & (ACTSWAP_BACKWARD | ACTSWAP_ATTENTION))))
        return "means are given to forward without attention alone";
    const int64_t pooled = c.pooled ? c.pooled : width_of(c);
    if (!holds(c, first, times(c.hidden, pooled)) || !holds(c, first + 1, c.hidden, true))
        return "the first weights or biases of the gate are missing or have another size";
    if (!holds(c, first + 2, times(rows, c.hidden)) || !holds(c, first + 3, rows, true))
        return "the second weights or biases of the gate are missing or have another size";
    if (!holds(c, 9, times(rows, c.hidden), true)) return "the turned weights have another size";
    if (c.mean && c.mean_size != times(c.batch, pooled) + (attended ? c.batch * c.inner : 0))
        return "the means have another size";
    const int64_t values = times(32, width_of(c)) + times(8, rows) + times(8, c.hidden);
    if (times(c.batch, values) > LARGEST) return "the gate is too large";
    return nullptr;
}

const char *check_meta_acon(const actswap_call &c) {
    if (const char *wrong = check_acon(c)) return wrong;
    return check_gate(c, 3, width_of(c));
}

const char *check_dy_relu(const actswap_call &c) {
    if (c.pieces < 1 || c.pieces > 4) return "pieces must be 1..4";
    const bool all = c.flags & ACTSWAP_SPATIAL_ALL;
    const int64_t lines = 2 * c.pieces;
    if (const char *wrong = check_gate(c, 0, lines * (all ? 1 : width_of(c)))) return wrong;
    if (!holds(c, 4, lines * (all || shared(c, 4) ? 1 : width_of(c))) || !holds(c, 5, lines))
        return "init or lambdas is missing or has another size";
    if (!(c.flags & ACTSWAP_ATTENTION)) return nullptr;
    if (!per_channel(c, 6, 1) || !holds(c, 7, 1, true) || !holds(c, 8, 2))
        return "the attention's weights, its bias, or its temperature and gain are missing or have another size";
    return nullptr;
}

const char *check_rational(const actswap_call &c) {
    if (c.degree_p < 0 || c.degree_p > 15 || c.degree_q < 0 || c.degree_q > 15) return "a degree is outside 0..15";
    const int64_t q = c.degree_q + (c.op == ACTSWAP_PAU && c.form == ACTSWAP_FORM_C);
    if (q > 15) return "a degree is outside 0..15";
    if (c.form < ACTSWAP_UNSAFE || c.form > ACTSWAP_FORM_C) return "unknown form";
    if (c.op == ACTSWAP_OPAU && c.form > ACTSWAP_FORM_A) return "OPAU has the forms unsafe and A";
    if (c.basis < 0 || c.basis > ACTSWAP_HERMITE_PHYS) return "unknown basis";
    if (!per_channel(c, 0, c.degree_p + 1) || !per_channel(c, 1, q, q == 0) || !per_channel(c, 2, 5))
        return "coefficients or tails are missing or have another size than the degrees and channels say";
    return nullptr;
}

const char *check_picture(const actswap_call &c, const actswap_convolution &conv) {
    const int64_t most = 1 << 24;
    if (conv.height < 1 || conv.width < 1 || conv.out_width < 1 || conv.height > most || conv.width > most ||
        c.inner % conv.out_width)
        return "the positions do not suit the pictures of the convolution";
    const int64_t out_height = c.inner / conv.out_width;
    const bool same = conv.kernel[0] == conv.kernel[1] && conv.stride[0] == conv.stride[1];
    const bool three = same && conv.kernel[0] == 3 && (conv.stride[0] == 1 || conv.stride[0] == 2);
    const bool one = same && conv.kernel[0] == 1 && conv.stride[0] == 1 && c.inner == conv.height * conv.width;
    if (conv.inputs && !three && !one)
        return "a convolution that is not depthwise is 1 x 1, or 3 x 3 with a stride of 1 or 2";
    for (int i = 0; i < 2; ++i) {
        const int64_t size = i ? conv.width : conv.height, out = i ? conv.out_width : out_height;
        if (conv.kernel[i] < 1 || conv.kernel[i] > most || conv.stride[i] < 1 || conv.stride[i] > most || out > most)
            return "the kernel or the stride of the convolution is out of range";
        const int64_t beside = !conv.inputs ? 3 * conv.stride[i] : three;  // how far a row may see
        if (conv.pad[i] < 0 || conv.pad[i] > beside ||
            (out - 1) * conv.stride[i] + conv.kernel[i] - conv.pad[i] > size + beside)
            return "the kernel does not suit the pictures of the convolution, or sees too far beside them";
    }
    return nullptr;
}

const char *check_convolution(const actswap_call &c, const actswap_convolution &conv, int width) {
    const int64_t block = c.channels;
    if (c.flags & (ACTSWAP_BACKWARD | ACTSWAP_ATTENTION) || c.dtype != ACTSWAP_F32 || c.x != c.y)
        return "a convolution goes with forward of float32, in place, without attention";
    if ((block != 8 && block != 16) || block < width || c.x_stride[2] != 1 || c.x_stride[3] != block)
        return "a convolution takes blocks of 8 or 16 channels, and no fewer than a vector has";
    if (!conv.x || !conv.weight || !conv.bias) return "a part of the convolution is missing";
    if (conv.inputs < 0 || conv.inputs % block) return "a convolution takes whole blocks";
    if (const char *wrong = check_picture(c, conv)) return wrong;
    const int64_t C = width_of(c), kernel = times(conv.kernel[0], conv.kernel[1]);
    const int64_t inputs = conv.inputs ? conv.inputs : C, each = conv.inputs ? conv.inputs : 1;
    if (conv.x_size != times(times(c.batch, inputs), conv.height * conv.width))
        return "the input of the convolution has another size";
    if (conv.weight_size != times(C, times(each, kernel)) || conv.bias_size != C)
        return "the weights or biases of the convolution have another size";
    if (conv.sum && !reaches(c, c.y_stride, conv.sum_size)) return "what the convolution adds has another size";
    return nullptr;
}

const char *check_operator(const actswap_call &c) {
    switch (c.op) {
        case ACTSWAP_ACON: return check_acon(c);
        case ACTSWAP_META_ACON: return check_meta_acon(c);
        case ACTSWAP_DY_RELU: return check_dy_relu(c);
        case ACTSWAP_PAU:
        case ACTSWAP_OPAU: return check_rational(c);
        default: return "unknown operator";
    }
}

}  // namespace

const char *check(const actswap_call &c, int width) {
    constexpr int FLAGS =
        ACTSWAP_BACKWARD | ACTSWAP_SPATIAL_ALL | ACTSWAP_SPLIT | ACTSWAP_ATTENTION | ACTSWAP_CAPPED;
    if (c.abi != ACTSWAP_ABI) return "the call was built for another version of the kernel library";
    if (c.dtype < ACTSWAP_F32 || c.dtype > ACTSWAP_F16) return "unknown dtype";
    if (c.flags & ~FLAGS) return "unknown flags";
    if (c.flags & ACTSWAP_BACKWARD && c.flags & ACTSWAP_CAPPED) return "a cap goes with forward alone";
    if (const char *wrong = check_tensors(c)) return wrong;
    if (const char *wrong = check_operator(c)) return wrong;
    if (c.convolution)
        if (const char *wrong = check_convolution(c, *c.convolution, width)) return wrong;
    return "";
}

}  // namespace actswap
