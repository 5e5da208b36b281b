// The operators of domain `actswap` as ONNX Runtime sees them: names, and what each asks of the kernel core.
#pragma once
#include "abi.h"

#include <string>
#include <vector>

namespace actswap {

enum class Kind { SWISH, SWISH_SKIP, ACON_B, ACON_C, META_ACON, DY_RELU, DY_RELU_C, PAU, OPAU, CONVOLUTION };

// One operator for one type of x. The struct that the runtime sees comes first, so that a pointer to it is a pointer to
// the whole.
struct Definition : OrtCustomOp {
    std::string name;
    Kind kind;
    int type;    // OrtElementType of x and y
    int inputs;  // with x
    bool given;  // of an operator that pools: the last input is the mean, (N, P, 1, 1), which is not made of x then
    int form = 0, basis = 0, degree_p = 0, degree_q = 0;  // of PAU and OPAU
    int pieces = 0;                                       // lines of DY-ReLU
    Runtime runtime;

    size_t parameters() const { return size_t(inputs - 1 - given); }
    bool pools() const { return kind == Kind::META_ACON || kind == Kind::DY_RELU || kind == Kind::DY_RELU_C; }
    bool rational() const { return kind == Kind::PAU || kind == Kind::OPAU; }
};

// Every operator, for float32 and float16. The list lives as long as the process: sessions keep pointers into it.
const std::vector<Definition> &definitions(Runtime runtime);

}  // namespace actswap
