/* One node of a session: its attributes, and a run of it through the kernel core. */
#ifndef ACTSWAP_ORT_KERNEL_H
#define ACTSWAP_ORT_KERNEL_H

#include "operators.h"

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <memory>

namespace actswap {

struct Free {
    void operator()(void *p) const { std::free(p); }
};

/* The workspace of an operator that does not pool, after the phase that writes its parameter table: constant
 * parameters are put into it once, by the first run. */
struct Table {
    int64_t width; /* channels */
    std::unique_ptr<void, Free> work;
};

struct Kernel {
    const Definition *definition;
    int64_t dim = 1;    /* channel axis, for operators that pool */
    int64_t block = 0;  /* channels per block where x is in the runtime's blocked layout, 0 elsewhere */
    float tau = 1, gain = 1;
    float cap = INFINITY;  /* y = min(y, cap) */
    bool constant = false; /* all inputs but x are constants of the model */
    mutable std::atomic<Table *> table{nullptr};

    ~Kernel() { delete table.load(); }

    OrtStatus *compute(OrtKernelContext *context) const;
};

} // namespace actswap

#endif
