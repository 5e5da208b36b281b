// The convolution that a node makes before its activation, on the runtime's blocked layout.
#pragma once
#include "arrange.h"

namespace actswap {

// Inputs of a node `Convolution`: x, weight, bias, sum or nothing, then the activation's.
constexpr size_t WEIGHT = 1, BIAS = 2, SUM = 3, ACTIVATION = 4;

struct Convolution {
    int64_t strides[2] = {1, 1}, pads[4] = {0, 0, 0, 0};  // above, on the left, below, on the right
    Tensor weight, bias;                                  // constants of the model, packed as the runtime packs them

    bool depthwise() const { return weight.dims[1] == 1; }
    // The shape of y; empty if x does not suit the weights.
    Dims output(const Dims &x) const;
    actswap_convolution call(const Tensor &x, const Dims &y, const Tensor &sum) const;
};

// Tell the runtime the shape of a node's output, as far as those of its inputs tell it.
OrtStatus *infer(Runtime runtime, OrtShapeInferContext *context);

// Read a node's attributes and constants; a status says in words what is missing.
OrtStatus *read(Runtime runtime, const OrtKernelInfo *info, Convolution *to);

}  // namespace actswap
