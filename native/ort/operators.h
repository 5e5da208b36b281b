/* The operators of domain `actswap` as ONNX Runtime sees them: names, and what each asks of the kernel core. */
#ifndef ACTSWAP_ORT_OPERATORS_H
#define ACTSWAP_ORT_OPERATORS_H

#include "abi.h"

#include <string>
#include <vector>

namespace actswap {

enum class Kind { kSwish, kSwishSkip, kAconB, kAconC, kMetaAcon, kDyRelu, kDyReluC, kPau, kOpau, kConvolution };

/* One operator for one type of x. The struct that the runtime sees comes first, so that a pointer to it is a pointer
 * to the whole. */
struct Definition : OrtCustomOp {
    std::string name;
    Kind kind;
    int type;    /* OrtElementType of x and y */
    int inputs;  /* with x */
    bool given;  /* of an operator that pools: the last input is the mean, (N, P, 1, 1), which is not made of x then */
    int form = 0, basis = 0, degree_p = 0, degree_q = 0; /* of PAU and OPAU */
    Runtime runtime;

    size_t parameters() const { return size_t(inputs - 1 - given); }
};

/* Every operator, for float32 and float16. The list lives as long as the process: sessions keep pointers into it. */
const std::vector<Definition> &definitions(Runtime runtime);

} // namespace actswap

#endif
