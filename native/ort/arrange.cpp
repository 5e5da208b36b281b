#include "arrange.h"

#include <algorithm>

namespace actswap {
namespace {

void parameter(actswap_call *call, int slot, const Tensor &tensor, int64_t width) {
    call->param[slot] = tensor.data;
    if (tensor.size() == 1 && width != 1)
        call->shared |= 1u << slot;
}

/* (n, C, 1, 1) or (n) coefficients as rows (C, n). */
void coefficients(Arranged *to, int slot, const Tensor &tensor, int64_t width) {
    actswap_call *call = &to->call;
    const int64_t n = tensor.dims[0], c = tensor.size() / std::max<int64_t>(n, 1);
    if (c == 1) {
        call->param[slot] = tensor.data;
        if (width != 1)
            call->shared |= 1u << slot;
        return;
    }
    float *rows = to->buffer(n * c);
    for (int64_t j = 0; j < n; ++j)
        for (int64_t i = 0; i < c; ++i)
            rows[i * n + j] = tensor.data[j * c + i];
    call->param[slot] = rows;
}

/* Repeat every row of (rows, n) values `times` times. */
const float *repeated(Arranged *to, const float *data, int64_t rows, int64_t n, int64_t times, float factor = 1) {
    float *out = to->buffer(rows * n * times);
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t t = 0; t < times; ++t)
            for (int64_t i = 0; i < n; ++i)
                out[(r * times + t) * n + i] = data[r * n + i] * factor;
    return out;
}

/* (H, C) weights of the pooled mean; (H, 1), the mean over the channels too, becomes 1/C for each of them. */
const float *pooled_weights(Arranged *to, const Tensor &w1, int64_t width) {
    if (w1.dims[1] == width)
        return w1.data;
    return repeated(to, w1.data, w1.dims[0], 1, width, 1.0f / float(width));
}

/* (rows, n) as (n, rows). */
const float *turned(Arranged *to, const float *data, int64_t rows, int64_t n) {
    float *out = to->buffer(rows * n);
    for (int64_t i = 0; i < n; ++i)
        for (int64_t r = 0; r < rows; ++r)
            out[i * rows + r] = data[r * n + i];
    return out;
}

} // namespace

float *Arranged::buffer(int64_t size) {
    buffers.emplace_back(new float[size_t(std::max<int64_t>(size, 1))]);
    return buffers.back().get();
}

bool pools_over(Kind kind) { return kind == Kind::kMetaAcon || kind == Kind::kDyRelu || kind == Kind::kDyReluC; }

void arrange(const Definition &op, const std::vector<Tensor> &in, bool kept, Arranged *to) {
    actswap_call *call = &to->call;
    const int64_t width = to->width;
    switch (op.kind) {
    case Kind::kSwish:
        call->op = ACTSWAP_ACON;
        parameter(call, 2, in[0], width);
        break;
    case Kind::kSwishSkip: { /* x sigmoid(beta x) + skip x: the slopes are 1 + skip and skip */
        call->op = ACTSWAP_ACON;
        parameter(call, 1, in[1], width);
        parameter(call, 2, in[0], width);
        const int64_t n = in[1].size();
        float *p1 = to->buffer(n);
        for (int64_t i = 0; i < n; ++i)
            p1[i] = 1 + in[1].data[i];
        call->param[0] = p1;
        call->shared |= call->shared >> 1 & 1;
        break;
    }
    case Kind::kAconB:
        call->op = ACTSWAP_ACON;
        parameter(call, 1, in[0], width);
        parameter(call, 2, in[1], width);
        break;
    case Kind::kAconC:
        call->op = ACTSWAP_ACON;
        for (int i = 0; i < 3; ++i)
            parameter(call, i, in[size_t(i)], width);
        break;
    case Kind::kMetaAcon: {
        call->op = ACTSWAP_META_ACON;
        for (int i = 0; i < 3; ++i)
            parameter(call, i, in[size_t(i)], width);
        call->hidden = int32_t(in[3].dims[0]);
        call->param[3] = op.given ? in[3].data : pooled_weights(to, in[3], width);
        call->param[4] = in[4].data;
        const bool one = in[5].dims[0] == 1 && width != 1;
        call->param[5] = one ? repeated(to, in[5].data, 1, call->hidden, width) : in[5].data;
        if (kept)
            call->param[9] = turned(to, call->param[5], width, call->hidden);
        call->param[6] = in[6].size() == 1 ? repeated(to, in[6].data, 1, 1, width) : in[6].data;
        break;
    }
    case Kind::kDyRelu:
    case Kind::kDyReluC: {
        call->op = ACTSWAP_DY_RELU;
        const int64_t rows = in[5].size();
        call->pieces = int32_t(rows / 2);
        call->hidden = int32_t(in[0].dims[0]);
        call->param[0] = op.given ? in[0].data : pooled_weights(to, in[0], width);
        call->param[1] = in[1].data;
        call->param[5] = in[5].data;
        const bool all = in[2].dims[0] == rows && in[4].size() == rows;
        if (all && width != 1)
            call->flags |= ACTSWAP_SPATIAL_ALL;
        const bool spread = !all && in[2].dims[0] == rows;
        call->param[2] = spread ? repeated(to, in[2].data, rows, call->hidden, width) : in[2].data;
        call->param[3] = spread ? repeated(to, in[3].data, rows, 1, width) : in[3].data;
        if (kept)
            call->param[9] = turned(to, call->param[2], all ? rows : rows * width, call->hidden);
        const bool even = !all && in[4].size() == rows;
        call->param[4] = even ? repeated(to, in[4].data, rows, 1, width) : in[4].data;
        break;
    }
    case Kind::kPau:
    case Kind::kOpau:
        call->op = op.kind == Kind::kPau ? ACTSWAP_PAU : ACTSWAP_OPAU;
        call->form = op.form, call->basis = op.basis, call->degree_p = op.degree_p, call->degree_q = op.degree_q;
        for (int i = 0; i < 3; ++i)
            coefficients(to, i, in[size_t(i)], width);
        break;
    case Kind::kConvolution: /* it has the kind of its activation by now */
        break;
    }
}

} // namespace actswap
