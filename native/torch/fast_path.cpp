// The fast path from Python into the core: one C call instead of the dozen Python calls that ctypes takes, which on a
// small tensor cost ten times the work itself.
//
// `lay`, in Python, lays a kind of call out for the core, once. A call that is not plain gets None back and goes
// through ctypes.
#include "tensor.h"

#include <string.h>

#include <new>
#include <vector>

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

// Read the tensors and find the kind of call; false if the call is not plain or the core does not take it.
bool find(FastPath *self, PyObject *args, PyObject *grad, Call &call) {
    const int arguments = (int)PyTuple_GET_SIZE(args);
    if (!torch.run || arguments < self->tensors) return false;
    for (int i = 0; i < self->tensors; ++i) {
        DLTensor &t = call.tensor[i];
        if (!read(PyTuple_GET_ITEM(args, i), &t)) return false;
        call.add(t.ndim);
        for (int k = 0; k < t.ndim; ++k) call.add(t.shape[k]);
        if (i) {
            if (!is_dense_float(t)) return false;
            continue;
        }
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
    for (int i = self->tensors; i < arguments; ++i) call.add((int64_t)PyTuple_GET_ITEM(args, i));
    if (!call.room) return false;

    uint64_t hash = 1469598103934665603u;
    for (int i = 0; i < call.length; ++i) hash = (hash ^ (uint64_t)call.key[i]) * 1099511628211u, hash ^= hash >> 29;
    Kind &kind = self->kinds[hash % KINDS];
    const size_t bytes = sizeof(int64_t) * (size_t)call.length;
    if (kind.key.size() != (size_t)call.length || memcmp(kind.key.data(), call.key, bytes))
        if (!lay(self, args, grad, call, kind)) {
            PyErr_Clear();
            return false;
        }
    if (!kind.fits) return false;
    call.laid = kind.laid;
    call.mean.set(Py_NewRef(kind.mean));
    return true;
}

// Run a call whose pointers are set; 0 if it was done.
int run(const actswap_call &call, const DLTensor &x) {
    int64_t count = 1;
    for (int i = 0; i < x.ndim; ++i) count *= x.shape[i];
    if (count <= torch.small) return torch.run(&call, 1);
    Ref threads(PyObject_CallNoArgs(torch.threads));
    int n = threads ? (int)PyLong_AsLong(threads.get()) : 1, code;
    Py_BEGIN_ALLOW_THREADS
    code = torch.run(&call, n);
    Py_END_ALLOW_THREADS
    return code;
}

actswap_call with_pointers(const Call &call) {
    actswap_call to = call.laid.call;
    to.x = address(call.tensor[0]);
    for (int i = 0; i < call.laid.count; ++i)
        to.param[call.laid.slot[i]] = (const float *)address(call.tensor[call.laid.position[i]]);
    return to;
}

// Compute y, and the means if they are kept; None if the call is not plain.
PyObject *forward(FastPath *self, PyObject *args, Ref *mean) {
    Call call;
    if (!find(self, args, nullptr, call)) Py_RETURN_NONE;
    actswap_call to = with_pointers(call);
    DLTensor out;
    if (mean && call.mean.get() != Py_None) {
        mean->set(PyObject_CallOneArg(torch.empty, call.mean.get()));
        if (!*mean || torch.read(mean->get(), &out)) return nullptr;
        to.mean = (float *)address(out);
    }
    Ref y(new_like(PyTuple_GET_ITEM(args, 0), &out));
    if (!y) return nullptr;
    to.y = address(out);
    if (run(to, call.tensor[0])) Py_RETURN_NONE;
    return y.release();
}

// Return None if the call is not plain, False if it is plain but a gradient is wanted, else y.
PyObject *fast_path_call(PyObject *object, PyObject *args, PyObject *) {
    FastPath *self = (FastPath *)object;
    if (!torch.run || PyTuple_GET_SIZE(args) < self->tensors) Py_RETURN_NONE;
    PyObject *level = PyDict_GetItemWithError(torch.levels, torch.level_name);
    if (!level || PyLong_AsLong(level) >= 0) {
        PyErr_Clear();
        Py_RETURN_NONE;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(torch.guards); ++i)
        if (truth(PyObject_CallNoArgs(PyTuple_GET_ITEM(torch.guards, i)), true)) Py_RETURN_NONE;
    if (truth(PyObject_CallNoArgs(torch.grad_enabled), true)) {
        bool wanted = false;
        for (int i = 0; i < self->tensors; ++i) {
            PyObject *tensor = PyTuple_GET_ITEM(args, i);
            if (!plain(tensor)) Py_RETURN_NONE;
            bool needs = attribute(tensor, torch.requires_grad);
            if (needs && i == self->constant) Py_RETURN_NONE;
            wanted = wanted || needs;
        }
        if (wanted) {
            Call call;
            if (!find(self, args, nullptr, call)) Py_RETURN_NONE;
            Py_RETURN_FALSE;
        }
    }
    return forward(self, args, nullptr);
}

PyObject *fast_path_forward(PyObject *self, PyObject *args) {
    Ref mean, y(forward((FastPath *)self, args, &mean));
    if (!y || y.get() == Py_None) return y.release();
    return PyTuple_Pack(2, y.get(), mean ? mean.get() : Py_None);
}

// backward(grad, args, means or None, needs) -> gradients; None if the call is not plain.
PyObject *fast_path_backward(PyObject *object, PyObject *given) {
    FastPath *self = (FastPath *)object;
    PyObject *grad, *args, *mean, *needs;
    if (!PyArg_ParseTuple(given, "OO!OO!", &grad, &PyTuple_Type, &args, &mean, &PyList_Type, &needs)) return nullptr;
    Call call;
    if (PyList_GET_SIZE(needs) != self->tensors || !find(self, args, grad, call)) Py_RETURN_NONE;
    if (self->constant >= 0 && PyList_GET_ITEM(needs, self->constant) == Py_True) Py_RETURN_NONE;
    actswap_call to = with_pointers(call);
    to.grad_y = address(call.grad);
    DLTensor out;
    if (mean != Py_None) {  // users can call the backward operator with anything
        if (!read(mean, &out) || !is_dense_float(out) || out.ndim != 1) Py_RETURN_NONE;
        to.mean = (float *)address(out), to.mean_size = out.shape[0];
    }
    Ref found(PyList_New(self->tensors)), unasked;
    if (!found) return nullptr;
    for (int i = 0; i < self->tensors; ++i) PyList_SET_ITEM(found.get(), i, Py_NewRef(Py_None));
    const bool gated = call.mean.get() != Py_None, wanted = PyList_GET_ITEM(needs, 0) == Py_True;
    if (wanted || !gated) {  // ungated kernels write grad_x along the way even if nobody asks for it
        PyObject *dx = new_like(PyTuple_GET_ITEM(args, 0), &out);
        if (!dx) return nullptr;
        to.y = address(out);
        if (wanted) PyList_SetItem(found.get(), 0, dx);
        else unasked.set(dx);
    } else {
        to.y = nullptr;
    }
    for (int i = 0; i < call.laid.count; ++i) {
        const int position = call.laid.position[i];
        if (PyList_GET_ITEM(needs, position) != Py_True) continue;
        PyObject *dp = new_like(PyTuple_GET_ITEM(args, position), &out);
        if (!dp) return nullptr;
        to.grad_param[call.laid.slot[i]] = (float *)address(out);
        PyList_SetItem(found.get(), position, dp);
    }
    if (run(to, call.tensor[0])) Py_RETURN_NONE;
    return found.release();
}

PyObject *fast_path_new(PyTypeObject *type, PyObject *args, PyObject *) {
    PyObject *lay;
    int tensors, constant;
    if (!PyArg_ParseTuple(args, "Oii", &lay, &tensors, &constant)) return nullptr;
    if (tensors < 1 || tensors > TENSORS || constant >= tensors) {
        PyErr_SetString(PyExc_ValueError, "too many tensors");
        return nullptr;
    }
    FastPath *self = (FastPath *)type->tp_alloc(type, 0);
    if (!self) return nullptr;
    self->lay = Py_NewRef(lay);
    self->tensors = tensors, self->constant = constant;
    self->kinds = new (std::nothrow) Kind[KINDS];
    if (!self->kinds) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

void fast_path_free(PyObject *object) {
    FastPath *self = (FastPath *)object;
    for (int i = 0; self->kinds && i < KINDS; ++i) {
        Py_XDECREF(self->kinds[i].options);
        Py_XDECREF(self->kinds[i].source);
        Py_XDECREF(self->kinds[i].mean);
    }
    delete[] self->kinds;
    Py_XDECREF(self->lay);
    Py_TYPE(object)->tp_free(object);
}

PyMethodDef methods[] = {
    {"forward", fast_path_forward, METH_VARARGS, "forward(*args) -> (y, means or None), or None if it is not plain."},
    {"backward", fast_path_backward, METH_VARARGS, "backward(grad, args, means, needs) -> gradients, or None."},
    {nullptr, nullptr, 0, nullptr},
};

PyTypeObject type = {PyVarObject_HEAD_INIT(nullptr, 0)};

PyObject *setup(PyObject *, PyObject *args) {
    unsigned long long run;
    long long small;
    PyObject *capsule;
    Torch t = torch;
    if (!PyArg_ParseTuple(args, "KLOOOOOOOO!O!", &run, &small, &capsule, &t.tensor, &t.parameter, &t.empty_like,
                          &t.empty, &t.threads, &t.grad_enabled, &PyDict_Type, &t.levels, &PyTuple_Type, &t.guards))
        return nullptr;
    DLPackTable *table = (DLPackTable *)PyCapsule_GetPointer(capsule, ACTSWAP_DLPACK_CAPSULE);
    if (!table) return nullptr;
    while (table && table->major > DLPACK_MAJOR) table = table->older;
    if (!table || table->major != DLPACK_MAJOR || !table->read) {
        PyErr_SetString(PyExc_ImportError, "this torch has another DLPack interface");
        return nullptr;
    }
    Py_INCREF(args);
    t.read = table->read, t.small = small, t.run = (int (*)(const actswap_call *, int))(uintptr_t)run;
    t.level_name = PyUnicode_InternFromString("_current_level");
    t.requires_grad = PyUnicode_InternFromString("requires_grad");
    t.is_neg = PyUnicode_InternFromString("is_neg");
    if (!t.level_name || !t.requires_grad || !t.is_neg) return nullptr;
    torch = t;
    Py_RETURN_NONE;
}

PyMethodDef functions[] = {
    {"setup", setup, METH_VARARGS, "Take over the core's entry point and what torch offers; once."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "_fast_path", "The fast path from Python into the core.", -1, functions,
                      nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__fast_path() {
    type.tp_name = "actswap.ops._fast_path.FastPath";
    type.tp_doc = "FastPath(lay, tensors, constant): the calls of one operator.";
    type.tp_basicsize = sizeof(FastPath);
    type.tp_flags = Py_TPFLAGS_DEFAULT;
    type.tp_new = fast_path_new;
    type.tp_dealloc = fast_path_free;
    type.tp_call = fast_path_call;
    type.tp_methods = methods;
    if (PyType_Ready(&type)) return nullptr;
    Ref made(PyModule_Create(&module));
    if (!made || PyModule_AddObjectRef(made.get(), "FastPath", (PyObject *)&type)) return nullptr;
    return made.release();
}
