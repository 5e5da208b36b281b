// Vectors of W floats: GCC/Clang vector extensions for arithmetic, intrinsics for what these cannot express. isa.cpp
// includes this header and is compiled once per instruction set, so everything is in the namespace of that build.
#pragma once
#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace ACTSWAP_BUILD {

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float vf __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));
typedef uint32_t vu __attribute__((vector_size(4 * W)));
typedef uint16_t vh __attribute__((vector_size(2 * W)));
typedef double vd __attribute__((vector_size(4 * W)));  // half as many values in one register

#define INLINE static inline __attribute__((always_inline))

INLINE vf splat(float a) { return a - vf{}; }
INLINE vf bits_to_float(vi a) { return (vf)a; }
INLINE vi float_to_bits(vf a) { return (vi)a; }
INLINE vf vabs(vf a) { return (vf)((vi)a & 0x7fffffff); }
INLINE vf pick(vi mask, vf yes, vf no) { return mask ? yes : no; }
INLINE vi is_infinite(vf a) { return vabs(a) == splat(__builtin_inff()); }
INLINE vf with_sign_of(vf a, vf b) {  // a sign(b), which is 0 for b = 0
#if defined(__AVX512F__)
    const __mmask16 some = _mm512_cmp_ps_mask((__m512)b, _mm512_setzero_ps(), _CMP_NEQ_UQ);
    return (vf)_mm512_maskz_ternarylogic_epi32(some, (__m512i)a, (__m512i)b, _mm512_set1_epi32(INT32_MIN), 0x78);
#else
    return pick(b == 0, splat(0.f), (vf)((vi)a ^ ((vi)b & INT32_MIN)));
#endif
}
INLINE vf sign(vf a) { return pick(a > 0, splat(1.f), pick(a < 0, splat(-1.f), a)); }

INLINE vd load_wide(const float *p) {
#if defined(__AVX512F__)
    return (vd)_mm512_cvtps_pd(_mm256_loadu_ps(p));
#else
    typedef float half __attribute__((vector_size(2 * W)));
    half v;
    memcpy(&v, p, sizeof v);
    return __builtin_convertvector(v, vd);
#endif
}

#if defined(__AVX512F__)
INLINE vf vmax(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE vf vmin(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE vf load_f32(const float *p, int n) {
    return n >= W ? (vf)_mm512_loadu_ps(p) : (vf)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}
INLINE void store_f32(float *p, vf v, int n) {
    if (n >= W) _mm512_storeu_ps(p, (__m512)v);
    else _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
}
INLINE __m256i load_u16(const uint16_t *p, int n) {
    return n >= W ? _mm256_loadu_si256((const __m256i *)p)
                  : _mm256_maskz_loadu_epi16((__mmask16)((1u << n) - 1), p);
}
INLINE void store_u16(uint16_t *p, __m256i v, int n) {
    if (n >= W) _mm256_storeu_si256((__m256i *)p, v);
    else _mm256_mask_storeu_epi16(p, (__mmask16)((1u << n) - 1), v);
}
INLINE vf load_bf16(const uint16_t *p, int n) {
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_u16(p, n)), 16);
}
INLINE void store_bf16(uint16_t *p, vf v, int n) {
#if defined(__AVX512BF16__)
    // The instruction flushes subnormal results to zero. Values below 2^-126 do not matter in a bfloat16 activation.
    store_u16(p, (__m256i)_mm512_cvtneps_pbh((__m512)v), n);
#else
    __m512i b = (__m512i)v;
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(b, 16), _mm512_set1_epi32(1));
    __m512i r = _mm512_srli_epi32(_mm512_add_epi32(b, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    __mmask16 nan = _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q);
    store_u16(p, _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(r, nan, _mm512_set1_epi32(0x7fc0))), n);
#endif
}
INLINE vf load_f16(const uint16_t *p, int n) { return (vf)_mm512_cvtph_ps(load_u16(p, n)); }
INLINE void store_f16(uint16_t *p, vf v, int n) {
    store_u16(p, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT), n);
}
INLINE vf reciprocal(vf a) {  // a in 1..inf; one Newton step on 14 bits gives 1 ulp
    __m512 r = _mm512_rcp14_ps((__m512)a);
    __m512 e = _mm512_fnmadd_ps((__m512)a, r, _mm512_set1_ps(1.f));
    return (vf)_mm512_fmadd_ps(r, e, r);
}
INLINE bool any_infinite(vf a) { return _mm512_fpclass_ps_mask((__m512)a, 0x18) != 0; }
INLINE float hsum(vf v) {
    __m512 a = (__m512)v;
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
INLINE __m512 fold(__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}
INLINE __m512 fold4(vf a, vf b, vf c, vf d) { return fold(fold((__m512)a, (__m512)b), fold((__m512)c, (__m512)d)); }
INLINE void hsum4(float *to, vf a, vf b, vf c, vf d) {
    __m512 s = fold4(a, b, c, d);
    s = _mm512_add_ps(s, _mm512_permute_ps(s, 0x4e));
    s = _mm512_add_ps(s, _mm512_permute_ps(s, 0xb1));
    const __m512i firsts = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    _mm_storeu_ps(to, _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, s)));
}
template <int STEP> INLINE vf hsums(const vf (*v)[STEP], int k) {
    __m512 s[4];
    for (int i = 0; i < 4; ++i) s[i] = fold4(v[i][k], v[4 + i][k], v[8 + i][k], v[12 + i][k]);
    __m512d p = (__m512d)_mm512_add_ps(_mm512_unpacklo_ps(s[0], s[1]), _mm512_unpackhi_ps(s[0], s[1]));
    __m512d q = (__m512d)_mm512_add_ps(_mm512_unpacklo_ps(s[2], s[3]), _mm512_unpackhi_ps(s[2], s[3]));
    return (vf)_mm512_add_ps((__m512)_mm512_unpacklo_pd(p, q), (__m512)_mm512_unpackhi_pd(p, q));
}
#else
template <class T> INLINE void copy_some(T *to, const T *from, int n) {
    for (int i = 0; i < n; ++i) to[i] = from[i];
}
INLINE vf vmax(vf a, vf b) { return a > b ? a : b; }
INLINE vf vmin(vf a, vf b) { return a < b ? a : b; }
#if defined(__AVX2__)
INLINE __m256i lane_mask(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE vf load_f32(const float *p, int n) {
    return n >= W ? (vf)_mm256_loadu_ps(p) : (vf)_mm256_maskload_ps(p, lane_mask(n));
}
INLINE void store_f32(float *p, vf v, int n) {
    if (n >= W) _mm256_storeu_ps(p, (__m256)v);
    else _mm256_maskstore_ps(p, lane_mask(n), (__m256)v);
}
INLINE vf vround(vf a) { return (vf)_mm256_round_ps((__m256)a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
#else
INLINE vf load_f32(const float *p, int n) {
    vf v = {};
    if (n >= W) memcpy(&v, p, sizeof v);
    else copy_some((float *)&v, p, n);
    return v;
}
INLINE void store_f32(float *p, vf v, int n) {
    if (n >= W) memcpy(p, &v, sizeof v);
    else copy_some(p, (const float *)&v, n);
}
INLINE vf vround(vf a) { return (a + 12582912.f) - 12582912.f; }  // |a| < 2^22; no reassociation in this build
#endif
INLINE vh load_u16(const uint16_t *p, int n) {
    vh v = {};
    if (n >= W) memcpy(&v, p, sizeof v);
    else copy_some((uint16_t *)&v, p, n);
    return v;
}
INLINE void store_u16(uint16_t *p, vh v, int n) {
    if (n >= W) memcpy(p, &v, sizeof v);
    else copy_some(p, (const uint16_t *)&v, n);
}
INLINE vf load_bf16(const uint16_t *p, int n) { return (vf)(__builtin_convertvector(load_u16(p, n), vu) << 16); }
INLINE void store_bf16(uint16_t *p, vf v, int n) {
    vu b = (vu)v;
    vu r = (b + 0x7fff + ((b >> 16) & 1)) >> 16;
    r = (vi)(v == v) ? r : (vu)(0x7fc0 + vu{});
    store_u16(p, __builtin_convertvector(r, vh), n);
}
#if defined(__F16C__)
INLINE vf load_f16(const uint16_t *p, int n) { return (vf)_mm256_cvtph_ps((__m128i)load_u16(p, n)); }
INLINE void store_f16(uint16_t *p, vf v, int n) {
    store_u16(p, (vh)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT), n);
}
#else
INLINE vf load_f16(const uint16_t *p, int n) {
    vu h = __builtin_convertvector(load_u16(p, n), vu);
    vf magic = bits_to_float((vi)((h & 0x7fff) << 13)) * 0x1p112f;  // rescales subnormals too
    vf special = bits_to_float((vi)(((h & 0x7fff) << 13) | 0x7f800000));
    vf v = (vi)((h & 0x7c00) == 0x7c00) ? special : magic;
    return bits_to_float(float_to_bits(v) | (vi)((h & 0x8000) << 16));
}
INLINE void store_f16(uint16_t *p, vf v, int n) {
    vu s = ((vu)v >> 16) & 0x8000, a = (vu)v & 0x7fffffff;
    vu normal = (a + 0xfff + ((a >> 13) & 1) - (112u << 23)) >> 13;           // round to nearest even
    vu small = (vu)(bits_to_float((vi)a) + 0.5f) - 0x3f000000u;                // the addition rounds at 2^-24
    vu r = (vi)(a < (113u << 23)) ? small : normal;
    r = (vi)(a >= 0x477ff000u) ? (vu)(0x7c00 + vu{}) : r;
    r = (vi)(a > 0x7f800000u) ? (vu)(0x7e00 + vu{}) : r;
    store_u16(p, __builtin_convertvector(r | s, vh), n);
}
#endif
INLINE bool any_infinite(vf a) {
    vi far = is_infinite(a);
#if defined(__AVX2__)
    return !_mm256_testz_si256((__m256i)far, (__m256i)far);
#elif defined(__SSE2__)
    return _mm_movemask_epi8((__m128i)far) != 0;
#else
    int32_t found = 0;
    for (int i = 0; i < W; ++i) found |= far[i];
    return found != 0;
#endif
}
INLINE vf reciprocal(vf a) { return 1.f / a; }
INLINE vf scale2(vf a, vf n) {  // a 2^n for n in [-126, 127]
    return a * bits_to_float((__builtin_convertvector(n, vi) + 127) << 23);
}
INLINE float hsum(vf v) {
    float s[W];
    memcpy(s, &v, sizeof s);
    for (int h = W / 2; h > 0; h /= 2)
        for (int i = 0; i < h; ++i) s[i] += s[i + h];
    return s[0];
}
INLINE void hsum4(float *to, vf a, vf b, vf c, vf d) {
    to[0] = hsum(a), to[1] = hsum(b), to[2] = hsum(c), to[3] = hsum(d);
}
// Lane i: the sum over the lanes of v[i][k].
template <int STEP> INLINE vf hsums(const vf (*v)[STEP], int k) {
    vf sums;
    for (int i = 0; i < W; ++i) sums[i] = hsum(v[i][k]);
    return sums;
}
#endif

// How elements are read and written. Addresses are in bytes. Any looks up the dtype for each vector.
struct F32 {
    INLINE int64_t bytes(int) { return 4; }
    INLINE vf load(const char *p, int n, int) { return load_f32((const float *)p, n); }
    INLINE void store(char *p, vf v, int n, int) { store_f32((float *)p, v, n); }
};
struct BF16 {
    INLINE int64_t bytes(int) { return 2; }
    INLINE vf load(const char *p, int n, int) { return load_bf16((const uint16_t *)p, n); }
    INLINE void store(char *p, vf v, int n, int) { store_bf16((uint16_t *)p, v, n); }
};
struct Any {
    INLINE int64_t bytes(int dtype) { return dtype == 0 ? 4 : 2; }
    INLINE vf load(const char *p, int n, int dtype) {
        if (dtype == 0) return load_f32((const float *)p, n);
        return dtype == 1 ? load_bf16((const uint16_t *)p, n) : load_f16((const uint16_t *)p, n);
    }
    INLINE void store(char *p, vf v, int n, int dtype) {
        if (dtype == 0) store_f32((float *)p, v, n);
        else if (dtype == 1) store_bf16((uint16_t *)p, v, n);
        else store_f16((uint16_t *)p, v, n);
    }
};

// e^-z - 1 = r p(r) on |r| <= ln 2 / 2, the reduced argument of e^-z = 2^n (1 + r p(r)); relative error 1e-7.
INLINE vf exp_tail(vf r) {
    return ((((1.384346600e-3f * r + 8.374316650e-3f) * r + 4.166801282e-2f) * r + 1.666642941e-1f) * r +
            4.999999414e-1f) * r + 1.000000033f;
}
INLINE vf reduced(vf z, vf n) { return (-z - n * 0.693359375f) + n * 2.12194440e-4f; }

// e^-a for a >= 0 or NaN; 0 if a > 48.
INLINE vf exp_minus(vf a) {
    vf kept = vmin(splat(48.f), a), n = (kept * -1.44269504f + 12582912.f) - 12582912.f, r = reduced(kept, n);
    vf power = bits_to_float((__builtin_convertvector(n, vi) + 127) << 23);
    return pick(a > 48.f, splat(0.f), (exp_tail(r) * r + 1.f) * power);
}

// s = sigmoid(z) and ds = sigmoid'(z) = e^-z s^2, both without cancellation. Results below e^-48 = 1.4e-21 become 0.
// They are lost in every sum with values of ordinary size. If they were kept, they would become subnormal in the next
// layer's products, and each of those costs a hundred cycles (a sharp ACON makes millions of them).
INLINE vf sigmoid(vf z, vf *ds) {
#if defined(__AVX512F__)
    // Lanes beyond +-48 hold meaningless values and are masked out. NaN passes both comparisons.
    const __m512 magic = _mm512_set1_ps(12582912.f), v = (__m512)z;
    const __mmask16 above = _mm512_cmp_ps_mask(v, _mm512_set1_ps(-48.f), _CMP_NLE_UQ);
    const __mmask16 inside = _mm512_mask_cmp_ps_mask(above, v, _mm512_set1_ps(48.f), _CMP_NGE_UQ);
    __m512 n = _mm512_sub_ps(_mm512_fmadd_ps(v, _mm512_set1_ps(-1.44269504f), magic), magic);
    vf r = reduced(z, (vf)n);
    __m512 e = _mm512_maskz_scalef_ps(inside, (__m512)(exp_tail(r) * r + 1.f), n);
    __m512 sum = _mm512_add_ps(e, _mm512_set1_ps(1.f)), q = _mm512_rcp14_ps(sum);
    vf s = (vf)_mm512_maskz_fmadd_ps(above, _mm512_fnmadd_ps(sum, q, _mm512_set1_ps(1.f)), q, q);  // a Newton step
    if (ds) *ds = (vf)e * s * s;
    return s;
#else
    vf kept = vmin(splat(48.f), vmax(splat(-48.f), z)), n = vround(kept * -1.44269504f), r = reduced(kept, n);
    vf e = pick(z >= 48.f, splat(0.f), scale2(exp_tail(r) * r + 1.f, n));
    vf s = pick(z <= -48.f, splat(0.f), 1.f / (1.f + e));
    if (ds) *ds = e * s * s;
    return s;
#endif
}

#if defined(__AVX512F__)
// Clamps a to +-limit; a NaN becomes the limit. This is assembly because on some processors (Sapphire Rapids) the
// instruction waits for the old value of its destination, and compilers before GCC 13 do not break that dependency.
INLINE vf within(vf a, vf limit) {
    vf to;
    asm("vpxord %0, %0, %0\n\tvrangeps $2, %2, %1, %0" : "=&v"(to) : "v"(a), "v"(limit));
    return to;
}
#endif

// a / (1 + 2^t), which is a sigmoid(z) for t = -z log2(e). The relative error is 3e-7 |t|; it matters only if the
// result is small. The result is 0 for t > 69, for the reason given at `sigmoid`. This is shorter than `sigmoid`
// because it needs no derivative: a division is one instruction, a reciprocal with its Newton step is five.
INLINE vf logistic2(vf a, vf t) {
    // t is clamped because each power out of range costs a hundred cycles.
#if defined(__AVX512F__)
    const __mmask16 kept = _mm512_cmp_ps_mask((__m512)t, _mm512_set1_ps(69.f), _CMP_NGT_UQ);
    vf u = within(t, splat(70.f)), r = (vf)_mm512_reduce_ps((__m512)u, _MM_FROUND_TO_NEG_INF);
#else
    vf u = vmax(splat(-60.f), vmin(splat(70.f), t)), n = vround(u - 0.5f), r = u - n;
#endif
    vf p = (((((1.877576658e-03f * r + 8.989340131e-03f) * r + 5.582631802e-02f) * r + 2.401536171e-01f) * r +
             6.931530732e-01f) * r + 9.999999251e-01f);  // 2^r, relative error 2e-7
#if defined(__AVX512F__)
    return (vf)_mm512_maskz_div_ps(kept, (__m512)a,
                                   _mm512_add_ps(_mm512_scalef_ps((__m512)p, (__m512)u), _mm512_set1_ps(1.f)));
#else
    return pick(t > 69.f, splat(0.f), a / (1.f + scale2(p, n)));
#endif
}

}  // namespace ACTSWAP_BUILD
