// torch's tensors, without torch's headers, because the core is built without torch: what lies in memory by the exchange
// of DLPack, all else by the names of methods.
#pragma once

#include <Python.h>
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <stdexcept>

namespace gw::tensor {

namespace nb = nanobind;

// An array's address, sizes, strides, type and device. It is right until the tensor changes.
using Array = nb::dlpack::dltensor;

// The table of functions that DLPack defines for a type of tensors. It runs no Python code, and takes as long for all of
// an array as the method `data_ptr` does for its address.
struct Exchange {
    struct Header {
        uint32_t major, minor;
        Header* before;
    };
    Header header;
    void *allocate, *from_object, *to_object;
    int (*array_of)(void* object, Array* to);
    void* stream;
};

inline const Exchange* exchange = nullptr;

// Must be called first. type: torch.Tensor.
inline void exchange_by(nb::handle type) {
    const nb::object table = type.attr("__dlpack_c_exchange_api__");
    const auto* found = static_cast<const Exchange*>(PyCapsule_GetPointer(table.ptr(), "dlpack_exchange_api"));
    if (found == nullptr) nb::raise_python_error();
    if (found->header.major != 1) throw std::runtime_error("torch's DLPack has another major version than 1");
    exchange = found;
}

inline bool is_empty(const Array& array) { return std::any_of(array.shape, array.shape + array.ndim, [](int64_t size) { return size == 0; }); }

// Whether the storage has memory. That takes two calls of methods.
inline bool is_allocated(nb::handle tensor);

// Stores what the tensor is in memory. Returns false if it is no array there, as sparse and nested tensors, batches of
// gradients, zeros without memory and tensors whose memory was freed are none.
inline bool read(nb::handle tensor, Array& to) {
    if (exchange->array_of(tensor.ptr(), &to) != 0) {
        PyErr_Clear();
        return false;
    }
    const uintptr_t address = uintptr_t(to.data) + to.byte_offset;
    to.data = reinterpret_cast<void*>(address);
    // a tensor without memory has its offset into the storage as its address; a program's own memory may lie as low
    constexpr uintptr_t largest_offset = uintptr_t(1) << 36;
    return address > largest_offset || is_empty(to) || (address != 0 && is_allocated(tensor));
}

inline bool is_on_cpu(const Array& array) { return array.device.device_type == nb::device::cpu::value || array.device.device_type == nb::device::cuda_host::value; }

// Whether the values lie side by side, in order.
inline bool is_dense(const Array& array) {
    int64_t stride = 1;
    bool dense = true;
    for (int d = array.ndim; d-- > 0; stride *= array.shape[d]) dense &= array.shape[d] == 1 || array.strides[d] == stride;
    return dense || stride == 0;  // no values
}

// Never released: the interpreter may exit before them.
struct Names {
    PyObject *is_neg = of("is_neg"), *resolve_neg = of("resolve_neg"), *contiguous = of("contiguous"), *new_empty = of("new_empty"),
             *new_zeros = of("new_zeros"), *untyped_storage = of("untyped_storage"), *data_ptr = of("data_ptr"), *dtype = of("dtype");
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

inline int64_t number(nb::handle of) {
    const int64_t value = PyLong_AsLongLong(of.ptr());
    if (value == -1 && PyErr_Occurred()) nb::raise_python_error();
    return value;
}

inline bool is_allocated(nb::handle tensor) { return PyObject_IsTrue(call(call(tensor, names().untyped_storage), names().data_ptr).ptr()) == 1; }

// Of a tensor that is known to be an array.
inline Array array_of(nb::handle tensor) {
    Array array;
    if (!read(tensor, array)) throw std::runtime_error("a tensor is not an array in memory");
    return array;
}

inline void* data(nb::handle tensor) { return array_of(tensor).data; }

}  // namespace gw::tensor
