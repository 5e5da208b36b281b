#include "node.h"

#include <cstdio>
#include <cstring>
#include <string>

namespace actswap {
namespace {

// True if a node has an attribute of this name, of any type.
bool has(Runtime runtime, const OrtKernelInfo *info, const char *name) {
    int64_t integer;
    float number;
    size_t size = 0;
    OrtStatus *tried[] = {
        runtime.attribute(info, name, &integer),
        runtime.attribute(info, name, &number),
        runtime.attribute(info, name, static_cast<char *>(nullptr), &size),
        runtime.integers(info, name, nullptr, &size),
        runtime.numbers(info, name, nullptr, &size),
    };
    bool found = false;
    for (OrtStatus *status : tried) {
        found = found || !status;
        if (status) runtime.release(status);
    }
    return found;
}

OrtStatus *refusal(Runtime runtime, const char *name, const char *why) {
    return runtime.status(ORT_INVALID_ARGUMENT, (std::string("actswap: attribute ") + name + " " + why).c_str());
}

// A number; one that may be missing leaves what stands in `to`.
template <class T>
OrtStatus *number(Runtime runtime, const OrtKernelInfo *info, const char *name, bool wanted, T *to) {
    T found = *to;
    OrtStatus *status = runtime.attribute(info, name, &found);
    if (!status) {
        *to = found;
        return nullptr;
    }
    runtime.release(status);
    if (has(runtime, info, name)) return refusal(runtime, name, "is of another type");
    return wanted ? refusal(runtime, name, "is missing") : nullptr;
}

// A list of integers.
OrtStatus *list(Runtime runtime, const OrtKernelInfo *info, const char *name, Dims *to) {
    constexpr size_t MOST = 64;
    size_t size = 0;
    OrtStatus *status = runtime.integers(info, name, nullptr, &size);
    if (!status && size <= MOST) {
        to->resize(size);
        return size ? runtime.integers(info, name, to->data(), &size) : nullptr;
    }
    if (status) runtime.release(status);
    return refusal(runtime, name, "is missing, of another type or too long");
}

// A name that `read` gives, empty if it gives none.
template <class Read> std::string name(Runtime runtime, Read read) {
    char found[512] = "";
    size_t size = sizeof found;
    if (OrtStatus *status = read(found, &size)) {
        runtime.release(status);
        return "";
    }
    return found;
}

// True if a node without `prepared_for` is of a file that was prepared before there was that attribute. In such a file
// the names of the parameters begin with the name of the node or of its output; the runtime renames equal scalars.
bool was_prepared(Runtime runtime, const OrtKernelInfo *info, size_t inputs) {
    const std::string node = name(runtime, [&](char *to, size_t *size) { return runtime.node_name(info, to, size); });
    const std::string y = name(runtime, [&](char *to, size_t *size) { return runtime.output_name(info, 0, to, size); });
    for (size_t i = 1; i < inputs; ++i) {
        auto read = [&](char *to, size_t *size) { return runtime.input_name(info, i, to, size); };
        const std::string input = name(runtime, read), start = input.substr(0, input.rfind('/'));
        if (input.find('/') != std::string::npos && (start == node || start == y)) return true;
        if (input.rfind("ortshared_", 0) == 0) return true;
    }
    return false;
}

}  // namespace

OrtStatus *read(Runtime runtime, const OrtValue *value, OrtElementType type, Tensor *to) {
    OrtTensorTypeAndShapeInfo *info = nullptr;
    if (OrtStatus *status = runtime.type_and_shape(value, &info)) return status;
    size_t rank = 0;
    int found = 0;
    OrtStatus *status = runtime.rank(info, &rank);
    if (!status) {
        to->dims.resize(rank);
        status = runtime.dims(info, to->dims.data(), rank);
    }
    if (!status) status = runtime.element_type(info, &found);
    runtime.release(info);
    if (status) return status;
    if (found != type) return runtime.status(ORT_INVALID_ARGUMENT, "actswap: an input is of another type");
    void *data = nullptr;
    status = runtime.data(const_cast<OrtValue *>(value), &data);
    static const float nothing = 0;  // of a tensor without elements there may be no data
    to->data = data ? static_cast<const float *>(data) : &nothing;
    return status;
}

OrtStatus *read(const Definition &op, const OrtKernelInfo *info, Attributes *to) {
    const Runtime runtime = op.runtime;
    if (OrtStatus *status = number(runtime, info, "block", false, &to->block)) return status;
    if (OrtStatus *status = number(runtime, info, "cap", false, &to->cap)) return status;
    if (!op.pools()) return nullptr;
    if (OrtStatus *status = number(runtime, info, "dim", false, &to->dim)) return status;
    if (op.kind == Kind::DY_RELU_C) {
        if (OrtStatus *status = number(runtime, info, "tau", true, &to->tau)) return status;
        if (OrtStatus *status = number(runtime, info, "gain", true, &to->gain)) return status;
    }
    if (to->block || op.given) return nullptr;  // of a prepared file: there is no body that would read the rest
    if (OrtStatus *status = list(runtime, info, "axes", &to->axes)) return status;
    if (OrtStatus *status = list(runtime, info, "view", &to->view)) return status;
    if (op.kind == Kind::META_ACON) return nullptr;
    if (OrtStatus *status = list(runtime, info, "table", &to->table)) return status;
    return op.kind == Kind::DY_RELU_C ? list(runtime, info, "channel", &to->channel) : nullptr;
}

OrtStatus *check_version(Runtime runtime, const OrtKernelInfo *info, size_t inputs, bool *prepared) {
    char made_for[128] = "";
    size_t size = sizeof made_for;
    if (OrtStatus *status = runtime.attribute(info, "prepared_for", made_for, &size)) {
        runtime.release(status);
        if (has(runtime, info, "prepared_for")) return refusal(runtime, "prepared_for", "is no text of this library");
        *prepared = was_prepared(runtime, info, inputs);
        return nullptr;
    }
    *prepared = true;
    char here[128];
    std::snprintf(here, sizeof here, "onnxruntime %s, kernels %d", runtime.version, PREPARED_VERSION);
    if (!std::strcmp(made_for, here)) return nullptr;
    const std::string text = std::string("actswap: this file was prepared for ") + made_for + "; here is " + here +
                             ". Use the portable file, or prepare it here: actswap export --for-this-machine";
    return runtime.status(ORT_INVALID_ARGUMENT, text.c_str());
}

}  // namespace actswap
