// The part of ONNX Runtime's C ABI that a custom-operator library needs, written from the public interface's facts:
// the order of the functions in the API table, which is only ever appended to, and the custom-operator struct of
// version 18. `tests/onnx` loads the library in the installed runtime; `Runtime::open` checks the version first.
#pragma once
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

// A table of function pointers; `Slot` names the entries in use by their place.
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

// Version of the struct and of the table that the library asks for: ONNX Runtime 1.18.
constexpr uint32_t API_VERSION = 18;
// Version of the nodes of prepared files. It changes if such a file may compute something else by other kernels.
constexpr int PREPARED_VERSION = 1;

enum Slot {
    CREATE_STATUS = 0,
    CREATE_CUSTOM_OP_DOMAIN = 26,
    CUSTOM_OP_DOMAIN_ADD = 27,
    ADD_CUSTOM_OP_DOMAIN = 28,
    GET_TENSOR_MUTABLE_DATA = 51,
    CREATE_TENSOR_TYPE_AND_SHAPE_INFO = 57,
    SET_TENSOR_ELEMENT_TYPE = 58,
    SET_DIMENSIONS = 59,
    GET_TENSOR_ELEMENT_TYPE = 60,
    GET_DIMENSIONS_COUNT = 61,
    GET_DIMENSIONS = 62,
    GET_SYMBOLIC_DIMENSIONS = 63,
    GET_TENSOR_TYPE_AND_SHAPE = 65,
    KERNEL_INFO_GET_ATTRIBUTE_FLOAT = 85,
    KERNEL_INFO_GET_ATTRIBUTE_INT64 = 86,
    KERNEL_INFO_GET_ATTRIBUTE_STRING = 87,
    KERNEL_CONTEXT_GET_INPUT_COUNT = 88,
    KERNEL_CONTEXT_GET_INPUT = 90,
    KERNEL_CONTEXT_GET_OUTPUT = 91,
    RELEASE_STATUS = 93,
    RELEASE_TENSOR_TYPE_AND_SHAPE_INFO = 99,
    KERNEL_INFO_GET_ATTRIBUTE_ARRAY_FLOAT = 162,
    KERNEL_INFO_GET_ATTRIBUTE_ARRAY_INT64 = 163,
    KERNEL_INFO_GET_INPUT_NAME = 232,
    KERNEL_INFO_GET_OUTPUT_NAME = 233,
    KERNEL_INFO_GET_NODE_NAME = 244,
    KERNEL_INFO_GET_CONSTANT_INPUT = 249,
    SHAPE_INFER_GET_INPUT_TYPE_SHAPE = 268,
    SHAPE_INFER_GET_ATTRIBUTE = 269,
    SHAPE_INFER_SET_OUTPUT_TYPE_SHAPE = 270,
    SET_SYMBOLIC_DIMENSIONS = 271,
    READ_OP_ATTR = 272,
    KERNEL_CONTEXT_PARALLEL_FOR = 274,
};

// The functions in use, with their types. Those that return a status hand it to the caller, who owns it.
struct Runtime {
    const OrtApi *api;
    const char *version;

    template <class F> F at(Slot slot) const { return reinterpret_cast<F>(api->function[slot]); }

    OrtStatus *status(OrtErrorCode code, const char *text) const {
        return at<OrtStatus *(*)(OrtErrorCode, const char *)>(CREATE_STATUS)(code, text);
    }
    void release(OrtStatus *status) const { at<void (*)(OrtStatus *)>(RELEASE_STATUS)(status); }
    OrtStatus *create_domain(const char *name, OrtCustomOpDomain **out) const {
        return at<OrtStatus *(*)(const char *, OrtCustomOpDomain **)>(CREATE_CUSTOM_OP_DOMAIN)(name, out);
    }
    OrtStatus *add(OrtCustomOpDomain *domain, const OrtCustomOp *op) const {
        return at<OrtStatus *(*)(OrtCustomOpDomain *, const OrtCustomOp *)>(CUSTOM_OP_DOMAIN_ADD)(domain, op);
    }
    OrtStatus *add(OrtSessionOptions *options, OrtCustomOpDomain *domain) const {
        return at<OrtStatus *(*)(OrtSessionOptions *, OrtCustomOpDomain *)>(ADD_CUSTOM_OP_DOMAIN)(options, domain);
    }
    OrtStatus *data(OrtValue *value, void **out) const {
        return at<OrtStatus *(*)(OrtValue *, void **)>(GET_TENSOR_MUTABLE_DATA)(value, out);
    }
    OrtStatus *element_type(const OrtTensorTypeAndShapeInfo *info, int *out) const {
        return at<OrtStatus *(*)(const OrtTensorTypeAndShapeInfo *, int *)>(GET_TENSOR_ELEMENT_TYPE)(info, out);
    }
    OrtStatus *rank(const OrtTensorTypeAndShapeInfo *info, size_t *out) const {
        return at<OrtStatus *(*)(const OrtTensorTypeAndShapeInfo *, size_t *)>(GET_DIMENSIONS_COUNT)(info, out);
    }
    OrtStatus *dims(const OrtTensorTypeAndShapeInfo *info, int64_t *out, size_t count) const {
        using F = OrtStatus *(*)(const OrtTensorTypeAndShapeInfo *, int64_t *, size_t);
        return at<F>(GET_DIMENSIONS)(info, out, count);
    }
    OrtStatus *names(const OrtTensorTypeAndShapeInfo *info, const char **out, size_t count) const {
        using F = OrtStatus *(*)(const OrtTensorTypeAndShapeInfo *, const char **, size_t);
        return at<F>(GET_SYMBOLIC_DIMENSIONS)(info, out, count);
    }
    OrtStatus *type_and_shape(const OrtValue *value, OrtTensorTypeAndShapeInfo **out) const {
        using F = OrtStatus *(*)(const OrtValue *, OrtTensorTypeAndShapeInfo **);
        return at<F>(GET_TENSOR_TYPE_AND_SHAPE)(value, out);
    }
    void release(OrtTensorTypeAndShapeInfo *info) const {
        at<void (*)(OrtTensorTypeAndShapeInfo *)>(RELEASE_TENSOR_TYPE_AND_SHAPE_INFO)(info);
    }
    OrtStatus *attribute(const OrtKernelInfo *info, const char *name, float *out) const {
        using F = OrtStatus *(*)(const OrtKernelInfo *, const char *, float *);
        return at<F>(KERNEL_INFO_GET_ATTRIBUTE_FLOAT)(info, name, out);
    }
    OrtStatus *attribute(const OrtKernelInfo *info, const char *name, int64_t *out) const {
        using F = OrtStatus *(*)(const OrtKernelInfo *, const char *, int64_t *);
        return at<F>(KERNEL_INFO_GET_ATTRIBUTE_INT64)(info, name, out);
    }
    // At most `*size` characters with the 0 at the end.
    OrtStatus *attribute(const OrtKernelInfo *info, const char *name, char *out, size_t *size) const {
        using F = OrtStatus *(*)(const OrtKernelInfo *, const char *, char *, size_t *);
        return at<F>(KERNEL_INFO_GET_ATTRIBUTE_STRING)(info, name, out, size);
    }
    // The length of a list if `out` is NULL, else at most `*size` numbers of it.
    OrtStatus *integers(const OrtKernelInfo *info, const char *name, int64_t *out, size_t *size) const {
        using F = OrtStatus *(*)(const OrtKernelInfo *, const char *, int64_t *, size_t *);
        return at<F>(KERNEL_INFO_GET_ATTRIBUTE_ARRAY_INT64)(info, name, out, size);
    }
    OrtStatus *numbers(const OrtKernelInfo *info, const char *name, float *out, size_t *size) const {
        using F = OrtStatus *(*)(const OrtKernelInfo *, const char *, float *, size_t *);
        return at<F>(KERNEL_INFO_GET_ATTRIBUTE_ARRAY_FLOAT)(info, name, out, size);
    }
    // Exactly `size` integers.
    OrtStatus *attribute(const OrtKernelInfo *info, const char *name, int64_t *out, size_t size) const {
        size_t found = size;
        if (OrtStatus *status = integers(info, name, out, &found)) return status;
        const char *wrong = "actswap: an attribute has too few numbers";
        return found == size ? nullptr : this->status(ORT_INVALID_ARGUMENT, wrong);
    }
    // Names: at most `*size` characters with the 0 at the end.
    OrtStatus *input_name(const OrtKernelInfo *info, size_t index, char *out, size_t *size) const {
        using F = OrtStatus *(*)(const OrtKernelInfo *, size_t, char *, size_t *);
        return at<F>(KERNEL_INFO_GET_INPUT_NAME)(info, index, out, size);
    }
    OrtStatus *output_name(const OrtKernelInfo *info, size_t index, char *out, size_t *size) const {
        using F = OrtStatus *(*)(const OrtKernelInfo *, size_t, char *, size_t *);
        return at<F>(KERNEL_INFO_GET_OUTPUT_NAME)(info, index, out, size);
    }
    OrtStatus *node_name(const OrtKernelInfo *info, char *out, size_t *size) const {
        return at<OrtStatus *(*)(const OrtKernelInfo *, char *, size_t *)>(KERNEL_INFO_GET_NODE_NAME)(info, out, size);
    }
    OrtStatus *constant(const OrtKernelInfo *info, size_t index, int *is_constant, const OrtValue **out) const {
        using F = OrtStatus *(*)(const OrtKernelInfo *, size_t, int *, const OrtValue **);
        return at<F>(KERNEL_INFO_GET_CONSTANT_INPUT)(info, index, is_constant, out);
    }
    OrtStatus *inputs(const OrtKernelContext *context, size_t *count) const {
        using F = OrtStatus *(*)(const OrtKernelContext *, size_t *);
        return at<F>(KERNEL_CONTEXT_GET_INPUT_COUNT)(context, count);
    }
    OrtStatus *input(const OrtKernelContext *context, size_t index, const OrtValue **out) const {
        using F = OrtStatus *(*)(const OrtKernelContext *, size_t, const OrtValue **);
        return at<F>(KERNEL_CONTEXT_GET_INPUT)(context, index, out);
    }
    OrtStatus *output(OrtKernelContext *context, const int64_t *dims, size_t rank, OrtValue **out) const {
        using F = OrtStatus *(*)(OrtKernelContext *, size_t, const int64_t *, size_t, OrtValue **);
        return at<F>(KERNEL_CONTEXT_GET_OUTPUT)(context, 0, dims, rank, out);
    }
    OrtStatus *parallel_for(const OrtKernelContext *context, void (*run)(void *, size_t), size_t total,
                            void *data) const {
        using F = OrtStatus *(*)(const OrtKernelContext *, void (*)(void *, size_t), size_t, size_t, void *);
        return at<F>(KERNEL_CONTEXT_PARALLEL_FOR)(context, run, total, 0, data);
    }
    // The shape stays the context's.
    OrtStatus *input_shape(const OrtShapeInferContext *context, size_t index, OrtTensorTypeAndShapeInfo **out) const {
        using F = OrtStatus *(*)(const OrtShapeInferContext *, size_t, OrtTensorTypeAndShapeInfo **);
        return at<F>(SHAPE_INFER_GET_INPUT_TYPE_SHAPE)(context, index, out);
    }
    // Exactly `size` integers of an attribute.
    OrtStatus *attribute(const OrtShapeInferContext *context, const char *name, int64_t *out, size_t size) const {
        using Get = OrtStatus *(*)(const OrtShapeInferContext *, const char *, const OrtOpAttr **);
        using Read = OrtStatus *(*)(const OrtOpAttr *, int type, void *, size_t bytes, size_t *read);
        const OrtOpAttr *found = nullptr;
        if (OrtStatus *status = at<Get>(SHAPE_INFER_GET_ATTRIBUTE)(context, name, &found)) return status;
        constexpr int INTEGERS = 2;
        size_t bytes = 0;
        if (found)
            if (OrtStatus *status = at<Read>(READ_OP_ATTR)(found, INTEGERS, out, size * sizeof *out, &bytes))
                return status;
        const char *wrong = "actswap: an attribute has too few numbers";
        return bytes == size * sizeof *out ? nullptr : this->status(ORT_INVALID_ARGUMENT, wrong);
    }
    // A float32 shape, which the caller releases; the names are those of sizes that are -1.
    OrtStatus *shape(int64_t *dims, const char **names, size_t rank, OrtTensorTypeAndShapeInfo **out) const {
        using Info = OrtTensorTypeAndShapeInfo;
        if (OrtStatus *status = at<OrtStatus *(*)(Info **)>(CREATE_TENSOR_TYPE_AND_SHAPE_INFO)(out)) return status;
        OrtStatus *status = at<OrtStatus *(*)(Info *, int)>(SET_TENSOR_ELEMENT_TYPE)(*out, ORT_FLOAT);
        if (!status) status = at<OrtStatus *(*)(Info *, const int64_t *, size_t)>(SET_DIMENSIONS)(*out, dims, rank);
        if (!status)
            status = at<OrtStatus *(*)(Info *, const char **, size_t)>(SET_SYMBOLIC_DIMENSIONS)(*out, names, rank);
        if (status) release(*out);
        return status;
    }
    OrtStatus *output_shape(const OrtShapeInferContext *context, const OrtTensorTypeAndShapeInfo *info) const {
        using F = OrtStatus *(*)(const OrtShapeInferContext *, size_t, const OrtTensorTypeAndShapeInfo *);
        return at<F>(SHAPE_INFER_SET_OUTPUT_TYPE_SHAPE)(context, 0, info);
    }
};

}  // namespace actswap
