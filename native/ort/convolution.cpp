#include "convolution.h"

#include "kernel.h"

namespace actswap {
namespace {

OrtStatus *constant(Runtime runtime, const OrtKernelInfo *info, size_t index, Tensor *to) {
    int constant = 0;
    const OrtValue *value = nullptr;
    if (OrtStatus *status = runtime.constant(info, index, &constant, &value))
        return status;
    if (!constant)
        return runtime.status(ORT_INVALID_ARGUMENT, "actswap: the weights of a Convolution must be constants");
    return read(runtime, value, to);
}

/* An axis of y. */
int64_t output_size(int64_t x, int64_t kernel, int64_t stride, int64_t before, int64_t after) {
    const int64_t room = x + before + after - kernel;
    return room < 0 ? -1 : room / stride + 1;
}

} // namespace

std::vector<int64_t> Convolution::output(const std::vector<int64_t> &x) const {
    if (x.size() != 4 || (depthwise() ? weight.dims[0] : weight.dims[1]) != x[1])
        return {};
    std::vector<int64_t> y = {x[0], weight.dims[0], 0, 0};
    for (size_t i = 0; i < 2; ++i) {
        y[2 + i] = output_size(x[2 + i], weight.dims[2 + i], strides[i], pads[i], pads[2 + i]);
        if (y[2 + i] < 0)
            return {};
    }
    return y;
}

actswap_convolution Convolution::call(const Tensor &x, const std::vector<int64_t> &y, const float *sum) const {
    actswap_convolution to = {};
    to.x = x.data, to.weight = weight.data, to.bias = bias.data, to.sum = sum;
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
    for (size_t i : {kWeight, size_t(0)}) {
        size_t rank = 0;
        if (OrtStatus *status = runtime.input_shape(context, i, &x))
            return status;
        if (OrtStatus *status = runtime.rank(x, &rank))
            return status;
        if (rank != 4)
            return nullptr;
        if (OrtStatus *status = runtime.dims(x, dims[i], 4))
            return status;
    }
    if (OrtStatus *status = runtime.names(x, names, 4))
        return status;
    if (OrtStatus *status = runtime.attribute(context, "strides", strides, 2))
        return status;
    if (OrtStatus *status = runtime.attribute(context, "pads", pads, 4))
        return status;
    int64_t y[4] = {dims[0][0], dims[kWeight][0], dims[0][2], dims[0][3]};
    for (size_t i = 0; i < 2; ++i) {
        const bool same = dims[kWeight][2 + i] == 1 && strides[i] == 1 && pads[i] + pads[2 + i] == 0;
        if (y[2 + i] >= 0 && strides[i] > 0)
            y[2 + i] = output_size(y[2 + i], dims[kWeight][2 + i], strides[i], pads[i], pads[2 + i]);
        else if (!same)
            return nullptr;
    }
    for (size_t i = 0; i < 4; ++i) { /* a size that has no name either would be handed on as -1 */
        if (y[i] < 0 && (!names[i] || !*names[i]))
            return nullptr;
        if (y[i] >= 0)
            names[i] = "";
    }
    if (OrtStatus *status = runtime.shape(y, names, 4, &made))
        return status;
    OrtStatus *status = runtime.output_shape(context, made);
    runtime.release(made);
    return status;
}

OrtStatus *read(Runtime runtime, const OrtKernelInfo *info, Convolution *to) {
    if (OrtStatus *status = runtime.attribute(info, "strides", to->strides, 2))
        return status;
    if (OrtStatus *status = runtime.attribute(info, "pads", to->pads, 4))
        return status;
    if (OrtStatus *status = constant(runtime, info, kWeight, &to->weight))
        return status;
    if (OrtStatus *status = constant(runtime, info, kBias, &to->bias))
        return status;
    bool right = to->weight.dims.size() == 4 && to->bias.size() == to->weight.dims[0];
    for (int64_t stride : to->strides)
        right = right && stride > 0;
    for (int64_t pad : to->pads)
        right = right && pad >= 0;
    const char *wrong = "actswap: the weights of a Convolution do not fit together";
    return right ? nullptr : runtime.status(ORT_INVALID_ARGUMENT, wrong);
}

} // namespace actswap
