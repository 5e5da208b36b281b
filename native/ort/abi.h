/* The part of ONNX Runtime's C ABI that a custom-operator library needs, written from the public interface's facts:
 * the order of the functions in the API table, which is only ever appended to, and the custom-operator struct of
 * version 18. `tests/onnx` loads the library in the installed runtime; `Runtime::open` checks the version first.
 */
#ifndef ACTSWAP_ORT_ABI_H
#define ACTSWAP_ORT_ABI_H

#include <cstddef>
#include <cstdint>

struct OrtStatus;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtTensorTypeAndShapeInfo;
struct OrtShapeInferContext;
struct OrtOpAttr;
struct OrtValue;

/* A table of function pointers; `Slot` names the entries in use by their place. */
struct OrtApi {
    void *function[320];
};

struct OrtApiBase {
    const OrtApi *(*GetApi)(uint32_t version);
    const char *(*GetVersionString)();
};

enum OrtErrorCode { ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2, ORT_NOT_IMPLEMENTED = 9 };
enum OrtElementType { ORT_FLOAT = 1, ORT_FLOAT16 = 10 };

struct OrtCustomOp {
    uint32_t version;
    void *(*CreateKernel)(const OrtCustomOp *, const OrtApi *, const OrtKernelInfo *);
    const char *(*GetName)(const OrtCustomOp *);
    const char *(*GetExecutionProviderType)(const OrtCustomOp *);
    int (*GetInputType)(const OrtCustomOp *, size_t);
    size_t (*GetInputTypeCount)(const OrtCustomOp *);
    int (*GetOutputType)(const OrtCustomOp *, size_t);
    size_t (*GetOutputTypeCount)(const OrtCustomOp *);
    void (*KernelCompute)(void *, OrtKernelContext *);
    void (*KernelDestroy)(void *);
    int (*GetInputCharacteristic)(const OrtCustomOp *, size_t);
    int (*GetOutputCharacteristic)(const OrtCustomOp *, size_t);
    int (*GetInputMemoryType)(const OrtCustomOp *, size_t);
    int (*GetVariadicInputMinArity)(const OrtCustomOp *);
    int (*GetVariadicInputHomogeneity)(const OrtCustomOp *);
    int (*GetVariadicOutputMinArity)(const OrtCustomOp *);
    int (*GetVariadicOutputHomogeneity)(const OrtCustomOp *);
    OrtStatus *(*CreateKernelV2)(const OrtCustomOp *, const OrtApi *, const OrtKernelInfo *, void **);
    OrtStatus *(*KernelComputeV2)(void *, OrtKernelContext *);
    OrtStatus *(*InferOutputShapeFn)(const OrtCustomOp *, OrtShapeInferContext *);
    int (*GetStartVersion)(const OrtCustomOp *);
    int (*GetEndVersion)(const OrtCustomOp *);
    size_t (*GetMayInplace)(int **, int **);
    void (*ReleaseMayInplace)(int *, int *);
    size_t (*GetAliasMap)(int **, int **);
    void (*ReleaseAliasMap)(int *, int *);
};
static_assert(sizeof(OrtCustomOp) == 26 * sizeof(void *), "the custom-operator struct of version 18");

namespace actswap {

/* Version of the struct and of the table that the library asks for: ONNX Runtime 1.18. */
constexpr uint32_t kApiVersion = 18;

enum Slot {
    kCreateStatus = 0,
    kCreateCustomOpDomain = 26,
    kCustomOpDomainAdd = 27,
    kAddCustomOpDomain = 28,
    kGetTensorMutableData = 51,
    kCreateTensorTypeAndShapeInfo = 57,
    kSetTensorElementType = 58,
    kSetDimensions = 59,
    kGetTensorElementType = 60,
    kGetDimensionsCount = 61,
    kGetDimensions = 62,
    kGetSymbolicDimensions = 63,
    kGetTensorTypeAndShape = 65,
    kKernelInfoGetAttributeFloat = 85,
    kKernelInfoGetAttributeInt64 = 86,
    kKernelInfoGetAttributeString = 87,
    kKernelContextGetInput = 90,
    kKernelContextGetOutput = 91,
    kReleaseStatus = 93,
    kReleaseTensorTypeAndShapeInfo = 99,
    kKernelInfoGetAttributeArrayInt64 = 163,
    kKernelInfoGetConstantInput = 249,
    kShapeInferGetInputTypeShape = 268,
    kShapeInferGetAttribute = 269,
    kShapeInferSetOutputTypeShape = 270,
    kSetSymbolicDimensions = 271,
    kReadOpAttr = 272,
    kKernelContextParallelFor = 274,
};

/* The functions in use, with their types. Those that return a status hand it to the caller, who owns it. */
struct Runtime {
    const OrtApi *api;

    template <class F> F at(Slot slot) const { return reinterpret_cast<F>(api->function[slot]); }

    OrtStatus *status(OrtErrorCode code, const char *text) const {
        return at<OrtStatus *(*)(OrtErrorCode, const char *)>(kCreateStatus)(code, text);
    }
    void release(OrtStatus *status) const { at<void (*)(OrtStatus *)>(kReleaseStatus)(status); }
    OrtStatus *create_domain(const char *name, OrtCustomOpDomain **out) const {
        return at<OrtStatus *(*)(const char *, OrtCustomOpDomain **)>(kCreateCustomOpDomain)(name, out);
    }
    OrtStatus *add(OrtCustomOpDomain *domain, const OrtCustomOp *op) const {
        return at<OrtStatus *(*)(OrtCustomOpDomain *, const OrtCustomOp *)>(kCustomOpDomainAdd)(domain, op);
    }
    OrtStatus *add(OrtSessionOptions *options, OrtCustomOpDomain *domain) const {
        return at<OrtStatus *(*)(OrtSessionOptions *, OrtCustomOpDomain *)>(kAddCustomOpDomain)(options, domain);
    }
    OrtStatus *data(OrtValue *value, void **out) const {
        return at<OrtStatus *(*)(OrtValue *, void **)>(kGetTensorMutableData)(value, out);
    }
    OrtStatus *element_type(const OrtTensorTypeAndShapeInfo *info, int *out) const {
        return at<OrtStatus *(*)(const OrtTensorTypeAndShapeInfo *, int *)>(kGetTensorElementType)(info, out);
    }
    OrtStatus *rank(const OrtTensorTypeAndShapeInfo *info, size_t *out) const {
        return at<OrtStatus *(*)(const OrtTensorTypeAndShapeInfo *, size_t *)>(kGetDimensionsCount)(info, out);
    }
    OrtStatus *dims(const OrtTensorTypeAndShapeInfo *info, int64_t *out, size_t count) const {
        using F = OrtStatus *(*)(const OrtTensorTypeAndShapeInfo *, int64_t *, size_t);
        return at<F>(kGetDimensions)(info, out, count);
    }
    OrtStatus *names(const OrtTensorTypeAndShapeInfo *info, const char **out, size_t count) const {
        using F = OrtStatus *(*)(const OrtTensorTypeAndShapeInfo *, const char **, size_t);
        return at<F>(kGetSymbolicDimensions)(info, out, count);
    }
    OrtStatus *type_and_shape(const OrtValue *value, OrtTensorTypeAndShapeInfo **out) const {
        using F = OrtStatus *(*)(const OrtValue *, OrtTensorTypeAndShapeInfo **);
        return at<F>(kGetTensorTypeAndShape)(value, out);
    }
    void release(OrtTensorTypeAndShapeInfo *info) const {
        at<void (*)(OrtTensorTypeAndShapeInfo *)>(kReleaseTensorTypeAndShapeInfo)(info);
    }
    OrtStatus *attribute(const OrtKernelInfo *info, const char *name, float *out) const {
        using F = OrtStatus *(*)(const OrtKernelInfo *, const char *, float *);
        return at<F>(kKernelInfoGetAttributeFloat)(info, name, out);
    }
    OrtStatus *attribute(const OrtKernelInfo *info, const char *name, int64_t *out) const {
        using F = OrtStatus *(*)(const OrtKernelInfo *, const char *, int64_t *);
        return at<F>(kKernelInfoGetAttributeInt64)(info, name, out);
    }
    /* At most `*size` characters with the 0 at the end. */
    OrtStatus *attribute(const OrtKernelInfo *info, const char *name, char *out, size_t *size) const {
        using F = OrtStatus *(*)(const OrtKernelInfo *, const char *, char *, size_t *);
        return at<F>(kKernelInfoGetAttributeString)(info, name, out, size);
    }
    /* Exactly `size` integers. */
    OrtStatus *attribute(const OrtKernelInfo *info, const char *name, int64_t *out, size_t size) const {
        using F = OrtStatus *(*)(const OrtKernelInfo *, const char *, int64_t *, size_t *);
        size_t found = size;
        if (OrtStatus *status = at<F>(kKernelInfoGetAttributeArrayInt64)(info, name, out, &found))
            return status;
        const char *wrong = "actswap: an attribute has too few numbers";
        return found == size ? nullptr : this->status(ORT_INVALID_ARGUMENT, wrong);
    }
    OrtStatus *constant(const OrtKernelInfo *info, size_t index, int *is_constant, const OrtValue **out) const {
        using F = OrtStatus *(*)(const OrtKernelInfo *, size_t, int *, const OrtValue **);
        return at<F>(kKernelInfoGetConstantInput)(info, index, is_constant, out);
    }
    OrtStatus *input(const OrtKernelContext *context, size_t index, const OrtValue **out) const {
        using F = OrtStatus *(*)(const OrtKernelContext *, size_t, const OrtValue **);
        return at<F>(kKernelContextGetInput)(context, index, out);
    }
    OrtStatus *output(OrtKernelContext *context, const int64_t *dims, size_t rank, OrtValue **out) const {
        using F = OrtStatus *(*)(OrtKernelContext *, size_t, const int64_t *, size_t, OrtValue **);
        return at<F>(kKernelContextGetOutput)(context, 0, dims, rank, out);
    }
    OrtStatus *parallel_for(const OrtKernelContext *context, void (*run)(void *, size_t), size_t total,
                            void *data) const {
        using F = OrtStatus *(*)(const OrtKernelContext *, void (*)(void *, size_t), size_t, size_t, void *);
        return at<F>(kKernelContextParallelFor)(context, run, total, 0, data);
    }
    /* The shape stays the context's. */
    OrtStatus *input_shape(const OrtShapeInferContext *context, size_t index, OrtTensorTypeAndShapeInfo **out) const {
        using F = OrtStatus *(*)(const OrtShapeInferContext *, size_t, OrtTensorTypeAndShapeInfo **);
        return at<F>(kShapeInferGetInputTypeShape)(context, index, out);
    }
    /* Exactly `size` integers of an attribute. */
    OrtStatus *attribute(const OrtShapeInferContext *context, const char *name, int64_t *out, size_t size) const {
        using Get = OrtStatus *(*)(const OrtShapeInferContext *, const char *, const OrtOpAttr **);
        using Read = OrtStatus *(*)(const OrtOpAttr *, int type, void *, size_t bytes, size_t *read);
        const OrtOpAttr *found = nullptr;
        if (OrtStatus *status = at<Get>(kShapeInferGetAttribute)(context, name, &found))
            return status;
        constexpr int kIntegers = 2;
        size_t bytes = 0;
        return at<Read>(kReadOpAttr)(found, kIntegers, out, size * sizeof *out, &bytes);
    }
    /* A float32 shape, which the caller releases; the names are those of sizes that are -1. */
    OrtStatus *shape(int64_t *dims, const char **names, size_t rank, OrtTensorTypeAndShapeInfo **out) const {
        using Info = OrtTensorTypeAndShapeInfo;
        if (OrtStatus *status = at<OrtStatus *(*)(Info **)>(kCreateTensorTypeAndShapeInfo)(out))
            return status;
        OrtStatus *status = at<OrtStatus *(*)(Info *, int)>(kSetTensorElementType)(*out, ORT_FLOAT);
        if (!status)
            status = at<OrtStatus *(*)(Info *, const int64_t *, size_t)>(kSetDimensions)(*out, dims, rank);
        if (!status)
            status = at<OrtStatus *(*)(Info *, const char **, size_t)>(kSetSymbolicDimensions)(*out, names, rank);
        if (status)
            release(*out);
        return status;
    }
    OrtStatus *output_shape(const OrtShapeInferContext *context, const OrtTensorTypeAndShapeInfo *info) const {
        using F = OrtStatus *(*)(const OrtShapeInferContext *, size_t, const OrtTensorTypeAndShapeInfo *);
        return at<F>(kShapeInferSetOutputTypeShape)(context, 0, info);
    }
};

} // namespace actswap

#endif
