#include "arrange.h"

#include <algorithm>

namespace actswap {

float *Arranged::buffer(int64_t size) {
    buffers.emplace_back(new float[size_t(std::max<int64_t>(size, 1))]);
    return buffers.back().get();
}

// A tensor whose axes after `lead` broadcast to the channels' as rows: numbers [row][channel].
const float *Arranged::broadcast(const Tensor &tensor, size_t lead, int64_t rows) {
    const int64_t each = tensor.size() / std::max<int64_t>(rows, 1);
    if (each == width) return tensor.data;
    float *out = buffer(rows * width);
    // The tensor's axes are aligned with the last axes of x; those behind the channels have size 1.
    const size_t own = tensor.dims.size() - lead;
    Dims step(sizes.size(), 0);
    for (size_t axis = 0, last = sizes.size(); axis < last; ++axis) {
        const size_t behind = last - axis + trailing;
        if (behind > own) continue;
        int64_t s = 1;
        for (size_t i = tensor.dims.size() - behind + 1; i < tensor.dims.size(); ++i) s *= tensor.dims[i];
        step[axis] = tensor.dims[tensor.dims.size() - behind] == 1 ? 0 : s;
    }
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t i = 0; i < width; ++i) {
            int64_t from = row * each, rest = i;
            for (size_t axis = sizes.size(); axis-- > 0; rest /= sizes[axis]) from += rest % sizes[axis] * step[axis];
            out[row * width + i] = tensor.data[from];
        }
    return out;
}

// One number for each channel, or one for all.
void Arranged::parameter(int slot, const Tensor &tensor) {
    if (tensor.size() == 1) {
        set(slot, tensor.data, 1);
        if (width != 1) call.shared |= 1u << slot;
        return;
    }
    set(slot, broadcast(tensor, 0, 1), width);
}

// (n, ...) coefficients as rows (C, n).
void Arranged::coefficients(int slot, const Tensor &tensor) {
    const int64_t n = tensor.dims[0];
    if (tensor.size() == n) {
        set(slot, tensor.data, n);
        if (width != 1) call.shared |= 1u << slot;
        return;
    }
    const float *columns = broadcast(tensor, 1, n);
    set(slot, turned(columns, n, width), n * width);
}

// Every row of (rows, n) numbers `times` times, each times a factor.
const float *Arranged::repeated(const float *data, int64_t rows, int64_t n, int64_t times, float factor) {
    float *out = buffer(rows * n * times);
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t t = 0; t < times; ++t)
            for (int64_t i = 0; i < n; ++i) out[(r * times + t) * n + i] = data[r * n + i] * factor;
    return out;
}

// (rows, n) as (n, rows).
const float *Arranged::turned(const float *data, int64_t rows, int64_t n) {
    float *out = buffer(rows * n);
    for (int64_t i = 0; i < n; ++i)
        for (int64_t r = 0; r < rows; ++r) out[i * rows + r] = data[r * n + i];
    return out;
}

// The two layers of a gate with `rows` outputs. First weights (H, 1) belong to the mean over the channels too; they
// become 1/C for each channel. If the second layer is `spread`, it has one output, which is repeated for each channel.
void Arranged::layers(const Tensor *layer, int first, bool given, int64_t rows, bool spread, bool kept) {
    const Tensor &w1 = layer[0], &w2 = layer[2], &b2 = layer[3];
    const int64_t hidden = w1.dims[0], features = given ? w1.dims[1] : width, own = w2.dims[0];
    call.hidden = int32_t(hidden);
    const bool whole = w1.dims[1] != features;
    set(first, whole ? repeated(w1.data, hidden, 1, width, 1.0f / float(width)) : w1.data, hidden * features);
    set(first + 1, layer[1].data, hidden);
    set(first + 2, spread ? repeated(w2.data, own, hidden, rows / own) : w2.data, rows * hidden);
    const int64_t biases = b2.size();
    set(first + 3, biases == rows ? b2.data : repeated(b2.data, biases, 1, rows / biases), rows);
    if (kept) set(9, turned(call.param[first + 2], rows, hidden), rows * hidden);
}

void Arranged::meta_acon(const Definition &op, const std::vector<Tensor> &in, bool kept) {
    call.op = ACTSWAP_META_ACON;
    for (int i = 0; i < 2; ++i) parameter(i, in[size_t(i)]);
    set(2, in[2].data, in[2].size());
    if (in[2].size() == 1 && width != 1) call.shared |= 4;
    layers(&in[3], 3, op.given, width, in[5].dims[0] != width, kept);
}

void Arranged::dy_relu(const Definition &op, const Attributes &attributes, const std::vector<Tensor> &in, bool kept) {
    const int64_t lines = 2 * op.pieces;
    const bool one_gate = in[2].dims[0] == lines, one_start = in[4].dims[1] == 1, all = one_gate && one_start;
    call.op = ACTSWAP_DY_RELU;
    call.pieces = op.pieces;
    if (all && width != 1) call.flags |= ACTSWAP_SPATIAL_ALL;
    layers(&in[0], 0, op.given, all ? lines : lines * width, one_gate && !all, kept);
    set(4, !all && one_start ? repeated(in[4].data, lines, 1, width) : in[4].data, all ? lines : lines * width);
    set(5, in[5].data, lines);
    if (op.kind != Kind::DY_RELU_C) return;
    call.flags |= ACTSWAP_ATTENTION;
    parameter(6, in[6]);
    set(7, in[7].data, 1);
    float *numbers = buffer(2);
    numbers[0] = attributes.tau, numbers[1] = attributes.gain;
    set(8, numbers, 2);
}

bool Arranged::suits(const Attributes &attributes, const Channels &channels, const Dims &x) const {
    if (attributes.block) return sizes[0] == x[1];
    return int64_t(sizes.size()) == channels.last - channels.first && trailing == x.size() - size_t(channels.last) &&
           std::equal(sizes.begin(), sizes.end(), x.begin() + channels.first);
}

Arranged::Arranged(const Definition &op, const Attributes &attributes, const std::vector<Tensor> &in,
                   const Channels &channels, const Dims &x, bool kept) {
    sizes.assign(x.begin() + channels.first, x.begin() + channels.last);
    if (attributes.block) sizes = {x[1]};
    for (int64_t n : sizes) width *= n;
    trailing = x.size() - size_t(attributes.block ? 2 : channels.last);
    fill(op, attributes, in, kept);
}

void Arranged::fill(const Definition &op, const Attributes &attributes, const std::vector<Tensor> &in, bool kept) {
    switch (op.kind) {
        case Kind::SWISH:
            call.op = ACTSWAP_ACON;
            return parameter(2, in[0]);
        case Kind::SWISH_SKIP: {  // x sigmoid(beta x) + skip x: the slopes are 1 + skip and skip
            call.op = ACTSWAP_ACON;
            parameter(1, in[1]);
            parameter(2, in[0]);
            const int64_t n = call.param_size[1];
            float *p1 = buffer(n);
            for (int64_t i = 0; i < n; ++i) p1[i] = 1 + call.param[1][i];
            set(0, p1, n);
            call.shared |= call.shared >> 1 & 1;
            return;
        }
        case Kind::ACON_B:
            call.op = ACTSWAP_ACON;
            parameter(1, in[0]);
            return parameter(2, in[1]);
        case Kind::ACON_C:
            call.op = ACTSWAP_ACON;
            for (int i = 0; i < 3; ++i) parameter(i, in[size_t(i)]);
            return;
        case Kind::META_ACON: return meta_acon(op, in, kept);
        case Kind::DY_RELU:
        case Kind::DY_RELU_C: return dy_relu(op, attributes, in, kept);
        case Kind::PAU:
        case Kind::OPAU:
            call.op = op.kind == Kind::PAU ? ACTSWAP_PAU : ACTSWAP_OPAU;
            call.form = op.form, call.basis = op.basis, call.degree_p = op.degree_p, call.degree_q = op.degree_q;
            for (int i = 0; i < 3; ++i) coefficients(i, in[size_t(i)]);
            return;
        case Kind::CONVOLUTION: return;  // it has the kind of its activation by now
    }
}

}  // namespace actswap
