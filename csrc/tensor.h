// Attributes and methods of torch's tensors, by name, because the core is built without torch.
#pragma once

#include <Python.h>
#include <nanobind/nanobind.h>

#include <cstdint>
#include <iterator>

namespace gw::tensor {

namespace nb = nanobind;

// Never released: the interpreter may exit before them.
struct Names {
    PyObject *data_ptr = of("data_ptr"), *shape = of("shape"), *dtype = of("dtype"), *is_cpu = of("is_cpu"), *is_neg = of("is_neg"),
             *is_contiguous = of("is_contiguous"), *contiguous = of("contiguous"), *stride = of("stride"), *new_empty = of("new_empty"),
             *new_zeros = of("new_zeros"), *resolve_neg = of("resolve_neg");
    PyObject* only_dtype = PyTuple_Pack(1, dtype);  // the names of arguments: dtype alone

private:
    static PyObject* of(const char* text) { return PyUnicode_InternFromString(text); }
};

inline const Names& names() {
    static const Names all;
    return all;
}

inline nb::object found(PyObject* result) {
    if (result == nullptr) nb::raise_python_error();
    return nb::steal(result);
}

// of.method(given...), with numbers.
template <class... Numbers>
nb::object call(nb::handle of, PyObject* method, Numbers... given) {
    const nb::object held[] = {nb::borrow(of), nb::int_(int64_t(given))...};
    PyObject* args[1 + sizeof...(given)];
    for (size_t k = 0; k <= sizeof...(given); ++k) args[k] = held[k].ptr();
    return found(PyObject_VectorcallMethod(method, args, std::size(args) | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr));
}

// of.method(shape), with a tuple.
inline nb::object call_with_shape(nb::handle of, PyObject* method, nb::handle shape) {
    PyObject* args[] = {of.ptr(), shape.ptr()};
    return found(PyObject_VectorcallMethod(method, args, std::size(args) | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr));
}

// like.new_empty(count, dtype=dtype)
inline nb::object new_empty(nb::handle like, int64_t count, nb::handle dtype) {
    const nb::int_ number(count);
    PyObject* args[] = {like.ptr(), number.ptr(), dtype.ptr()};
    return found(PyObject_VectorcallMethod(names().new_empty, args, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET, names().only_dtype));
}

inline nb::object attribute(nb::handle of, PyObject* what) { return found(PyObject_GetAttr(of.ptr(), what)); }

inline int64_t number(nb::handle of) {
    const int64_t value = PyLong_AsLongLong(of.ptr());
    if (value == -1 && PyErr_Occurred()) nb::raise_python_error();
    return value;
}

inline int64_t number(const nb::object& tuple, int at) { return number(nb::handle(PyTuple_GET_ITEM(tuple.ptr(), at))); }

inline void* data(nb::handle of) { return PyLong_AsVoidPtr(call(of, names().data_ptr).ptr()); }

}  // namespace gw::tensor
