/* One run of a node: from its tensors to a call of the kernel core. */
#include "kernel.h"

#include "actswap_kernels.h"
#include "attention.h"

#include <algorithm>
#include <cstring>

namespace actswap {
namespace {

/* About 20 microseconds of work: less is not worth a thread. */
constexpr int64_t kElementsPerTask = 1 << 14;
/* Below this many samples an operator that pools is spread over planes, so that every thread has a part. */
constexpr int64_t kFewSamples = 4;

/* What one run reads and writes. With a convolution x is what that makes, in y. */
struct Frame {
    OrtKernelContext *context;
    Tensor x;
    const actswap_convolution *convolution;
    const std::vector<Tensor> &parameters;
    Tensor mean; /* where it is given */
    void *y;
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

/* Runs the phases in `work`, from `first` on. */
OrtStatus *run(const Kernel &kernel, OrtKernelContext *context, const actswap_call &call, void *work, int first) {
    int64_t elements = call.batch * call.groups * call.channels * call.inner;
    if (call.convolution) /* several products are as much work as an activation */
        elements += elements / 16 * std::max<int64_t>(call.convolution->inputs, 16);
    const int64_t most = std::max<int64_t>(elements / kElementsPerTask, 1);
    struct Range {
        const actswap_call *call;
        void *work;
        int phase;
        int64_t units, tasks;
    };
    for (int phase = first; phase < actswap_phases(&call); ++phase) {
        const int64_t units = actswap_units(&call, phase), tasks = std::min(units, most);
        if (tasks <= 1) {
            actswap_run(&call, work, phase, 0, units);
            continue;
        }
        Range range{&call, work, phase, units, tasks};
        auto part = [](void *data, size_t i) {
            const Range &r = *static_cast<Range *>(data);
            const int64_t k = int64_t(i);
            actswap_run(r.call, r.work, r.phase, r.units * k / r.tasks, r.units * (k + 1) / r.tasks);
        };
        if (OrtStatus *status = kernel.definition->runtime.parallel_for(context, part, size_t(tasks), &range))
            return status;
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
int64_t channel_axis(const Kernel &kernel, const Frame &frame) {
    const Kind kind = kernel.definition->kind;
    const int64_t rank = int64_t(frame.x.dims.size());
    if (pools_over(kind))
        return (kernel.dim + rank) % rank;
    const int64_t leading = kind == Kind::kPau || kind == Kind::kOpau ? 1 : 0;
    int64_t axis = -1;
    for (const Tensor &parameter : frame.parameters) { /* one that broadcasts: its first axis is the channels' */
        const int64_t own = int64_t(parameter.dims.size()) - leading;
        axis = std::max(axis, own <= 0 ? -1 : rank - own);
    }
    return axis;
}

/* What the attention of DY-ReLU C does to a call that has been run, from gates made before y overwrote x. */
struct Gates {
    std::unique_ptr<float[]> values;

    Gates(const Kernel &kernel, const Frame &frame, const actswap_call &call) {
        if (kernel.definition->kind != Kind::kDyReluC)
            return;
        values.reset(new float[size_t(call.batch * call.inner)]);
        const Tensor &ws = frame.parameters[6], &bs = frame.parameters[7];
        attention(call, ws.data, ws.size() == 1, bs.data[0], kernel.tau, kernel.gain, values.get());
    }
    void apply(const actswap_call &call) const {
        if (values)
            scale(call, values.get());
    }
};

OrtStatus *evaluate(const Kernel &kernel, const Frame &frame, int64_t axis) {
    const Definition &op = *kernel.definition;
    const bool pools = pools_over(op.kind);
    actswap_call shape = {};
    if (axis >= int64_t(frame.x.dims.size()) || !lay_out(frame.x.dims, axis, pools, kernel.block, &shape))
        return op.runtime.status(ORT_INVALID_ARGUMENT, "actswap: this layout of x has no kernel");
    const int64_t width = shape.groups * shape.channels;
    const Arranged *ready = kernel.arranged.load(std::memory_order_acquire);
    std::unique_ptr<Arranged> own;
    if (!ready || ready->width != width) {
        own.reset(new Arranged);
        own->width = width;
        arrange(op, frame.parameters, !kernel.constants.empty(), own.get());
        ready = own.get();
    }
    actswap_call call = ready->call;
    call.abi = ACTSWAP_ABI;
    call.dtype = op.type == ORT_FLOAT16 ? ACTSWAP_F16 : ACTSWAP_F32;
    call.batch = shape.batch, call.groups = shape.groups, call.channels = shape.channels, call.inner = shape.inner;
    std::copy(shape.x_stride, shape.x_stride + 4, call.x_stride);
    std::copy(shape.y_stride, shape.y_stride + 4, call.y_stride);
    call.x = frame.x.data;
    call.convolution = frame.convolution;
    call.y = frame.y;
    if (kernel.cap != INFINITY && op.kind != Kind::kDyReluC)
        call.flags |= ACTSWAP_CAPPED, call.cap = kernel.cap;
    if (pools && call.batch < kFewSamples)
        call.flags |= ACTSWAP_SPLIT;
    if (op.given) {
        call.pooled = int32_t(frame.mean.size() / call.batch);
        call.mean = const_cast<float *>(frame.mean.data); /* read only, since `pooled` says that it is given */
        if (frame.mean.size() != call.batch * frame.parameters[op.kind == Kind::kMetaAcon ? 3 : 0].dims[1])
            return op.runtime.status(ORT_INVALID_ARGUMENT, "actswap: the means do not suit the weights");
    }
    if (const char *wrong = own || call.convolution ? actswap_check(&call) : ""; *wrong)
        return op.runtime.status(ORT_INVALID_ARGUMENT, wrong);

    std::unique_ptr<void, Free> work;
    if (!ready->work) {
        work.reset(std::aligned_alloc(64, (actswap_workspace(&call) + 63) / 64 * 64));
        if (!work)
            return op.runtime.status(ORT_FAIL, "actswap: out of memory");
    }
    const Gates gates(kernel, frame, call);
    void *place = work ? work.get() : ready->work.get();
    if (OrtStatus *status = run(kernel, frame.context, call, place, work ? 0 : 1))
        return status;
    gates.apply(call);
    if (own && !kernel.constants.empty()) {
        if (!pools)
            own->work = std::move(work);
        const Arranged *none = nullptr;
        if (kernel.arranged.compare_exchange_strong(none, own.get(), std::memory_order_acq_rel))
            own.release(); /* else another run was first, or the number of channels is not always the same */
    }
    return nullptr;
}

OrtStatus *read_input(Runtime runtime, OrtKernelContext *context, size_t index, Tensor *to) {
    const OrtValue *value = nullptr;
    if (OrtStatus *status = runtime.input(context, index, &value))
        return status;
    return value ? read(runtime, value, to) : nullptr; /* NULL: an optional input that is not there */
}

} // namespace

OrtStatus *read(Runtime runtime, const OrtValue *value, Tensor *to) {
    OrtTensorTypeAndShapeInfo *info = nullptr;
    if (OrtStatus *status = runtime.type_and_shape(value, &info))
        return status;
    size_t rank = 0;
    OrtStatus *status = runtime.rank(info, &rank);
    if (!status) {
        to->dims.resize(rank);
        status = runtime.dims(info, to->dims.data(), rank);
    }
    runtime.release(info);
    if (status)
        return status;
    void *data = nullptr;
    status = runtime.data(const_cast<OrtValue *>(value), &data);
    to->data = static_cast<const float *>(data);
    return status;
}

OrtStatus *Kernel::compute(OrtKernelContext *context) const {
    const Runtime runtime = definition->runtime;
    std::vector<Tensor> given;
    if (constants.empty()) {
        given.resize(definition->parameters());
        for (size_t i = 0; i < given.size(); ++i)
            if (OrtStatus *status = read_input(runtime, context, first + i, &given[i]))
                return status;
    }
    Frame frame{context, {}, nullptr, constants.empty() ? given : constants, {}, nullptr};
    Tensor &x = frame.x, source, sum;
    if (OrtStatus *status = read_input(runtime, context, 0, &x))
        return status;
    if (definition->given)
        if (OrtStatus *status = read_input(runtime, context, first + definition->parameters(), &frame.mean))
            return status;
    if (convolution) {
        source = x, x.dims = convolution->output(source.dims);
        if (x.dims.empty())
            return runtime.status(ORT_INVALID_ARGUMENT, "actswap: x does not suit the weights of its Convolution");
        if (OrtStatus *status = read_input(runtime, context, kSum, &sum))
            return status;
        if (sum.data && sum.dims != x.dims)
            return runtime.status(ORT_INVALID_ARGUMENT, "actswap: what a Convolution adds is of another shape");
    }
    OrtValue *value = nullptr;
    if (OrtStatus *status = runtime.output(context, x.dims.data(), x.dims.size(), &value))
        return status;
    if (OrtStatus *status = runtime.data(value, &frame.y))
        return status;
    if (x.size() == 0)
        return nullptr;
    actswap_convolution made = {};
    if (convolution) {
        made = convolution->call(source, x.dims, sum.data);
        x.data = static_cast<const float *>(frame.y), frame.convolution = &made;
    }
    const int64_t axis = channel_axis(*this, frame), rank = int64_t(x.dims.size());
    if (!pools_over(definition->kind) || axis <= 1 || axis >= rank - 1)
        return evaluate(*this, frame, axis);

    /* Channels in the middle: what the mean runs over is in two pieces, so they are brought together first. */
    int64_t before = 1, after = 1;
    for (int64_t i = 1; i < rank; ++i)
        (i < axis ? before : after) *= i == axis ? 1 : x.dims[size_t(i)];
    const int64_t n = x.dims[0], c = x.dims[size_t(axis)], size = definition->type == ORT_FLOAT16 ? 2 : 4;
    void *y = frame.y;
    std::unique_ptr<float[]> moved(new float[size_t(x.size())]);
    move_axis(x.data, moved.get(), n, before, c, after, size);
    x.data = moved.get(), x.dims = {n, c, before * after}, frame.y = moved.get();
    if (OrtStatus *status = evaluate(*this, frame, 1))
        return status;
    move_axis(moved.get(), y, n, c, before, after, size);
    return nullptr;
}

} // namespace actswap
