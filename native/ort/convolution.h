/* The convolution that a node makes before its activation, on the runtime's blocked layout. */
#ifndef ACTSWAP_ORT_CONVOLUTION_H
#define ACTSWAP_ORT_CONVOLUTION_H

#include "arrange.h"

namespace actswap {

/* Inputs of a node `Convolution`: x, weight, bias, sum or nothing, then the activation's. */
constexpr size_t kWeight = 1, kBias = 2, kSum = 3, kActivation = 4;

struct Convolution {
    int64_t strides[2] = {1, 1}, pads[4] = {0, 0, 0, 0}; /* above, on the left, below, on the right */
    Tensor weight, bias;                                 /* constants of the model, packed as the runtime packs them */

    bool depthwise() const { return weight.dims[1] == 1; }
    /* The shape of y; none where x does not suit the weights. */
    std::vector<int64_t> output(const std::vector<int64_t> &x) const;
    actswap_convolution call(const Tensor &x, const std::vector<int64_t> &y, const float *sum) const;
};

/* The shape of a node's output to the runtime, as far as those of its inputs tell it. */
OrtStatus *infer(Runtime runtime, OrtShapeInferContext *context);

/* Attributes and constants of a node into a convolution; a status says in words what is missing. */
OrtStatus *read(Runtime runtime, const OrtKernelInfo *info, Convolution *to);

} // namespace actswap

#endif
