/* A node's parameters as the kernel core takes them. */
#ifndef ACTSWAP_ORT_ARRANGE_H
#define ACTSWAP_ORT_ARRANGE_H

#include "actswap_kernels.h"
#include "operators.h"

#include <cstdlib>
#include <memory>
#include <vector>

namespace actswap {

struct Tensor {
    const float *data = nullptr;
    std::vector<int64_t> dims;

    int64_t size() const {
        int64_t n = 1;
        for (int64_t d : dims)
            n *= d;
        return n;
    }
};

struct Free {
    void operator()(void *p) const { std::free(p); }
};

/* The part of a call that follows from the parameters and the number of channels, and what it points to. Where the
 * parameters are constants of the model, the first run makes it and the others use it. */
struct Arranged {
    int64_t width = 0; /* channels */
    actswap_call call = {};
    std::vector<std::unique_ptr<float[]>> buffers;
    /* Of an operator that does not pool: the workspace after the phase that writes the parameter table. */
    std::unique_ptr<void, Free> work;

    float *buffer(int64_t size);
};

/* Fill in the operator and its parameters, given in the order of the node's inputs after x. What will be `kept` for
 * other runs may take some time. */
void arrange(const Definition &op, const std::vector<Tensor> &parameters, bool kept, Arranged *to);

bool pools_over(Kind kind);

} // namespace actswap

#endif
