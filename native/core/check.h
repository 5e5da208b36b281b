// Whether a call can be run: every extent, stride, option and size, before any pointer is followed.
#pragma once
#include "actswap_kernels.h"

namespace actswap {

// "" if the call can be run by a build with vectors of `width` floats, else what is wrong with it.
const char *check(const actswap_call &call, int width);

}  // namespace actswap
