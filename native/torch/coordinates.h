// The coefficients of a Padé unit from the coordinates that it trains in (actswap/activations/rational.py), one row of
// k numbers per channel, or one row for the layer:
//     v = centre + mix asinh(u / radius),    du = (mix' dv) / sqrt(u^2 + radius^2)
#pragma once
#include <math.h>

namespace {

constexpr int COEFFICIENTS = 32;  // in a row, at most: two polynomials of the core

struct Coordinates {
    const float *u, *radius, *mix, *centre;
    int64_t rows;
    int k, top;  // numbers in a row; the first so many belong to the numerator
};

// asinh to a few float32 roundings: its series near 0, where training mostly stays.
inline float asinh_of(float z) {
    const float a = fabsf(z);
    if (a > 0.25f) return copysignf((float)log(a + sqrt((double)a * a + 1.0)), z);
    const float s = z * z;
    return z * (1.0f + s * (-1.0f / 6 + s * (3.0f / 40 + s * (-5.0f / 112 + s * (35.0f / 1152)))));
}

// Write numerators (rows, top) and denominators (rows, k - top).
inline void coefficients_of(const Coordinates &c, float *numerator, float *denominator) {
    const int k = c.k;
    for (int64_t row = 0; row < c.rows; ++row) {
        const float *u = c.u + row * k, *radius = c.radius + row * k, *centre = c.centre + row * k;
        const float *mix = c.mix + row * k * k;
        float t[COEFFICIENTS + 3] = {};
        for (int j = 0; j < k; ++j) t[j] = asinh_of(u[j] / radius[j]);
        for (int i = 0; i < k; ++i, mix += k) {
            // Four sums, because one would wait for its own last addition.
            float sum[4] = {};
            int j = 0;
            for (; j + 4 <= k; j += 4)
                for (int lane = 0; lane < 4; ++lane) sum[lane] += mix[j + lane] * t[j + lane];
            for (; j < k; ++j) sum[j & 3] += mix[j] * t[j];
            const float v = centre[i] + ((sum[0] + sum[1]) + (sum[2] + sum[3]));
            if (i < c.top) *numerator++ = v;
            else *denominator++ = v;
        }
    }
}

// Write the gradient of u (rows, k) from those of the numerators and denominators.
inline void gradient_of(const Coordinates &c, const float *numerator, const float *denominator, float *to) {
    const int k = c.k;
    for (int64_t row = 0; row < c.rows; ++row, to += k) {
        const float *u = c.u + row * k, *radius = c.radius + row * k, *mix = c.mix + row * k * k;
        double sum[COEFFICIENTS] = {};  // the products of mix and dv cancel
        for (int i = 0; i < k; ++i, mix += k) {
            const double dv = i < c.top ? *numerator++ : *denominator++;
            for (int j = 0; j < k; ++j) sum[j] += mix[j] * dv;
        }
        for (int j = 0; j < k; ++j) to[j] = (float)(sum[j] / sqrt((double)u[j] * u[j] + (double)radius[j] * radius[j]));
    }
}

}  // namespace
