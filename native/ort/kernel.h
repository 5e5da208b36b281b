// One node of a session: its attributes, and a run of it through the kernel core.
#pragma once
#include "convolution.h"

#include <atomic>
#include <memory>
#include <vector>

namespace actswap {

struct Kernel {
    const Definition *definition;  // of the activation
    Attributes attributes;
    size_t first = 1;                                // the activation's first input after x
    std::unique_ptr<const Convolution> convolution;  // or NULL: what makes the activation's x
    // Those inputs if all of them are constants of the model: read once, since asking the runtime takes longer than a
    // small tensor does. Else empty.
    std::vector<Tensor> constants;
    mutable std::atomic<const Arranged *> arranged{nullptr};

    ~Kernel() { delete arranged.load(); }

    OrtStatus *compute(OrtKernelContext *context) const;
};

}  // namespace actswap
