// One instruction-set build: compiled several times, with ACTSWAP_BUILD naming its namespace and its table.
#include "apply.h"
#if defined(ACTSWAP_BF16_ONLY)

// The processor's own bfloat16 conversion: only that dtype's bodies differ from the AVX-512 build.
extern "C" const actswap::Build *actswap_build_avx512();

namespace ACTSWAP_BUILD {
static void apply(const actswap_call &c, const Layout &l, float *work, Mode mode, int64_t unit, int64_t end) {
    Unit run = c.dtype == ACTSWAP_BF16 ? common<BF16>(c, l, mode) : nullptr;
    if (!run) return actswap_build_avx512()->apply(c, l, work, mode, unit, end);
    for (; unit < end; ++unit) run(c, l, work, unit);
}
}  // namespace ACTSWAP_BUILD

extern "C" const actswap::Build *ACTSWAP_TABLE() {
    static actswap::Build build = *actswap_build_avx512();
    build.name = ACTSWAP_NAME;
    build.apply = ACTSWAP_BUILD::apply;
    return &build;
}
#else
#include "convolve.h"
#include "gate.h"

extern "C" const actswap::Build *ACTSWAP_TABLE() {
    using namespace ACTSWAP_BUILD;
    static const actswap::Build build = {ACTSWAP_NAME, W,           apply,        convolve, total, mean,
                                         branch,       branch_back, over_samples, weights};
    return &build;
}
#endif
