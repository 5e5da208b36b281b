// Kinds of calls: what tells them apart, and the call that the core gets for one. Python lays a kind out once (`lay`).
#pragma once
#include <string.h>

#include <vector>

#include "coordinates.h"
#include "tensor.h"

namespace {

constexpr int KEY = 96;                      // numbers that tell a kind of call from another, at most
constexpr int KINDS = 256;                   // that an operator remembers
constexpr int TENSORS = ACTSWAP_SLOTS + 2;   // among an operator's arguments, at most

// A call for the core without its pointers.
struct Laid {
    actswap_call call;
    int count;  // of parameters: slot in the call, position among the arguments
    int slot[ACTSWAP_SLOTS], position[ACTSWAP_SLOTS];
};

// One kind of call: shapes, strides, dtype and options, and the call that the core gets for them.
struct Kind {
    std::vector<int64_t> key;
    PyObject *options = nullptr;  // a tuple that keeps alive what the key holds addresses of
    PyObject *source = nullptr;   // what `lay` returned, which keeps alive what the call points to
    bool fits = false;
    Laid laid;
    PyObject *mean = nullptr;  // the shape of the means if the operator keeps them, else None
};

struct FastPath {
    PyObject_HEAD
    PyObject *lay;
    int tensors;   // leading arguments that are tensors, x first
    int constant;  // position of one without a gradient, or -1
    Kind *kinds;
};

struct Call {
    DLTensor tensor[TENSORS], grad;
    Laid laid;  // a copy: another thread may lay out another kind in the same place
    Ref mean;
    Coordinates from = {};  // of a call by coordinates; the shapes of the coefficients
    int64_t shape[2][2];
    bool unknown = false;  // plain by coordinates, but its kind was never laid out
    int64_t key[KEY];
    int length = 0;
    bool room = true;
    void add(int64_t value) {
        if (length < KEY) key[length++] = value;
        else room = false;
    }
};

// Ask Python how the core runs a kind of call; false if that fails. The exception is left set.
bool lay(FastPath *self, PyObject *args, PyObject *grad, const Call &call, Kind &kind) {
    Ref laid(PyObject_CallFunctionObjArgs(self->lay, args, grad ? grad : Py_None, nullptr));
    Ref options(PyTuple_GetSlice(args, self->tensors, PyTuple_GET_SIZE(args)));
    if (!laid || !options) return false;
    Laid to = {};
    PyObject *mean = nullptr;
    if (laid.get() != Py_None) {
        const char *head;
        Py_ssize_t size;
        PyObject *slots, *kept;
        if (!PyArg_ParseTuple(laid.get(), "y#O!OO", &head, &size, &PyTuple_Type, &slots, &mean, &kept)) return false;
        if (size != (Py_ssize_t)sizeof to.call || PyTuple_GET_SIZE(slots) > ACTSWAP_SLOTS) return false;
        memcpy(&to.call, head, sizeof to.call);
        for (; to.count < PyTuple_GET_SIZE(slots); ++to.count)
            if (!PyArg_ParseTuple(PyTuple_GET_ITEM(slots, to.count), "ii", &to.slot[to.count], &to.position[to.count]))
                return false;
    }
    kind.key.assign(call.key, call.key + call.length);
    kind.fits = laid.get() != Py_None;
    kind.laid = to;
    Py_XINCREF(mean);
    Py_XSETREF(kind.mean, mean);
    Py_XSETREF(kind.options, options.release());
    Py_XSETREF(kind.source, laid.release());
    return true;
}

// Read the tensors of an operator's arguments; false if one is not plain.
bool read_all(FastPath *self, PyObject *args, Call &call) {
    if (!torch.run || PyTuple_GET_SIZE(args) < self->tensors) return false;
    for (int i = 0; i < self->tensors; ++i) {
        if (!read(PyTuple_GET_ITEM(args, i), &call.tensor[i])) return false;
        if (i && !is_dense_float(call.tensor[i])) return false;
    }
    return true;
}

// The arguments of a call by coordinates: x, u, radius, mix, centre, tails, numbers in the numerator, options.
constexpr int THROUGH = 7;

// Read the tensors of a call by coordinates, and say what shapes the coefficients have; false if one is not plain.
bool read_through(FastPath *self, PyObject *args, Call &call) {
    DLTensor u, radius, mix, centre, *const given[] = {call.tensor, &u, &radius, &mix, &centre, call.tensor + 3};
    if (!torch.run || self->tensors != 4 || PyTuple_GET_SIZE(args) < THROUGH) return false;
    for (int i = 0; i < THROUGH - 1; ++i)
        if (!read(PyTuple_GET_ITEM(args, i), given[i]) || (i && !is_dense_float(*given[i]))) return false;
    const long top = PyLong_AsLong(PyTuple_GET_ITEM(args, THROUGH - 1));
    if (top == -1 && PyErr_Occurred()) PyErr_Clear();
    const int n = u.ndim;
    const int64_t k = u.shape[n - 1], rows = n == 1 ? 1 : u.shape[0];
    if (n > 2 || rows < 1 || top < 1 || k <= top || k > COEFFICIENTS) return false;
    if (radius.ndim != n || centre.ndim != n || mix.ndim != n + 1) return false;
    for (int i = 0; i < n; ++i)
        if (radius.shape[i] != u.shape[i] || centre.shape[i] != u.shape[i] || mix.shape[i] != u.shape[i]) return false;
    if (mix.shape[n] != k) return false;

    call.from = {(float *)address(u), (float *)address(radius), (float *)address(mix), (float *)address(centre),
                 rows, (int)k, (int)top};
    for (int part = 0; part < 2; ++part) {
        int64_t *shape = call.shape[part];
        shape[0] = rows, shape[n - 1] = part ? k - top : top;
        call.tensor[1 + part] = u;
        call.tensor[1 + part].data = nullptr, call.tensor[1 + part].shape = shape;
    }
    return true;
}

// Numerators, then denominators, one after the other, as coefficients or their gradients.
struct Pair {
    std::vector<float> numbers;
    float *part[2];
    explicit Pair(const Coordinates &c) : numbers((size_t)(c.rows * c.k)) {
        part[0] = numbers.data(), part[1] = part[0] + c.rows * c.top;
    }
};

// Make the coefficients of a call by coordinates.
void make(Call &call, Pair &pair) {
    coefficients_of(call.from, pair.part[0], pair.part[1]);
    for (int i = 0; i < 2; ++i) call.tensor[1 + i].data = pair.part[i], call.tensor[1 + i].byte_offset = 0;
}

// Find the kind of a call whose tensors were read; false if the core does not take it.
//
// `by_coordinates`: the coefficients are no tensors of Python, so a kind that is not known cannot be laid out. The
// answer is then True: make this call in the ordinary way once, which lays it out, and come again.
bool find(FastPath *self, PyObject *args, PyObject *grad, Call &call, bool by_coordinates = false) {
    if (!(by_coordinates ? read_through(self, args, call) : read_all(self, args, call))) return false;
    const int arguments = (int)PyTuple_GET_SIZE(args);
    for (int i = 0; i < self->tensors; ++i) {
        const DLTensor &t = call.tensor[i];
        call.add(t.ndim);
        for (int k = 0; k < t.ndim; ++k) call.add(t.shape[k]);
        if (i) continue;
        call.add(t.code << 8 | t.bits);
        for (int k = 0; k < t.ndim; ++k) call.add(t.strides[k]);
    }
    call.add(grad != nullptr);
    if (grad) {
        const DLTensor &g = call.grad, &x = call.tensor[0];
        if (!read(grad, &call.grad) || g.code != x.code || g.bits != x.bits || g.ndim != x.ndim) return false;
        for (int k = 0; k < g.ndim; ++k) {
            if (g.shape[k] != x.shape[k]) return false;
            call.add(g.strides[k]);
        }
    }
    const int options = by_coordinates ? THROUGH : self->tensors;
    for (int i = options; i < arguments; ++i) call.add((int64_t)PyTuple_GET_ITEM(args, i));
    if (!call.room) return false;

    uint64_t hash = 1469598103934665603u;
    for (int i = 0; i < call.length; ++i) hash = (hash ^ (uint64_t)call.key[i]) * 1099511628211u, hash ^= hash >> 29;
    Kind &kind = self->kinds[hash % KINDS];
    const size_t bytes = sizeof(int64_t) * (size_t)call.length;
    if (kind.key.size() != (size_t)call.length || memcmp(kind.key.data(), call.key, bytes))
        if ((call.unknown = by_coordinates) || !lay(self, args, grad, call, kind)) {
            PyErr_Clear();
            return false;
        }
    if (!kind.fits) return false;
    call.laid = kind.laid;
    call.mean.set(Py_NewRef(kind.mean));
    return true;
}

}  // namespace
