// One run of a node: from its tensors to a call of the kernel core.
#include "kernel.h"

#include "layout.h"

#include <algorithm>

namespace actswap {
namespace {

// About 20 microseconds of work: less is not worth a thread.
constexpr int64_t ELEMENTS_PER_TASK = 1 << 14;
// Below this many samples an operator that pools is spread over planes, so that every thread has a part.
constexpr int64_t FEW_SAMPLES = 4;

// What one run reads and writes. With a convolution x is what that makes, in y.
struct Frame {
    OrtKernelContext *context;
    Tensor x;
    const actswap_convolution *convolution;
    const std::vector<Tensor> &parameters;
    Tensor mean;  // if it is given
    void *y;
};

// Runs the phases in `work`, from `first` on.
OrtStatus *run(Runtime runtime, OrtKernelContext *context, const actswap_call &call, void *work, int first) {
    int64_t elements = call.batch * call.groups * call.channels * call.inner;
    if (call.convolution)  // several products are as much work as an activation
        elements += elements / 16 * std::max<int64_t>(call.convolution->inputs, 16);
    const int64_t most = std::max<int64_t>(elements / ELEMENTS_PER_TASK, 1);
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
        if (OrtStatus *status = runtime.parallel_for(context, part, size_t(tasks), &range)) return status;
    }
    return nullptr;
}

actswap_call call_of(const Kernel &kernel, const Frame &frame, const Channels &channels, const Arranged &arranged) {
    const Definition &op = *kernel.definition;
    actswap_call call = arranged.call;
    lay_out(frame.x.dims, channels, op.pools(), kernel.attributes.block, &call);
    call.abi = ACTSWAP_ABI;
    call.dtype = op.type == ORT_FLOAT16 ? ACTSWAP_F16 : ACTSWAP_F32;
    call.x = frame.x.data, call.y = frame.y;
    call.convolution = frame.convolution;
    if (kernel.attributes.cap != INFINITY) call.flags |= ACTSWAP_CAPPED, call.cap = kernel.attributes.cap;
    if (op.pools() && call.batch < FEW_SAMPLES) call.flags |= ACTSWAP_SPLIT;
    if (op.given) {
        call.mean = const_cast<float *>(frame.mean.data);  // read only, since `pooled` says that it is given
        call.mean_size = frame.mean.size();
        call.pooled = int32_t(call.mean_size / call.batch);
    }
    return call;
}

OrtStatus *evaluate(const Kernel &kernel, const Frame &frame, const Channels &channels) {
    const Definition &op = *kernel.definition;
    const Arranged *ready = kernel.arranged.load(std::memory_order_acquire);
    std::unique_ptr<Arranged> own;
    if (!ready || !ready->suits(kernel.attributes, channels, frame.x.dims)) {
        if (const char *wrong = check_numbers(op, frame.parameters))
            return op.runtime.status(ORT_INVALID_ARGUMENT, wrong);
        const bool kept = !kernel.constants.empty();
        own.reset(new Arranged(op, kernel.attributes, frame.parameters, channels, frame.x.dims, kept));
        ready = own.get();
    }
    const actswap_call call = call_of(kernel, frame, channels, *ready);
    const char *wrong = actswap_check(&call);
    if (*wrong) return op.runtime.status(ORT_INVALID_ARGUMENT, wrong);

    std::unique_ptr<void, Free> work;
    if (!ready->work) {
        work.reset(std::aligned_alloc(64, (actswap_workspace(&call) + 63) / 64 * 64));
        if (!work) return op.runtime.status(ORT_FAIL, "actswap: out of memory");
    }
    void *place = work ? work.get() : ready->work.get();
    if (OrtStatus *status = run(op.runtime, frame.context, call, place, work ? 0 : 1)) return status;
    if (own && !kernel.constants.empty()) {
        if (!op.pools()) own->work = std::move(work);
        const Arranged *none = nullptr;
        if (kernel.arranged.compare_exchange_strong(none, own.get(), std::memory_order_acq_rel))
            own.release();  // else another run was first, or the number of channels is not always the same
    }
    return nullptr;
}

// Channels in the middle: what the mean runs over is in two pieces, so they are brought together first.
OrtStatus *evaluate_moved(const Kernel &kernel, Frame &frame, int64_t axis) {
    const Dims x = frame.x.dims;
    int64_t before = 1, after = 1;
    for (int64_t i = 1; i < int64_t(x.size()); ++i)
        if (i != axis) (i < axis ? before : after) *= x[size_t(i)];
    const int64_t n = x[0], c = x[size_t(axis)], size = kernel.definition->type == ORT_FLOAT16 ? 2 : 4;
    void *y = frame.y;
    std::unique_ptr<float[]> moved(new float[size_t(frame.x.size())]);
    move_axis(frame.x.data, moved.get(), n, before, c, after, size);
    frame.x.data = moved.get(), frame.x.dims = {n, c, before * after}, frame.y = moved.get();
    if (OrtStatus *status = evaluate(kernel, frame, {1, 2})) return status;
    move_axis(moved.get(), y, n, c, before, after, size);
    return nullptr;
}

OrtStatus *read_input(Runtime runtime, OrtKernelContext *context, size_t index, int type, Tensor *to) {
    const OrtValue *value = nullptr;
    if (OrtStatus *status = runtime.input(context, index, &value)) return status;
    return value ? read(runtime, value, OrtElementType(type), to) : nullptr;  // NULL: it is not there
}

}  // namespace

OrtStatus *Kernel::compute(OrtKernelContext *context) const {
    const Definition &op = *definition;
    const Runtime runtime = op.runtime;
    auto refuse = [&](const char *why) { return runtime.status(ORT_INVALID_ARGUMENT, why); };
    size_t count = 0;
    if (OrtStatus *status = runtime.inputs(context, &count)) return status;
    if (count != first + op.parameters() + op.given) return refuse("actswap: the node has too few or too many inputs");
    std::vector<Tensor> given;
    if (constants.empty()) {
        given.resize(op.parameters());
        for (size_t i = 0; i < given.size(); ++i)
            if (OrtStatus *status = read_input(runtime, context, first + i, ORT_FLOAT, &given[i])) return status;
    }
    Frame frame{context, {}, nullptr, constants.empty() ? given : constants, {}, nullptr};
    Tensor &x = frame.x, source, sum;
    if (OrtStatus *status = read_input(runtime, context, 0, op.type, &x)) return status;
    if (!x.data) return refuse("actswap: x is missing");
    if (op.given)
        if (OrtStatus *status = read_input(runtime, context, first + op.parameters(), ORT_FLOAT, &frame.mean))
            return status;
    if (convolution) {
        source = x, x.dims = convolution->output(source.dims);
        if (x.dims.empty()) return refuse("actswap: x does not suit the weights of its Convolution");
        if (OrtStatus *status = read_input(runtime, context, SUM, ORT_FLOAT, &sum)) return status;
        if (sum.data && sum.dims != x.dims) return refuse("actswap: what a Convolution adds is of another shape");
    }
    Channels channels;
    if (const char *wrong = check(op, attributes, frame.parameters, frame.mean, x.dims, &channels))
        return refuse(wrong);

    OrtValue *value = nullptr;
    if (OrtStatus *status = runtime.output(context, x.dims.data(), x.dims.size(), &value)) return status;
    if (OrtStatus *status = runtime.data(value, &frame.y)) return status;
    if (x.size() == 0) return nullptr;
    actswap_convolution made = {};
    if (convolution) {
        made = convolution->call(source, x.dims, sum);
        x.data = static_cast<const float *>(frame.y), frame.convolution = &made;
    }
    const bool apart = op.pools() && channels.first > 1 && channels.last < int64_t(x.dims.size());
    return apart ? evaluate_moved(*this, frame, channels.first) : evaluate(*this, frame, channels);
}

}  // namespace actswap
