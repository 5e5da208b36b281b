// Random calls on exactly sized buffers, for the sanitizers: every operator, dtype, layout, stride and split of units.
// Also checks the header's promise that the bits do not depend on how the units are split. Every instruction set of the
// processor is tested in its own process, because the library chooses one at its first call and keeps it.
// As many calls again are hostile: extents, strides, options, sizes and pointers of a good call are changed at random,
// and the core must refuse the call or stay within the buffers.
//
//     actswap_fuzz [calls] [seed]
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <random>
#include <vector>

#include "actswap_kernels.h"

namespace {

std::mt19937 engine;

int64_t between(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(engine); }
float normal() { return std::normal_distribution<float>(0.f, 1.5f)(engine); }

uint16_t half_bits(float v, int dtype) {
    if (dtype == ACTSWAP_BF16) {
        uint32_t b;
        memcpy(&b, &v, 4);
        return (uint16_t)(b >> 16);
    }
    int e = 0;
    float m = v == 0 ? 0 : frexpf(v < 0 ? -v : v, &e);
    if (e < -13) return 0;
    return (uint16_t)((v < 0 ? 0x8000 : 0) | ((e + 14) << 10) | (int)((m * 2 - 1) * 1024));
}

// Heap memory of exactly the size needed: the address sanitizer sees one byte too many.
struct Tensor {
    std::unique_ptr<char[]> data;
    int64_t stride[4];
    size_t bytes;
    int64_t count(int dtype) const { return (int64_t)bytes / (dtype == ACTSWAP_F32 ? 4 : 2); }

    Tensor(const actswap_call &c, bool planar, int dtype, bool fill) {
        const int64_t extent[4] = {c.batch, c.groups, c.channels, c.inner};
        const int planes[4] = {3, 2, 1, 0}, rows[4] = {2, 3, 1, 0};
        int64_t step = 1;
        for (int axis : planar ? planes : rows) {
            stride[axis] = step;
            step *= extent[axis];
            if (c.convolution) continue;
            if (axis != (planar ? 3 : 2)) step += between(0, 3);  // gaps between planes, groups and samples
            else if (between(0, 2) == 0 || extent[axis] == 1) step += between(1, 5);  // rows must not look like planes
        }
        int64_t last = 0;
        for (int axis = 0; axis < 4; ++axis) last += stride[axis] * (extent[axis] - 1);
        bytes = (size_t)(last + 1) * (dtype == ACTSWAP_F32 ? 4 : 2);
        data.reset(new char[bytes]);
        memset(data.get(), 0, bytes);
        for (int64_t i = 0; fill && i <= last; ++i) {
            float v = normal();
            if (dtype == ACTSWAP_F32) memcpy(data.get() + 4 * i, &v, 4);
            else {
                uint16_t h = half_bits(v, dtype);
                memcpy(data.get() + 2 * i, &h, 2);
            }
        }
    }
};

std::vector<std::unique_ptr<float[]>> kept;
std::vector<int64_t> sizes;

float *numbers(int64_t n, bool fill = true) {
    kept.emplace_back(new float[n]);
    sizes.push_back(n);
    for (int64_t i = 0; i < n; ++i) kept.back()[i] = fill ? normal() : 0.f;
    return kept.back().get();
}

int64_t size_of(const float *numbers) {
    for (size_t k = 0; k < kept.size(); ++k)
        if (kept[k].get() == numbers) return sizes[k];
    return 0;
}

// What is behind the pointers of a call: the sizes that the core checks.
void tell_sizes(actswap_call &c) {
    for (int i = 0; i < ACTSWAP_SLOTS; ++i) c.param_size[i] = size_of(c.param[i]);
    c.mean_size = size_of(c.mean);
}

int64_t odd(int64_t was) {
    const int64_t found[] = {0, 1, 2, 3, 8, 16, -1, (int64_t)((uint64_t)was + 1), (int64_t)((uint64_t)was - 1),
                             (int64_t)((uint64_t)was * 2), was / 2, (int64_t)1 << 33, INT64_MAX, INT64_MIN};
    return found[between(0, 13)];
}

// Change one thing of a call whose buffers stay as they are.
void spoil(actswap_call &c, actswap_convolution &made) {
    int64_t *extents[] = {&c.batch, &c.groups, &c.channels, &c.inner};
    int32_t *options[] = {&c.op,       &c.dtype,    &c.flags,  &c.form,   &c.basis,
                          &c.degree_p, &c.degree_q, &c.hidden, &c.pieces, &c.pooled};
    int64_t *strides[] = {c.x_stride, c.y_stride, c.g_stride};
    int64_t *parts[] = {&made.inputs,    &made.height,    &made.width,     &made.out_width, &made.kernel[0],
                        &made.kernel[1], &made.stride[0], &made.stride[1], &made.pad[0],    &made.pad[1]};
    const int slot = (int)between(0, ACTSWAP_SLOTS - 1);
    switch (between(0, c.convolution ? 7 : 6)) {
        case 0: {
            int64_t &extent = *extents[between(0, 3)];
            extent = odd(extent);
            break;
        }
        case 1: {
            int32_t &option = *options[between(0, 9)];
            option = (int32_t)(between(0, 1) ? between(-1, 20) : odd(option));
            break;
        }
        case 2: {
            int64_t &stride = strides[between(0, 2)][between(0, 3)];
            stride = odd(stride);
            break;
        }
        case 3: c.shared ^= 1u << slot; break;
        case 4: c.param[slot] = nullptr; break;
        case 5: {  // the gradient goes with its parameter
            const int other = (int)between(0, ACTSWAP_SLOTS - 1);
            std::swap(c.param[slot], c.param[other]), std::swap(c.grad_param[slot], c.grad_param[other]);
            break;
        }
        case 6: c.mean = between(0, 1) ? nullptr : c.mean; break;
        default: {
            int64_t &part = *parts[between(0, 9)];
            part = odd(part);
        }
    }
}

void run(const actswap_call &c, bool split) {
    std::unique_ptr<char[]> memory(new char[actswap_workspace(&c) + 64]);
    char *work = memory.get() + (64 - (uintptr_t)memory.get() % 64) % 64;
    for (int p = 0; p < actswap_phases(&c); ++p) {
        int64_t units = actswap_units(&c, p);
        if (!split) {
            actswap_run(&c, work, p, 0, units);
            continue;
        }
        std::vector<int64_t> cuts = {units};
        for (int64_t at = units; at > 0;) cuts.push_back(at = at - between(1, at));
        for (size_t i = 1; i < cuts.size(); ++i) actswap_run(&c, work, p, cuts[i], cuts[i - 1]);  // backwards
    }
}

// A random convolution, and the extents of the call whose activation takes what it makes.
void convolve(actswap_call &c, actswap_convolution &to) {
    const bool dense = between(0, 1), wide = strncmp(actswap_isa(), "avx512", 6) == 0;
    c.channels = wide || between(0, 1) ? 16 : 8;
    const int64_t size = between(0, 1) ? 3 : 1, step = size == 3 ? between(1, 2) : 1;  // of a dense one
    int64_t in[2], out[2];
    for (int i = 0; i < 2; ++i) {
        to.kernel[i] = dense ? size : between(1, 7), to.stride[i] = dense ? step : between(1, 3);
        const int64_t far = !dense ? 3 * to.stride[i] : size == 3;
        to.pad[i] = between(0, far), in[i] = between(to.kernel[i], 40);
        out[i] = (in[i] + to.pad[i] + between(0, far) - to.kernel[i]) / to.stride[i] + 1;
    }
    to.height = in[0], to.width = in[1], to.out_width = out[1], c.inner = out[0] * out[1];
    to.inputs = dense ? c.channels * between(1, 40 / size) : 0;
    const int64_t C = c.groups * c.channels, inputs = dense ? to.inputs : C;
    to.x = numbers(c.batch * inputs * in[0] * in[1]), to.bias = numbers(C);
    to.weight = numbers(C * (dense ? to.inputs : 1) * to.kernel[0] * to.kernel[1]);
    if (between(0, 1)) to.sum = numbers(c.batch * C * c.inner);
    c.convolution = &to;
}

// A call refused, or run in its buffers: true if it was refused.
bool hostile(actswap_call c, actswap_convolution made, const Tensor &x, const Tensor &y, const Tensor &g) {
    constexpr int64_t MOST = 1 << 20;  // elements and bytes for which a call that passes is run
    if (c.convolution) c.convolution = &made;
    for (int64_t k = between(1, 3); k > 0; --k) spoil(c, made);
    c.x_size = (c.x == c.y ? y : x).count(c.dtype), c.y_size = y.count(c.dtype), c.g_size = g.count(c.dtype);
    tell_sizes(c);
    if (*actswap_check(&c)) return true;
    const double elements = (double)c.batch * (double)c.groups * (double)c.channels * (double)c.inner;
    if (elements <= MOST && actswap_workspace(&c) <= 64 * MOST) run(c, between(0, 1));
    return false;
}

int64_t refused = 0;

bool one(int number) {
    kept.clear(), sizes.clear();
    actswap_call c = {};
    c.abi = ACTSWAP_ABI;
    c.op = (int)between(0, 4), c.dtype = (int)between(0, 2);
    c.batch = between(1, 5), c.groups = between(1, 3), c.channels = between(1, 40);
    c.inner = between(0, 4) ? between(1, 70) : between(100, 20000 / c.channels + 200);
    if (between(0, 3) == 0) c.groups = 1;
    if (between(0, 9) == 0) c.batch = c.groups = c.channels = 1, c.inner = between(1, 40000);
    actswap_convolution made = {};
    const bool joins = between(0, 4) == 0, planar = !joins && between(0, 1), back = !joins && between(0, 1);
    if (joins) c.dtype = ACTSWAP_F32, c.groups = between(1, 5), convolve(c, made);
    const int64_t C = c.groups * c.channels;
    auto slot = [&](int i, int64_t width, bool may_share, bool wants = true) {
        bool share = may_share && (C == 1 || between(0, 3) == 0);
        if (share) c.shared |= 1u << i;
        int64_t n = width * (share ? 1 : C);
        c.param[i] = numbers(n);
        if (back && wants && between(0, 3)) c.grad_param[i] = numbers(n, false);
    };
    auto whole = [&](int i, int64_t n) {
        c.param[i] = numbers(n);
        if (back && between(0, 3)) c.grad_param[i] = numbers(n, false);
    };
    if (c.op == ACTSWAP_ACON) {
        for (int i = 0; i < 3; ++i)
            if (between(0, 3)) slot(i, 1, true);
    } else if (c.op == ACTSWAP_META_ACON) {
        c.hidden = (int)between(1, 20);
        for (int i = 0; i < 3; ++i) slot(i, 1, true);
        whole(3, c.hidden * C), whole(4, c.hidden), whole(5, C * c.hidden), whole(6, C);
    } else if (c.op == ACTSWAP_DY_RELU) {
        c.hidden = (int)between(1, 20), c.pieces = (int)between(1, 4);
        bool all = between(0, 1);
        if (all) c.flags |= ACTSWAP_SPATIAL_ALL;
        int64_t rows = 2 * c.pieces * (all ? 1 : C);
        whole(0, c.hidden * C), whole(1, c.hidden), whole(2, rows * c.hidden), whole(3, rows);
        if (all || between(0, 1)) c.shared |= 1u << 4, whole(4, 2 * c.pieces);
        else whole(4, 2 * c.pieces * C);
        whole(5, 2 * c.pieces);
        if (!joins && between(0, 2) == 0) {
            c.flags |= ACTSWAP_ATTENTION;
            slot(6, 1, true), whole(7, 1), c.param[8] = numbers(2);
        }
    } else {
        c.form = (int)between(c.op == ACTSWAP_OPAU ? 0 : 0, c.op == ACTSWAP_OPAU ? 1 : 3);
        c.basis = (int)between(0, 5);
        bool common = between(0, 1);
        c.degree_p = common ? 5 : (int)between(0, 15), c.degree_q = common ? 4 : (int)between(1, 14);
        int q = c.degree_q + (c.op == ACTSWAP_PAU && c.form == ACTSWAP_FORM_C);
        slot(0, c.degree_p + 1, true), slot(1, q, true), slot(2, 5, true, false);
    }
    if (between(0, 1)) c.flags |= ACTSWAP_SPLIT;
    if (back) c.flags |= ACTSWAP_BACKWARD;
    const int64_t outputs = c.op == ACTSWAP_META_ACON ? C : 2 * c.pieces * (c.flags & ACTSWAP_SPATIAL_ALL ? 1 : C);
    if (c.hidden && between(0, 1)) c.param[9] = numbers(outputs * c.hidden);
    Tensor x(c, planar, c.dtype, true), g(c, planar, c.dtype, true);
    bool gated = c.op == ACTSWAP_META_ACON || c.op == ACTSWAP_DY_RELU;
    if (gated && between(0, 1)) {
        c.mean = numbers(c.batch * (C + (c.flags & ACTSWAP_ATTENTION ? c.inner : 0)));
        if (back) {  // what forward would have left there
            actswap_call f = c;
            f.flags &= ~ACTSWAP_BACKWARD;
            Tensor y(c, planar, c.dtype, false);
            memcpy(f.x_stride, x.stride, sizeof x.stride), memcpy(f.y_stride, y.stride, sizeof y.stride);
            f.x = x.data.get(), f.y = y.data.get();
            run(f, false);
        }
    }
    if (gated && !back && !(c.flags & ACTSWAP_ATTENTION) && between(0, 3) == 0) {
        c.pooled = (int)between(1, 60);
        c.param[c.op == ACTSWAP_META_ACON ? 3 : 0] = numbers(c.hidden * c.pooled), c.mean = numbers(c.batch * c.pooled);
    }
    Tensor first(c, planar, c.dtype, false);
    c.x = x.data.get(), c.grad_y = g.data.get();
    memcpy(c.x_stride, x.stride, sizeof x.stride), memcpy(c.g_stride, g.stride, sizeof g.stride);
    memcpy(c.y_stride, first.stride, sizeof first.stride);
    bool skip = gated && back && between(0, 4) == 0;
    c.y = skip ? nullptr : first.data.get();
    if (joins) c.x = c.y, memcpy(c.x_stride, c.y_stride, sizeof c.x_stride);
    c.x_size = (joins ? first : x).count(c.dtype), c.y_size = first.count(c.dtype), c.g_size = g.count(c.dtype);
    tell_sizes(c);
    made.x_size = size_of(made.x), made.weight_size = size_of(made.weight), made.bias_size = size_of(made.bias);
    made.sum_size = size_of(made.sum);
    if (*actswap_check(&c)) return fprintf(stderr, "call %d refused: %s\n", number, actswap_check(&c)), false;

    run(c, false);
    std::vector<char> y(first.data.get(), first.data.get() + first.bytes);
    std::vector<std::vector<float>> grads;
    for (int i = 0; i < ACTSWAP_SLOTS; ++i)
        grads.push_back(std::vector<float>(c.grad_param[i], c.grad_param[i] + size_of(c.grad_param[i])));
    run(c, true);
    if (memcmp(y.data(), first.data.get(), first.bytes))
        return fprintf(stderr, "call %d: y depends on the split\n", number), false;
    for (int i = 0; i < ACTSWAP_SLOTS; ++i)
        if (!grads[i].empty() && memcmp(grads[i].data(), c.grad_param[i], grads[i].size() * sizeof(float)))
            return fprintf(stderr, "call %d: gradient %d depends on the split\n", number, i), false;
    refused += hostile(c, made, x, first, g);
    return true;
}

}  // namespace

// The calls on one instruction set; the exit status of its process.
static int all_calls(const char *isa, int calls, unsigned seed) {
    setenv("ACTSWAP_ISA", isa, 1);
    if (strcmp(isa, actswap_isa())) return printf("%s: not on this processor\n", isa), 0;
    engine.seed(seed);
    for (int i = 0; i < calls; ++i)
        if (!one(i)) return 1;
    printf("%s: %d random calls and %d hostile ones (%lld refused), no finding\n", isa, calls, calls,
           (long long)refused);
    return 0;
}

int main(int count, char **arguments) {
    const int calls = count > 1 ? atoi(arguments[1]) : 1000;
    const unsigned seed = count > 2 ? (unsigned)atoi(arguments[2]) : 1u;
    for (const char *isa : {"base", "avx2", "avx512", "avx512bf16"}) {
        int status = 0;
        const pid_t child = fork();
        if (child == 0) exit(all_calls(isa, calls, seed));
        if (child < 0 || waitpid(child, &status, 0) < 0 || status) return fprintf(stderr, "%s failed\n", isa), 1;
    }
    return 0;
}
