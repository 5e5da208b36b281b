// The entry point `RegisterCustomOps`, and the table of operators.
#include "actswap_kernels.h"
#include "kernel.h"

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <new>

namespace actswap {
namespace {

// Minor version of ONNX Runtime from which shape inference may see a node with an input that is left out.
constexpr int FIRST_WITH_MISSING_INPUTS = 24;

const Definition *self(const OrtCustomOp *op) { return static_cast<const Definition *>(op); }

// The parameters if every one is a constant of the model, else none.
std::vector<Tensor> constants(const Definition &definition, size_t first, const OrtKernelInfo *info) {
    std::vector<Tensor> found(definition.parameters());
    for (size_t i = 0; i < found.size(); ++i) {
        int constant = 0;
        const OrtValue *value = nullptr;
        OrtStatus *status = definition.runtime.constant(info, first + i, &constant, &value);
        if (!status && constant && value) status = read(definition.runtime, value, ORT_FLOAT, &found[i]);
        if (status) definition.runtime.release(status);
        if (status || !constant || !value) return {};
    }
    return found;
}

// The activation of a `Convolution`, and what comes before it.
OrtStatus *read_convolution(Runtime runtime, const OrtKernelInfo *info, Kernel *kernel) {
    char name[64];
    size_t size = sizeof name;
    if (OrtStatus *status = runtime.attribute(info, "activation", name, &size)) return status;
    const Definition *found = nullptr;
    for (const Definition &definition : definitions(runtime))
        if (definition.name == name && definition.type == ORT_FLOAT && definition.kind != Kind::CONVOLUTION)
            found = &definition;
    if (!found || found->kind == Kind::DY_RELU_C)
        return runtime.status(ORT_INVALID_ARGUMENT, "actswap: a Convolution cannot have this activation");
    std::unique_ptr<Convolution> convolution(new Convolution);
    if (OrtStatus *status = read(runtime, info, convolution.get())) return status;
    kernel->definition = found, kernel->first = ACTIVATION, kernel->convolution = std::move(convolution);
    return nullptr;
}

OrtStatus *fill(Kernel *kernel, const OrtKernelInfo *info) {
    const Runtime runtime = kernel->definition->runtime;
    bool prepared = false;
    const size_t inputs = size_t(kernel->definition->inputs);
    if (OrtStatus *status = check_version(runtime, info, inputs, &prepared)) return status;
    if (kernel->definition->kind == Kind::CONVOLUTION)
        if (OrtStatus *status = read_convolution(runtime, info, kernel)) return status;
    if (OrtStatus *status = read(*kernel->definition, info, &kernel->attributes)) return status;
    const bool portable = !kernel->convolution && !kernel->definition->given;
    if (portable && !prepared && (kernel->attributes.block || kernel->attributes.cap != INFINITY))
        return runtime.status(ORT_INVALID_ARGUMENT, "actswap: the attributes block and cap belong to prepared files");
    if (kernel->convolution && !kernel->attributes.block)
        return runtime.status(ORT_INVALID_ARGUMENT, "actswap: a Convolution works on blocks of channels");
    kernel->constants = constants(*kernel->definition, kernel->first, info);
    return nullptr;
}

OrtStatus *create(const OrtCustomOp *op, const OrtApi *, const OrtKernelInfo *info, void **out) {
    try {
        std::unique_ptr<Kernel> kernel(new Kernel);
        kernel->definition = self(op);
        if (OrtStatus *status = fill(kernel.get(), info)) return status;
        *out = kernel.release();
    } catch (const std::bad_alloc &) {
        return self(op)->runtime.status(ORT_FAIL, "actswap: out of memory");
    }
    return nullptr;
}

OrtStatus *infer(const OrtCustomOp *op, OrtShapeInferContext *context) {
    Runtime runtime = self(op)->runtime;
    OrtTensorTypeAndShapeInfo *shape = nullptr;  // owned by the context
    if (OrtStatus *status = runtime.input_shape(context, 0, &shape)) return status;
    // A shape of no axes is one that is not known, and an axis without size and name would be handed on as the size -1,
    // which later nodes believe: then nothing is said of the output.
    constexpr size_t MOST = 16;
    int64_t sizes[MOST];
    const char *names[MOST];
    size_t rank = 0;
    if (OrtStatus *status = runtime.rank(shape, &rank)) return status;
    if (rank == 0 || rank > MOST) return nullptr;
    if (OrtStatus *status = runtime.dims(shape, sizes, rank)) return status;
    if (OrtStatus *status = runtime.names(shape, names, rank)) return status;
    for (size_t i = 0; i < rank; ++i)
        if (sizes[i] < 0 && (!names[i] || !*names[i])) return nullptr;
    return runtime.output_shape(context, shape);
}

size_t may_inplace(int **inputs, int **outputs) {
    static int x = 0, y = 0;
    *inputs = &x;
    *outputs = &y;
    return 1;
}

OrtCustomOp face() {
    OrtCustomOp op{};
    op.version = API_VERSION;
    op.GetName = [](const OrtCustomOp *op) { return self(op)->name.c_str(); };
    op.GetExecutionProviderType = [](const OrtCustomOp *) -> const char * { return "CPUExecutionProvider"; };
    op.GetInputType = [](const OrtCustomOp *op, size_t i) { return i == 0 ? self(op)->type : int(ORT_FLOAT); };
    op.GetInputTypeCount = [](const OrtCustomOp *op) { return size_t(self(op)->inputs); };
    op.GetOutputType = [](const OrtCustomOp *op, size_t) { return self(op)->type; };
    op.GetOutputTypeCount = [](const OrtCustomOp *) { return size_t(1); };
    op.KernelDestroy = [](void *kernel) { delete static_cast<Kernel *>(kernel); };
    op.GetInputCharacteristic = [](const OrtCustomOp *, size_t) { return 0; };
    op.GetOutputCharacteristic = [](const OrtCustomOp *, size_t) { return 0; };
    op.GetInputMemoryType = [](const OrtCustomOp *, size_t) { return 0; };
    op.GetVariadicInputMinArity = op.GetVariadicOutputMinArity = [](const OrtCustomOp *) { return 1; };
    op.GetVariadicInputHomogeneity = op.GetVariadicOutputHomogeneity = [](const OrtCustomOp *) { return 1; };
    op.CreateKernelV2 = create;
    op.KernelComputeV2 = [](void *kernel, OrtKernelContext *context) -> OrtStatus * {
        auto *self = static_cast<Kernel *>(kernel);
        try {
            return self->compute(context);
        } catch (const std::bad_alloc &) {
            return self->definition->runtime.status(ORT_FAIL, "actswap: out of memory");
        }
    };
    op.InferOutputShapeFn = infer;
    // A later version of the domain is another set of signatures, and has other kernels.
    op.GetStartVersion = op.GetEndVersion = [](const OrtCustomOp *) { return 1; };
    op.GetMayInplace = may_inplace;
    op.ReleaseMayInplace = [](int *, int *) {};
    op.GetAliasMap = [](int **, int **) { return size_t(0); };
    op.ReleaseAliasMap = [](int *, int *) {};
    return op;
}

// A convolution with an activation after it, of prepared files alone.
Definition convolution(Runtime runtime) {
    OrtCustomOp op = face();
    op.GetInputCharacteristic = [](const OrtCustomOp *, size_t i) { return i == SUM ? 1 : i == ACTIVATION ? 2 : 0; };
    // Before that version the runtime follows the null pointer of an input that is left out, in its own code.
    int minor = 0;
    const bool takes_missing = std::sscanf(runtime.version, "1.%d", &minor) == 1 && minor >= FIRST_WITH_MISSING_INPUTS;
    op.InferOutputShapeFn = [](const OrtCustomOp *op, OrtShapeInferContext *context) {
        return infer(self(op)->runtime, context);
    };
    if (!takes_missing) op.InferOutputShapeFn = nullptr;
    op.GetMayInplace = [](int **inputs, int **outputs) {
        static int sum = SUM, y = 0;
        *inputs = &sum, *outputs = &y;
        return size_t(1);
    };
    return Definition{op, "Convolution", Kind::CONVOLUTION, ORT_FLOAT, ACTIVATION + 1, false, 0, 0, 0, 0, 0, runtime};
}

std::vector<Definition> table(Runtime runtime) {
    std::vector<Definition> list;
    auto add = [&](const std::string &name, Kind kind, int inputs, bool given = false, int pieces = 0) {
        for (int type : {int(ORT_FLOAT), int(ORT_FLOAT16)})
            list.push_back(Definition{face(), name, kind, type, inputs, given, 0, 0, 0, 0, pieces, runtime});
    };
    auto add_rational = [&](const std::string &name, Kind kind, int form, int basis, int p, int q) {
        for (int type : {int(ORT_FLOAT), int(ORT_FLOAT16)})
            list.push_back(Definition{face(), name, kind, type, 4, false, form, basis, p, q, 0, runtime});
    };
    add("Swish", Kind::SWISH, 2);
    add("SwishSkip", Kind::SWISH_SKIP, 3);
    add("AconB", Kind::ACON_B, 3);
    add("AconC", Kind::ACON_C, 4);
    add("MetaAcon", Kind::META_ACON, 8);
    // Of prepared files alone: the mean of x follows from a smaller tensor.
    add("MetaAconMean", Kind::META_ACON, 9, true);
    for (int k = 1; k <= 4; ++k) {
        std::string suffix = k == 2 ? "" : "_" + std::to_string(k);
        add("DyReLU" + suffix, Kind::DY_RELU, 7, false, k);
        add("DyReLUMean" + suffix, Kind::DY_RELU, 8, true, k);
        add("DyReLUC" + suffix, Kind::DY_RELU_C, 9, false, k);
    }
    list.push_back(convolution(runtime));
    const char *forms[] = {"Unsafe", "A", "B", "C"};
    const char *bases[] = {"ChebyshevT", "ChebyshevU", "Legendre", "Laguerre", "HermiteProb", "HermitePhys"};
    for (int p = 1; p <= 8; ++p) {
        for (int q = 1; q <= 8; ++q) {
            if (q < p - 2 || q > p)  // degrees outside this band are not used; their bodies run
                continue;
            std::string degrees = "_" + std::to_string(p) + "_" + std::to_string(q);
            for (int form = 0; form < 4; ++form)
                add_rational(std::string("Pau") + forms[form] + degrees, Kind::PAU, form, 0, p, q);
            for (int basis = 0; basis < 6; ++basis)
                for (int form : {int(ACTSWAP_UNSAFE), int(ACTSWAP_FORM_A)}) {
                    const std::string name = std::string("Opau") + bases[basis] + (form ? "" : "Unsafe") + degrees;
                    add_rational(name, Kind::OPAU, form, basis, p, q);
                }
        }
    }
    return list;
}

}  // namespace

const std::vector<Definition> &definitions(Runtime runtime) {
    static const std::vector<Definition> list = table(runtime);
    return list;
}

}  // namespace actswap

extern "C" {

ACTSWAP_API OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
    using namespace actswap;
    int major = 0, minor = 0;
    const char *version = base->GetVersionString();
    const bool read = std::sscanf(version, "%d.%d", &major, &minor) == 2;
    const OrtApi *api = read && major == 1 && minor >= int(API_VERSION) ? base->GetApi(API_VERSION) : nullptr;
    if (!api) {
        std::string text =
            std::string("actswap's kernels need ONNX Runtime 1.18 or newer (major version 1), this is ") + version +
            "; the file runs without them";
        return Runtime{base->GetApi(1), version}.status(ORT_NOT_IMPLEMENTED, text.c_str());
    }
    Runtime runtime{api, version};
    OrtCustomOpDomain *domain = nullptr;
    try {
        if (OrtStatus *status = runtime.create_domain("actswap", &domain)) return status;
        for (const Definition &definition : definitions(runtime))
            if (OrtStatus *status = runtime.add(domain, &definition)) return status;
    } catch (const std::exception &error) {
        return runtime.status(ORT_FAIL, error.what());
    }
    return runtime.add(options, domain);
}

// Version of the node signatures that the kernels implement, and the instruction set that they use.
ACTSWAP_API int actswap_ort_domain_version() { return 1; }
// Version of the nodes of prepared files.
ACTSWAP_API int actswap_ort_prepared_version() { return actswap::PREPARED_VERSION; }
ACTSWAP_API const char *actswap_ort_isa() { return actswap_isa(); }
}
