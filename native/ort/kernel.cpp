/* From a node's tensors to a call of the kernel core. */
#include "kernel.h"

#include "actswap_kernels.h"
#include "attention.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace actswap {
namespace {

/* About 20 microseconds of work: less is not worth a thread. */
constexpr int64_t kElementsPerTask = 1 << 14;
/* Below this many samples an operator that pools is spread over planes, so that every thread has a part. */
constexpr int64_t kFewSamples = 4;

struct Tensor {
    const float *data = nullptr;
    std::vector<int64_t> dims;

    int64_t size() const {
        int64_t n = 1;
        for (int64_t d : dims)
            n *= d;
        return n;
    }
};

/* The inputs and the output of one run, and float buffers for parameters that had to be rearranged. */
struct Frame {
    Runtime runtime;
    OrtKernelContext *context;
    std::vector<Tensor> inputs;
    void *y = nullptr;
    std::vector<std::unique_ptr<float[]>> buffers;

    float *buffer(int64_t size) {
        buffers.emplace_back(new float[size_t(std::max<int64_t>(size, 1))]);
        return buffers.back().get();
    }

    OrtStatus *open(int count) {
        inputs.resize(size_t(count));
        for (int i = 0; i < count; ++i) {
            const OrtValue *value = nullptr;
            if (OrtStatus *status = runtime.input(context, size_t(i), &value))
                return status;
            OrtTensorTypeAndShapeInfo *info = nullptr;
            if (OrtStatus *status = runtime.type_and_shape(value, &info))
                return status;
            size_t rank = 0;
            OrtStatus *status = runtime.rank(info, &rank);
            if (!status) {
                inputs[size_t(i)].dims.resize(rank);
                status = runtime.dims(info, inputs[size_t(i)].dims.data(), rank);
            }
            runtime.release(info);
            if (status)
                return status;
            void *data = nullptr;
            if (OrtStatus *failed = runtime.data(const_cast<OrtValue *>(value), &data))
                return failed;
            inputs[size_t(i)].data = static_cast<const float *>(data);
        }
        OrtValue *value = nullptr;
        if (OrtStatus *status = runtime.output(context, inputs[0].dims.data(), inputs[0].dims.size(), &value))
            return status;
        return runtime.data(value, &y);
    }
};

/* How x is cut up; `axis` is the channel axis, -1 for one set of parameters over everything. */
bool lay_out(const std::vector<int64_t> &dims, int64_t axis, bool pools, int64_t block, actswap_call *call) {
    const int64_t rank = int64_t(dims.size());
    auto product = [&](int64_t from, int64_t to) {
        int64_t n = 1;
        for (int64_t i = from; i < to; ++i)
            n *= dims[size_t(i)];
        return n;
    };
    int64_t batch, groups = 1, channels, inner, stride[4];
    if (block) {
        if (rank != 4 || dims[1] % block)
            return false;
        batch = dims[0], groups = dims[1] / block, channels = block, inner = dims[2] * dims[3];
        const int64_t s[4] = {groups * block * inner, block * inner, 1, block};
        std::copy(s, s + 4, stride);
    } else if (axis < 0) {
        batch = 1, channels = 1, inner = product(0, rank);
        const int64_t s[4] = {inner, 0, inner, 1};
        std::copy(s, s + 4, stride);
    } else if (axis == rank - 1 && rank > 1) {
        batch = dims[0], inner = product(1, axis), channels = dims[size_t(axis)];
        if (!pools) /* rows are alike: one long run is split more evenly than many short ones */
            inner *= batch, batch = 1;
        const int64_t s[4] = {inner * channels, 0, 1, channels};
        std::copy(s, s + 4, stride);
    } else {
        if (pools && axis != 1)
            return false;
        batch = product(0, axis), channels = dims[size_t(axis)], inner = product(axis + 1, rank);
        const int64_t s[4] = {channels * inner, 0, inner, 1};
        std::copy(s, s + 4, stride);
    }
    call->batch = batch, call->groups = groups, call->channels = channels, call->inner = inner;
    std::copy(stride, stride + 4, call->x_stride);
    std::copy(stride, stride + 4, call->y_stride);
    return true;
}

/* The channel axis of a parameter that broadcasts against x: one value for all gives -1. */
int64_t axis_of(const Tensor &parameter, int64_t rank, int64_t leading) {
    const int64_t own = int64_t(parameter.dims.size()) - leading;
    return own <= 0 ? -1 : rank - own;
}

void parameter(actswap_call *call, int slot, const Tensor &tensor, int64_t width) {
    call->param[slot] = tensor.data;
    if (tensor.size() == 1 && width != 1)
        call->shared |= 1u << slot;
}

/* (n, C, 1, 1) or (n) coefficients as rows (C, n); left as they are where the table has them already. */
void coefficients(Frame *frame, actswap_call *call, int slot, const Tensor &tensor, int64_t width, bool ready) {
    const int64_t n = tensor.dims[0], c = tensor.size() / std::max<int64_t>(n, 1);
    if (c == 1) {
        call->param[slot] = tensor.data;
        if (width != 1)
            call->shared |= 1u << slot;
        return;
    }
    if (ready) {
        call->param[slot] = tensor.data;
        return;
    }
    float *rows = frame->buffer(n * c);
    for (int64_t j = 0; j < n; ++j)
        for (int64_t i = 0; i < c; ++i)
            rows[i * n + j] = tensor.data[j * c + i];
    call->param[slot] = rows;
}

/* Repeat every row of (rows, n) values `times` times. */
const float *repeated(Frame *frame, const float *data, int64_t rows, int64_t n, int64_t times, float factor = 1) {
    float *out = frame->buffer(rows * n * times);
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t t = 0; t < times; ++t)
            for (int64_t i = 0; i < n; ++i)
                out[(r * times + t) * n + i] = data[r * n + i] * factor;
    return out;
}

bool pools_over(Kind kind) { return kind == Kind::kMetaAcon || kind == Kind::kDyRelu || kind == Kind::kDyReluC; }

/* (H, C) weights of the pooled mean; (H, 1), the mean over the channels too, becomes 1/C for each of them. */
const float *pooled_weights(Frame *frame, const Tensor &w1, int64_t width) {
    if (w1.dims[1] == width)
        return w1.data;
    return repeated(frame, w1.data, w1.dims[0], 1, width, 1.0f / float(width));
}

/* Runs the phases; `kernel` lends the table of an operator that does not pool, or takes it over. */
OrtStatus *run(Frame *frame, actswap_call *call, const Kernel &kernel, const Table *ready) {
    if (const char *wrong = actswap_check(call); *wrong)
        return frame->runtime.status(ORT_INVALID_ARGUMENT, wrong);
    const size_t bytes = ready ? 0 : (actswap_workspace(call) + 63) / 64 * 64;
    std::unique_ptr<void, Free> own(bytes ? std::aligned_alloc(64, bytes) : nullptr);
    if (bytes && !own)
        return frame->runtime.status(ORT_FAIL, "actswap: out of memory");
    void *work = ready ? ready->work.get() : own.get();
    const int64_t elements = call->batch * call->groups * call->channels * call->inner;
    struct Range {
        const actswap_call *call;
        void *work;
        int phase;
        int64_t units, tasks;
    };
    for (int phase = ready ? 1 : 0; phase < actswap_phases(call); ++phase) {
        const int64_t units = actswap_units(call, phase);
        const int64_t tasks = std::min(units, std::max<int64_t>(elements / kElementsPerTask, 1));
        if (tasks <= 1) {
            actswap_run(call, work, phase, 0, units);
            continue;
        }
        Range range{call, work, phase, units, tasks};
        auto part = [](void *data, size_t i) {
            const Range &r = *static_cast<Range *>(data);
            const int64_t k = int64_t(i);
            actswap_run(r.call, r.work, r.phase, r.units * k / r.tasks, r.units * (k + 1) / r.tasks);
        };
        if (OrtStatus *status = frame->runtime.parallel_for(frame->context, part, size_t(tasks), &range))
            return status;
    }
    if (!ready && kernel.constant && !pools_over(kernel.definition->kind)) {
        auto *made = new Table{call->groups * call->channels, std::move(own)};
        Table *none = nullptr;
        if (!kernel.table.compare_exchange_strong(none, made, std::memory_order_acq_rel))
            delete made; /* another run was first */
    }
    return nullptr;
}

/* [n][before][c][after] as [n][c][before][after]; elements of `size` bytes. */
void move_axis(const void *from, void *to, int64_t n, int64_t before, int64_t c, int64_t after, int64_t size) {
    const char *x = static_cast<const char *>(from);
    char *y = static_cast<char *>(to);
    const size_t run = size_t(after * size);
    for (int64_t i = 0; i < n; ++i)
        for (int64_t k = 0; k < c; ++k)
            for (int64_t j = 0; j < before; ++j, y += run)
                std::memcpy(y, x + ((i * before + j) * c + k) * after * size, run);
}

/* The channel axis that the node names, or that its parameters' shapes tell; -1 for one set of parameters. */
int64_t channel_axis(const Kernel &kernel, const std::vector<Tensor> &in) {
    const Kind kind = kernel.definition->kind;
    const int64_t rank = int64_t(in[0].dims.size());
    if (pools_over(kind))
        return (kernel.dim + rank) % rank;
    int64_t axis = -1;
    for (size_t i = 1; i < in.size(); ++i)
        axis = std::max(axis, axis_of(in[i], rank, kind == Kind::kPau || kind == Kind::kOpau ? 1 : 0));
    return axis;
}

OrtStatus *evaluate(const Kernel &kernel, Frame &frame, int64_t axis) {
    const Definition &op = *kernel.definition;
    const std::vector<Tensor> &in = frame.inputs;
    actswap_call call;
    std::memset(&call, 0, sizeof call);
    call.abi = ACTSWAP_ABI;
    call.dtype = op.type == ORT_FLOAT16 ? ACTSWAP_F16 : ACTSWAP_F32;
    call.x = in[0].data;
    call.y = frame.y;
    const bool pools = pools_over(op.kind);
    if (axis >= int64_t(in[0].dims.size()) || !lay_out(in[0].dims, axis, pools, kernel.block, &call))
        return op.runtime.status(ORT_INVALID_ARGUMENT, "actswap: this layout of x has no kernel");
    const int64_t width = call.groups * call.channels;
    const Table *ready = kernel.table.load(std::memory_order_acquire);
    if (ready && ready->width != width)
        ready = nullptr;
    if (kernel.cap != INFINITY && op.kind != Kind::kDyReluC)
        call.flags |= ACTSWAP_CAPPED, call.cap = kernel.cap;
    if (pools && call.batch < kFewSamples)
        call.flags |= ACTSWAP_SPLIT;

    switch (op.kind) {
    case Kind::kSwish:
        call.op = ACTSWAP_ACON;
        parameter(&call, 2, in[1], width);
        break;
    case Kind::kSwishSkip: { /* x sigmoid(beta x) + skip x: the slopes are 1 + skip and skip */
        call.op = ACTSWAP_ACON;
        parameter(&call, 1, in[2], width);
        parameter(&call, 2, in[1], width);
        const int64_t n = in[2].size();
        float *p1 = frame.buffer(n);
        for (int64_t i = 0; i < n; ++i)
            p1[i] = 1 + in[2].data[i];
        call.param[0] = p1;
        call.shared |= call.shared >> 1 & 1;
        break;
    }
    case Kind::kAconB:
        call.op = ACTSWAP_ACON;
        parameter(&call, 1, in[1], width);
        parameter(&call, 2, in[2], width);
        break;
    case Kind::kAconC:
        call.op = ACTSWAP_ACON;
        for (int i = 0; i < 3; ++i)
            parameter(&call, i, in[size_t(i + 1)], width);
        break;
    case Kind::kMetaAcon: {
        call.op = ACTSWAP_META_ACON;
        for (int i = 0; i < 3; ++i)
            parameter(&call, i, in[size_t(i + 1)], width);
        call.hidden = int32_t(in[4].dims[0]);
        call.param[3] = pooled_weights(&frame, in[4], width);
        call.param[4] = in[5].data;
        const bool one = in[6].dims[0] == 1 && width != 1;
        call.param[5] = one ? repeated(&frame, in[6].data, 1, call.hidden, width) : in[6].data;
        call.param[6] = in[7].size() == 1 ? repeated(&frame, in[7].data, 1, 1, width) : in[7].data;
        break;
    }
    case Kind::kDyRelu:
    case Kind::kDyReluC: {
        call.op = ACTSWAP_DY_RELU;
        const int64_t rows = in[6].size();
        call.pieces = int32_t(rows / 2);
        call.hidden = int32_t(in[1].dims[0]);
        call.param[0] = pooled_weights(&frame, in[1], width);
        call.param[1] = in[2].data;
        call.param[5] = in[6].data;
        const bool all = in[3].dims[0] == rows && in[5].size() == rows;
        if (all && width != 1)
            call.flags |= ACTSWAP_SPATIAL_ALL;
        const bool spread = !all && in[3].dims[0] == rows;
        call.param[2] = spread ? repeated(&frame, in[3].data, rows, call.hidden, width) : in[3].data;
        call.param[3] = spread ? repeated(&frame, in[4].data, rows, 1, width) : in[4].data;
        const bool even = !all && in[5].size() == rows;
        call.param[4] = even ? repeated(&frame, in[5].data, rows, 1, width) : in[5].data;
        break;
    }
    case Kind::kPau:
    case Kind::kOpau:
        call.op = op.kind == Kind::kPau ? ACTSWAP_PAU : ACTSWAP_OPAU;
        call.form = op.form, call.basis = op.basis, call.degree_p = op.degree_p, call.degree_q = op.degree_q;
        for (int i = 0; i < 3; ++i)
            coefficients(&frame, &call, i, in[size_t(i + 1)], width, ready);
        break;
    }
    if (op.kind != Kind::kDyReluC)
        return run(&frame, &call, kernel, ready);

    /* The attention is read from x before y, which may lie on x, is written. */
    float *gates = frame.buffer(call.batch * call.inner);
    const bool same = in[7].size() == 1;
    attention(call, in[7].data, same, in[8].data[0], kernel.tau, kernel.gain, gates);
    if (OrtStatus *status = run(&frame, &call, kernel, nullptr))
        return status;
    scale(call, gates);
    return nullptr;
}

} // namespace

OrtStatus *Kernel::compute(OrtKernelContext *context) const {
    Frame frame{definition->runtime, context, {}, nullptr, {}};
    if (OrtStatus *status = frame.open(definition->inputs))
        return status;
    Tensor &x = frame.inputs[0];
    if (x.size() == 0)
        return nullptr;
    const int64_t axis = channel_axis(*this, frame.inputs), rank = int64_t(x.dims.size());
    if (!pools_over(definition->kind) || axis <= 1 || axis >= rank - 1)
        return evaluate(*this, frame, axis);

    /* Channels in the middle: what the mean runs over is in two pieces, so they are brought together first. */
    int64_t before = 1, after = 1;
    for (int64_t i = 1; i < rank; ++i)
        (i < axis ? before : after) *= i == axis ? 1 : x.dims[size_t(i)];
    const int64_t n = x.dims[0], c = x.dims[size_t(axis)], size = definition->type == ORT_FLOAT16 ? 2 : 4;
    void *y = frame.y;
    float *moved = frame.buffer(x.size());
    move_axis(x.data, moved, n, before, c, after, size);
    x.data = moved, x.dims = {n, c, before * after}, frame.y = moved;
    if (OrtStatus *status = evaluate(*this, frame, 1))
        return status;
    move_axis(moved, y, n, c, before, after, size);
    return nullptr;
}

} // namespace actswap
