// The fast path from Python into the core: one C call instead of the dozen Python calls that ctypes takes, which on a
// small tensor cost ten times the work itself.
//
// `lay`, in Python, lays a kind of call out for the core, once. A call that is not plain gets None back and goes
// through ctypes. Padé units also hand over the coordinates that their coefficients are made from (`through`): the
// coefficients then exist for the time of the call only.
#include "kinds.h"

#include <new>

namespace {

PyObject *not_found(const Call &call) { return Py_NewRef(call.unknown ? Py_True : Py_None); }

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
PyObject *forward(FastPath *self, PyObject *args, Ref *mean, bool by_coordinates = false) {
    Call call;
    if (!find(self, args, nullptr, call, by_coordinates)) return not_found(call);
    Pair coefficients(call.from);
    if (by_coordinates) make(call, coefficients);
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
PyObject *call_of(FastPath *self, PyObject *args, bool by_coordinates) {
    const int tensors = by_coordinates ? THROUGH - 1 : self->tensors;
    if (!torch.run || PyTuple_GET_SIZE(args) < tensors) Py_RETURN_NONE;
    PyObject *level = PyDict_GetItemWithError(torch.levels, torch.level_name);
    if (!level || PyLong_AsLong(level) >= 0) {
        PyErr_Clear();
        Py_RETURN_NONE;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(torch.guards); ++i)
        if (truth(PyObject_CallNoArgs(PyTuple_GET_ITEM(torch.guards, i)), true)) Py_RETURN_NONE;
    if (truth(PyObject_CallNoArgs(torch.grad_enabled), true)) {
        bool wanted = false;
        for (int i = 0; i < tensors; ++i) {
            PyObject *tensor = PyTuple_GET_ITEM(args, i);
            if (!plain(tensor)) Py_RETURN_NONE;
            bool needs = attribute(tensor, torch.requires_grad);
            // By coordinates, x and u alone have gradients.
            if (needs && (by_coordinates ? i > 1 : i == self->constant)) Py_RETURN_NONE;
            wanted = wanted || needs;
        }
        if (wanted) {
            Call call;
            if (!find(self, args, nullptr, call, by_coordinates)) return not_found(call);
            Py_RETURN_FALSE;
        }
    }
    return forward(self, args, nullptr, by_coordinates);
}

PyObject *fast_path_call(PyObject *self, PyObject *args, PyObject *) { return call_of((FastPath *)self, args, false); }

PyObject *fast_path_through(PyObject *self, PyObject *args) { return call_of((FastPath *)self, args, true); }

PyObject *fast_path_through_forward(PyObject *self, PyObject *args) {
    return forward((FastPath *)self, args, nullptr, true);
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

// through_backward(grad, args, needs) -> gradients of x and u, None if it is not needed; None if the call is not plain.
PyObject *fast_path_through_backward(PyObject *object, PyObject *given) {
    FastPath *self = (FastPath *)object;
    PyObject *grad, *args;
    int needs_x, needs_u;
    if (!PyArg_ParseTuple(given, "OO!pp", &grad, &PyTuple_Type, &args, &needs_x, &needs_u)) return nullptr;
    Call call;
    if (!find(self, args, grad, call, true)) return not_found(call);
    Pair coefficients(call.from), gradients(call.from);
    make(call, coefficients);
    actswap_call to = with_pointers(call);
    to.grad_y = address(call.grad);
    DLTensor out;
    Ref dx(new_like(PyTuple_GET_ITEM(args, 0), &out)), du;  // the kernels write grad_x along the way
    if (!dx) return nullptr;
    to.y = address(out);
    if (needs_u) {
        du.set(new_like(PyTuple_GET_ITEM(args, 1), &out));
        if (!du) return nullptr;
        for (int i = 0; i < call.laid.count; ++i) {
            const int position = call.laid.position[i];
            if (position == 1 || position == 2) to.grad_param[call.laid.slot[i]] = gradients.part[position - 1];
        }
    }
    if (run(to, call.tensor[0])) Py_RETURN_NONE;
    if (needs_u) gradient_of(call.from, gradients.part[0], gradients.part[1], (float *)address(out));
    return PyTuple_Pack(2, needs_x ? dx.get() : Py_None, needs_u ? du.get() : Py_None);
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
    {"through", fast_path_through, METH_VARARGS,
     "through(x, u, radius, mix, centre, tails, top, *options) -> y, None if it is not plain, False for a gradient, "
     "True for a kind that is not known."},
    {"through_forward", fast_path_through_forward, METH_VARARGS, "The same arguments -> y, None or True."},
    {"through_backward", fast_path_through_backward, METH_VARARGS,
     "through_backward(grad, args, needs_x, needs_u) -> gradients of x and u, None or True."},
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
