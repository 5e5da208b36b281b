// Tensors as the fast path sees them, and what torch alone knows. Nothing of torch is compiled in: tensors are read
// through its DLPack table, and the rest (how to make a tensor, which modes are on) is asked of Python functions.
#pragma once
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "actswap_kernels.h"
#include "dlpack.h"

namespace {

constexpr int AXES = 6;  // of a tensor, at most

// One reference to a Python object, dropped at the end of the scope.
class Ref {
  public:
    explicit Ref(PyObject *object = nullptr) : object_(object) {}
    Ref(const Ref &) = delete;
    Ref &operator=(const Ref &) = delete;
    ~Ref() { Py_XDECREF(object_); }
    explicit operator bool() const { return object_; }
    PyObject *get() const { return object_; }
    void set(PyObject *object) { Py_XSETREF(object_, object); }
    PyObject *release() {
        PyObject *object = object_;
        object_ = nullptr;
        return object;
    }

  private:
    PyObject *object_;
};

// What `setup` was given. Its references are kept for the life of the process.
struct Torch {
    int (*run)(const actswap_call *, int);
    int (*read)(void *, DLTensor *);
    int64_t small;  // elements up to which neither a second thread nor releasing the interpreter lock pays
    PyObject *tensor, *parameter, *empty_like, *empty, *threads, *grad_enabled, *levels, *guards;
    PyObject *level_name, *requires_grad, *is_neg;
} torch;

bool plain(PyObject *object) {
    return Py_TYPE(object) == (PyTypeObject *)torch.tensor || Py_TYPE(object) == (PyTypeObject *)torch.parameter;
}

bool truth(PyObject *owned, bool on_error) {
    Ref object(owned);
    int found = object ? PyObject_IsTrue(object.get()) : -1;
    if (found < 0) PyErr_Clear();
    return found < 0 ? on_error : found;
}

bool attribute(PyObject *tensor, PyObject *name) { return truth(PyObject_GetAttr(tensor, name), true); }

// True if a tensor may be a lazy negation: those are parts of complex numbers, so no axis of theirs has stride 1.
bool steps_over(const DLTensor &t) {
    for (int i = 0; i < t.ndim; ++i)
        if (t.strides[i] == 1 && t.shape[i] != 1) return false;
    return true;
}

// Describe a tensor's memory; false if it has no plain one (functorch, sparse, fake, another device, a negation).
bool read(PyObject *object, DLTensor *to) {
    if (!plain(object)) return false;
    if (torch.read(object, to)) {
        PyErr_Clear();
        return false;
    }
    if (to->device_type != DLPACK_CPU || !to->data || to->ndim > AXES || to->ndim < 1) return false;
    return !steps_over(*to) || !truth(PyObject_CallMethodNoArgs(object, torch.is_neg), true);
}

bool is_dense_float(const DLTensor &t) {
    if (t.code != DLPACK_FLOAT || t.bits != 32) return false;
    int64_t step = 1;
    for (int i = t.ndim - 1; i >= 0; --i) {
        if (t.shape[i] != 1 && t.strides[i] != step) return false;
        step *= t.shape[i];
    }
    return true;
}

void *address(const DLTensor &t) { return (char *)t.data + t.byte_offset; }

PyObject *new_like(PyObject *tensor, DLTensor *to) {
    Ref made(PyObject_CallOneArg(torch.empty_like, tensor));
    if (!made || torch.read(made.get(), to)) return nullptr;
    return made.release();
}

}  // namespace
