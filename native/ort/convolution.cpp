#include "convolution.h"

#include "kernel.h"

namespace actswap {
namespace {

constexpr int64_t LARGEST = 1 << 24;  // stride, pad or size of a picture: no sum of a few of them overflows

OrtStatus *constant(Runtime runtime, const OrtKernelInfo *info, size_t index, Tensor *to) {
    int constant = 0;
    const OrtValue *value = nullptr;
    if (OrtStatus *status = runtime.constant(info, index, &constant, &value)) return status;
    if (!constant || !value)
        return runtime.status(ORT_INVALID_ARGUMENT, "actswap: the weights of a Convolution must be constants");
    return read(runtime, value, ORT_FLOAT, to);
}

bool in_range(const int64_t *numbers, size_t count, int64_t least) {
    for (size_t i = 0; i < count; ++i)
        if (numbers[i] < least || numbers[i] > LARGEST) return false;
    return true;
}

// An axis of y; -1 if there is none.
int64_t output_size(int64_t x, int64_t kernel, int64_t stride, int64_t before, int64_t after) {
    if (x > LARGEST || kernel > LARGEST || x < 0 || kernel < 1) return -1;
    const int64_t room = x + before + after - kernel;
    return room < 0 ? -1 : room / stride + 1;
}

}  // namespace

Dims Convolution::output(const Dims &x) const {
    if (x.size() != 4 || (depthwise() ? weight.dims[0] : weight.dims[1]) != x[1]) return {};
    Dims y = {x[0], weight.dims[0], 0, 0};
    for (size_t i = 0; i < 2; ++i) {
        y[2 + i] = output_size(x[2 + i], weight.dims[2 + i], strides[i], pads[i], pads[2 + i]);
        if (y[2 + i] < 0) return {};
    }
    return y;
}

actswap_convolution Convolution::call(const Tensor &x, const Dims &y, const Tensor &sum) const {
    actswap_convolution to = {};
    to.x = x.data, to.weight = weight.data, to.bias = bias.data, to.sum = sum.data;
    to.x_size = x.size(), to.weight_size = weight.size(), to.bias_size = bias.size();
    to.sum_size = sum.data ? sum.size() : 0;
    to.inputs = depthwise() ? 0 : x.dims[1];
    to.height = x.dims[2], to.width = x.dims[3], to.out_width = y[3];
    for (size_t i = 0; i < 2; ++i)
        to.kernel[i] = weight.dims[2 + i], to.stride[i] = strides[i], to.pad[i] = pads[i];
    return to;
}

OrtStatus *infer(Runtime runtime, OrtShapeInferContext *context) {
    int64_t dims[2][4], strides[2], pads[4];
    const char *names[4];
    OrtTensorTypeAndShapeInfo *x = nullptr, *made = nullptr;
    for (size_t i : {WEIGHT, size_t(0)}) {
        size_t rank = 0;
        if (OrtStatus *status = runtime.input_shape(context, i, &x)) return status;
        if (OrtStatus *status = runtime.rank(x, &rank)) return status;
        if (rank != 4) return nullptr;
        if (OrtStatus *status = runtime.dims(x, dims[i], 4)) return status;
    }
    if (OrtStatus *status = runtime.names(x, names, 4)) return status;
    if (OrtStatus *status = runtime.attribute(context, "strides", strides, 2)) return status;
    if (OrtStatus *status = runtime.attribute(context, "pads", pads, 4)) return status;
    if (!in_range(strides, 2, 1) || !in_range(pads, 4, 0)) return nullptr;  // the kernel says so in words
    int64_t y[4] = {dims[0][0], dims[WEIGHT][0], dims[0][2], dims[0][3]};
    for (size_t i = 0; i < 2; ++i) {
        const bool same = dims[WEIGHT][2 + i] == 1 && strides[i] == 1 && pads[i] + pads[2 + i] == 0;
        if (y[2 + i] >= 0) y[2 + i] = output_size(y[2 + i], dims[WEIGHT][2 + i], strides[i], pads[i], pads[2 + i]);
        else if (!same) return nullptr;
    }
    for (size_t i = 0; i < 4; ++i) {  // a size that has no name either would be handed on as -1
        if (y[i] < 0 && (!names[i] || !*names[i])) return nullptr;
        if (y[i] >= 0) names[i] = "";
    }
    if (OrtStatus *status = runtime.shape(y, names, 4, &made)) return status;
    OrtStatus *status = runtime.output_shape(context, made);
    runtime.release(made);
    return status;
}

OrtStatus *read(Runtime runtime, const OrtKernelInfo *info, Convolution *to) {
    if (OrtStatus *status = runtime.attribute(info, "strides", to->strides, 2)) return status;
    if (OrtStatus *status = runtime.attribute(info, "pads", to->pads, 4)) return status;
    if (OrtStatus *status = constant(runtime, info, WEIGHT, &to->weight)) return status;
    if (OrtStatus *status = constant(runtime, info, BIAS, &to->bias)) return status;
    const bool right = to->weight.dims.size() == 4 && to->bias.dims == Dims{to->weight.dims[0]} &&
                       to->weight.size() > 0 && in_range(to->strides, 2, 1) && in_range(to->pads, 4, 0);
    if (right) return nullptr;
    return runtime.status(ORT_INVALID_ARGUMENT,
                          "actswap: weights, strides and pads of a Convolution do not fit together");
}

}  // namespace actswap
