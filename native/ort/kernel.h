/* One node of a session: its attributes, and a run of it through the kernel core. */
#ifndef ACTSWAP_ORT_KERNEL_H
#define ACTSWAP_ORT_KERNEL_H

#include "operators.h"

namespace actswap {

struct Kernel {
    const Definition *definition;
    int64_t dim = 1;    /* channel axis, for operators that pool */
    int64_t block = 0;  /* channels per block where x is in the runtime's blocked layout, 0 elsewhere */
    float tau = 1, gain = 1;

    OrtStatus *compute(OrtKernelContext *context) const;
};

} // namespace actswap

#endif
