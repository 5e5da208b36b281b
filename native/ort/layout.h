// How x is cut into batch, groups, channels and positions for the kernel core.
#pragma once
#include "node.h"

struct actswap_call;

namespace actswap {

// Fill in the extents, strides and sizes of a dense x and y of these axes. Samples stay apart if the operator `pools`;
// its channels are on axis 1 or on the last one then, or x is in blocks.
void lay_out(const Dims &x, const Channels &channels, bool pools, int64_t block, actswap_call *call);

// Copy [n][before][c][after] to [n][c][before][after]; elements of `size` bytes.
void move_axis(const void *from, void *to, int64_t n, int64_t before, int64_t c, int64_t after, int64_t size);

}  // namespace actswap
