/* One node of a session: its attributes, and a run of it through the kernel core. */
#ifndef ACTSWAP_ORT_KERNEL_H
#define ACTSWAP_ORT_KERNEL_H

#include "convolution.h"

#include <atomic>
#include <cmath>
#include <memory>
#include <vector>

namespace actswap {

struct Kernel {
    const Definition *definition; /* of the activation */
    int64_t dim = 1;    /* channel axis, for operators that pool */
    int64_t block = 0;  /* channels per block where x is in the runtime's blocked layout, 0 elsewhere */
    float tau = 1, gain = 1;
    float cap = INFINITY; /* y = min(y, cap) */
    size_t first = 1;     /* the activation's first input after x */
    std::unique_ptr<const Convolution> convolution; /* or NULL: what makes the activation's x */
    /* Those inputs, where all of them are constants of the model: read once, for asking the runtime takes longer
     * than a small tensor does. Else empty. */
    std::vector<Tensor> constants;
    mutable std::atomic<const Arranged *> arranged{nullptr};

    ~Kernel() { delete arranged.load(); }

    OrtStatus *compute(OrtKernelContext *context) const;
};

/* The shape and the data of a tensor. */
OrtStatus *read(Runtime runtime, const OrtValue *value, Tensor *to);

} // namespace actswap

#endif
