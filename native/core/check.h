// Checks every extent, stride, option and size of a call before any pointer is followed.
#pragma once
#include "actswap_kernels.h"

namespace actswap {

// Returns "" if a build with vectors of `width` floats can run the call, else what is wrong with it.
const char *check(const actswap_call &call, int width);

}  // namespace actswap
