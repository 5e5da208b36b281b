#include "attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace actswap {
namespace {

float widen(uint16_t h) {
    const uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 0x3ff;
    float value;
    if (exponent == 0) {
        value = std::ldexp(float(mantissa), -24);
        return sign ? -value : value;
    }
    const uint32_t bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | mantissa << 13;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

uint16_t narrow(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const uint16_t sign = uint16_t(bits >> 16 & 0x8000);
    if (std::isnan(value))
        return uint16_t(sign | 0x7e00);
    const float size = std::fabs(value);
    if (size >= 65520.0f) /* rounds to infinity */
        return uint16_t(sign | 0x7c00);
    if (size < 6.103515625e-05f) /* subnormal: a multiple of 2^-24, rounded to even */
        return uint16_t(sign | uint16_t(std::nearbyint(std::ldexp(size, 24))));
    bits &= 0x7fffffff;
    bits += 0xfff + (bits >> 13 & 1);
    return uint16_t(sign | ((bits >> 13) - (112u << 10)));
}

template <class Read>
void weigh(const actswap_call &call, const float *ws, bool same, float bs, float tau, float gain, float *gates,
           Read read) {
    const int64_t *s = call.x_stride;
    for (int64_t n = 0; n < call.batch; ++n) {
        float *row = gates + n * call.inner;
        std::fill(row, row + call.inner, 0.0f);
        for (int64_t g = 0; g < call.groups; ++g)
            for (int64_t c = 0; c < call.channels; ++c) {
                const float w = ws[same ? 0 : g * call.channels + c];
                const int64_t base = n * s[0] + g * s[1] + c * s[2];
                for (int64_t i = 0; i < call.inner; ++i)
                    row[i] += w * read(base + i * s[3]);
            }
        float top = -INFINITY;
        for (int64_t i = 0; i < call.inner; ++i) {
            row[i] = (row[i] + bs) / tau;
            top = std::max(top, row[i]);
        }
        double total = 0;
        for (int64_t i = 0; i < call.inner; ++i) {
            row[i] = std::exp(row[i] - top);
            total += row[i];
        }
        const float gamma = float(double(call.inner) / 3 / total);
        for (int64_t i = 0; i < call.inner; ++i)
            row[i] = gain * (row[i] * gamma > 1.0f ? 1.0f : row[i] * gamma); /* NaN stays */
    }
}

template <class Apply> void each(const actswap_call &call, Apply apply) {
    const int64_t *s = call.y_stride;
    for (int64_t n = 0; n < call.batch; ++n)
        for (int64_t g = 0; g < call.groups; ++g)
            for (int64_t c = 0; c < call.channels; ++c)
                for (int64_t i = 0; i < call.inner; ++i)
                    apply(n * s[0] + g * s[1] + c * s[2] + i * s[3], n * call.inner + i);
}

} // namespace

void attention(const actswap_call &call, const float *ws, bool same, float bs, float tau, float gain, float *gates) {
    if (call.dtype == ACTSWAP_F16) {
        const auto *x = static_cast<const uint16_t *>(call.x);
        weigh(call, ws, same, bs, tau, gain, gates, [x](int64_t i) { return widen(x[i]); });
    } else {
        const auto *x = static_cast<const float *>(call.x);
        weigh(call, ws, same, bs, tau, gain, gates, [x](int64_t i) { return x[i]; });
    }
}

void scale(const actswap_call &call, const float *gates) {
    if (call.dtype == ACTSWAP_F16) {
        auto *y = static_cast<uint16_t *>(call.y);
        each(call, [=](int64_t at, int64_t gate) { y[at] = narrow(widen(y[at]) * gates[gate]); });
    } else {
        auto *y = static_cast<float *>(call.y);
        each(call, [=](int64_t at, int64_t gate) { y[at] *= gates[gate]; });
    }
}

} // namespace actswap
