// What a node of a model holds, as it stands in the file: nothing of it is to be trusted before `check`.
#pragma once
#include "operators.h"

#include <cmath>
#include <vector>

namespace actswap {

using Dims = std::vector<int64_t>;

// The numbers and the shape of an input. An optional input that is not there has no data.
struct Tensor {
    const float *data = nullptr;
    Dims dims;

    bool missing() const { return !data && dims.empty(); }
    int64_t size() const {
        int64_t n = 1;
        for (int64_t d : dims) n *= d;
        return n;
    }
};

// The attributes of a node. Lists that are missing are empty.
struct Attributes {
    int64_t dim = 1;    // channel axis, for operators that pool
    int64_t block = 0;  // channels per block if x is in the runtime's blocked layout, else 0
    float tau = 1, gain = 1;
    float cap = INFINITY;  // y = min(y, cap)
    Dims axes, view, table, channel;
};

// The axes of x that the parameters' channels are on: [first, last), none if both are 0.
struct Channels {
    int64_t first = 0, last = 0;

    bool none() const { return first == last; }
    int64_t width(const Dims &x) const {
        int64_t n = 1;
        for (int64_t i = first; i < last; ++i) n *= x[size_t(i)];
        return n;
    }
};

// The shape and the data of a tensor of one element type.
OrtStatus *read(Runtime runtime, const OrtValue *value, OrtElementType type, Tensor *to);

// The attributes of a node; a status in words if one is missing or of another type.
OrtStatus *read(const Definition &op, const OrtKernelInfo *info, Attributes *to);

// Refuse a node that was prepared for another version of the runtime or of this library. `prepared` tells whether the
// node, which has `inputs` inputs, is of a prepared file at all.
OrtStatus *check_version(Runtime runtime, const OrtKernelInfo *info, size_t inputs, bool *prepared);

// Compare the shapes of a node's inputs with each other, with x and with the attributes. What passes computes what the
// function body computes.
//
//     op, attributes: of the node
//     parameters: the inputs after x, without the mean
//     mean: that input, if the operator has it
//     x: the shape of x
//     to: gets the axes of the channels
//
// Returns nullptr, or what is wrong.
const char *check(const Definition &op, const Attributes &attributes, const std::vector<Tensor> &parameters,
                  const Tensor &mean, const Dims &x, Channels *to);

// Refuse numbers of which the body makes something else: a range of a rational that ends before it begins.
const char *check_numbers(const Definition &op, const std::vector<Tensor> &parameters);

}  // namespace actswap
