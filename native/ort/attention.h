/* DY-ReLU C's attention over positions: gain * min(positions / 3 * softmax((ws . x + bs) / tau), 1). */
#ifndef ACTSWAP_ORT_ATTENTION_H
#define ACTSWAP_ORT_ATTENTION_H

#include "actswap_kernels.h"

namespace actswap {

/* Write (batch, inner) gates; `same`: one weight for all channels. */
void attention(const actswap_call &call, const float *ws, bool same, float bs, float tau, float gain, float *gates);

/* Multiply y by its gates. */
void scale(const actswap_call &call, const float *gates);

} // namespace actswap

#endif
