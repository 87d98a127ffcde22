// The Python binding: loads one kernel library, fills in Problems and runs them. Python has checked sizes, types
// and devices, except those that Network checks itself.
#include <dlfcn.h>
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "amx_permission.h"
#include "kernels.h"

namespace nb = nanobind;
using namespace nanobind::literals;
using namespace gw;

namespace {

const Kernels* kernels = nullptr;

// Null if the library has no such symbol.
void* symbol_or_null(const std::string& library, const char* name) {
    void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);  // never closed
    if (handle == nullptr) throw std::runtime_error(dlerror());
    return dlsym(handle, name);
}

void* symbol(const std::string& library, const char* name) {
    void* found = symbol_or_null(library, name);
    if (found == nullptr) throw std::runtime_error(dlerror());
    return found;
}

template <class T = void>
T* pointer(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

// (address, step, row) and (address, row): strides in elements.
using StepsGiven = std::tuple<uintptr_t, int64_t, int64_t>;
using RowsGiven = std::tuple<uintptr_t, int64_t>;

Steps steps(const StepsGiven& given) { return {pointer(std::get<0>(given)), std::get<1>(given), std::get<2>(given)}; }
Rows rows(const RowsGiven& given) { return {pointer(std::get<0>(given)), std::get<1>(given)}; }

// Memory for saved activations, from a forward call to its backward call. Freed blocks are kept for the next
// call, because mapping new pages at each training step takes as long as some of the products.
class Block {
public:
    explicit Block(size_t bytes) : bytes_(bytes) {
        {
            const std::lock_guard hold(mutex());
            auto& free = free_blocks();
            const auto found = free.lower_bound(bytes);
            if (found != free.end() && found->first <= 2 * bytes) {
                bytes_ = found->first;
                base_ = found->second;
                kept() -= bytes_;
                free.erase(found);
                return;
            }
        }
        constexpr size_t huge = size_t(2) << 20;
        bytes_ = bytes < huge ? (bytes + 4095) / 4096 * 4096 : (bytes + huge - 1) / huge * huge;
        base_ = std::aligned_alloc(bytes < huge ? 4096 : huge, bytes_);
        if (base_ == nullptr) throw std::bad_alloc();
#if defined(__linux__)
        if (bytes >= huge) madvise(base_, bytes_, MADV_HUGEPAGE);
#endif
    }

    ~Block() {
        const std::lock_guard hold(mutex());
        if (kept() + bytes_ > most_kept) {
            std::free(base_);
        } else {
            kept() += bytes_;
            free_blocks().emplace(bytes_, base_);
        }
    }

    Block(const Block&) = delete;

    void* base() const { return base_; }

private:
    static constexpr size_t most_kept = size_t(512) << 20;
    // Never destroyed: blocks may be released while the interpreter exits.
    static std::mutex& mutex() {
        static auto* one = new std::mutex;
        return *one;
    }
    static std::multimap<size_t, void*>& free_blocks() {
        static auto* all = new std::multimap<size_t, void*>;
        return *all;
    }
    static size_t& kept() {
        static size_t bytes = 0;
        return bytes;
    }

    size_t bytes_;
    void* base_ = nullptr;
};

struct Call {
    Problem problem;
    Storage storage;
};

// In the order of contract.Weights, the per-unit parameters last.
void set_weights(Weights& weights, const uintptr_t* given, size_t given_count) {
    void** named[] = {&weights.input,      &weights.recurrent,  &weights.input_bias,    &weights.recurrent_bias,
                      &weights.projection, &weights.norm_input, &weights.norm_recurrent};
    constexpr size_t count = sizeof named / sizeof *named;
    for (size_t k = 0; k < given_count; ++k) (k < count ? *named[k] : weights.per_unit[k - count]) = pointer(given[k]);
}

// Attributes and methods of torch's tensors, by name, because the core is built without torch.
namespace tensor {

// Never released: the interpreter may exit before them.
struct Names {
    PyObject *data_ptr = of("data_ptr"), *shape = of("shape"), *dtype = of("dtype"), *is_cpu = of("is_cpu"), *is_neg = of("is_neg"),
             *is_contiguous = of("is_contiguous"), *contiguous = of("contiguous"), *stride = of("stride"), *new_empty = of("new_empty");

private:
    static PyObject* of(const char* text) { return PyUnicode_InternFromString(text); }
};

const Names& names() {
    static const Names all;
    return all;
}

nb::object found(PyObject* result) {
    if (result == nullptr) nb::raise_python_error();
    return nb::steal(result);
}

template <class... Numbers>
nb::object call(nb::handle of, PyObject* method, Numbers... given) {
    const nb::object held[] = {nb::borrow(of), nb::int_(int64_t(given))...};
    PyObject* args[1 + sizeof...(given)];
    for (size_t k = 0; k <= sizeof...(given); ++k) args[k] = held[k].ptr();
    return found(PyObject_VectorcallMethod(method, args, std::size(args) | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr));
}

nb::object attribute(nb::handle of, PyObject* what) { return found(PyObject_GetAttr(of.ptr(), what)); }

int64_t number(nb::handle of) {
    const int64_t value = PyLong_AsLongLong(of.ptr());
    if (value == -1 && PyErr_Occurred()) nb::raise_python_error();
    return value;
}

int64_t number(const nb::object& tuple, int at) { return number(nb::handle(PyTuple_GET_ITEM(tuple.ptr(), at))); }

void* data(nb::handle of) { return PyLong_AsVoidPtr(call(of, names().data_ptr).ptr()); }

}  // namespace tensor

// The layers and directions of one module through all steps, without a gradient.
class Network {
public:
    // names and shapes: of the module's weights, for each layer and direction in the order of set_weights; None for
    // a missing weight. plain: the tensor types that are plain arrays in memory. factors: a function that returns the
    // Factors of a call now, or None.
    Network(uintptr_t cell, int storage, int64_t inputs, int64_t units, int64_t projection, int layers, bool both_ways,
            const std::vector<nb::object>& names, const std::vector<nb::object>& shapes, nb::object dtype,
            const std::vector<nb::object>& plain, nb::object factors)
        : storage_(Storage(storage)), layers_(layers), directions_(both_ways ? 2 : 1), names_(names), shapes_(shapes),
          dtype_(std::move(dtype)), plain_(plain), factors_(std::move(factors)), seen_(names.size()) {
        problem_.cell = pointer<const Cell>(cell);
        problem_.inputs = inputs;
        problem_.units = units;
        problem_.projection = projection;
    }

    // Returns the output, in the layout of x, and the final state or states; None if x, an initial state or a weight
    // does not fit. state: one state, a tuple or None. weights: the module's, by name. lengths: the address of the
    // batch's lengths, or 0. reset: the address and the two strides of bytes in the layout of x, or None; it is for
    // one direction.
    nb::object run(nb::object x, nb::object state, const nb::dict& weights, bool batch_first, int threads, uintptr_t lengths,
                   std::optional<std::tuple<uintptr_t, int64_t, int64_t>> reset) {
        const auto& ask = tensor::names();
        Problem p = problem_;
        p.threads = threads;
        p.lengths = pointer<const int64_t>(lengths);
        Held held;
        if (!readable(x, state, weights, batch_first, p, held)) return nb::none();
        if (p.lengths && !std::all_of(p.lengths, p.lengths + p.batch, [&](int64_t n) { return 0 <= n && n <= p.steps; })) return nb::none();
        if (reset) {
            const auto [base, outermost, next] = *reset;
            p.reset = {pointer(base), batch_first ? next : outermost, batch_first ? outermost : next};
        }
        // from here on a failure, such as a failed allocation, is an error
        if (!factors_.is_none() && p.steps * p.batch > 1) p.factors = Factors(tensor::number(factors_()));
        if (!held.x_in_rows) {
            x = tensor::call(x, ask.contiguous);
            place(x, batch_first, p);
        }
        const int states = p.cell->states;
        for (int k = 0; k < states; ++k) {
            if (!held.copied[k]) continue;
            held.state[k] = tensor::call(held.state[k], ask.contiguous);
            p.state[k].base = tensor::data(held.state[k]);
        }
        const int64_t outer = batch_first ? p.batch : p.steps, inner = batch_first ? p.steps : p.batch;
        const int64_t wide = p.output_size() * directions_;
        const nb::object output = tensor::call(x, ask.new_empty, outer, inner, wide);
        p.output = {tensor::data(output), batch_first ? wide : inner * wide, batch_first ? inner * wide : wide};
        nb::object final = nb::steal(PyTuple_New(states));
        for (int k = 0; k < states; ++k) {
            const int64_t width = p.state_size(k);
            nb::object last = tensor::call(x, ask.new_empty, layers_ * directions_, p.batch, width);
            p.final_state[k] = {tensor::data(last), width};
            PyTuple_SET_ITEM(final.ptr(), k, last.release().ptr());
        }
        {
            nb::gil_scoped_release release;
            compute(p, held.weights);
        }
        return nb::make_tuple(output, states == 1 ? nb::borrow(PyTuple_GET_ITEM(final.ptr(), 0)) : final);
    }

private:
    // Keeps alive what a run reads, because other threads may replace the weights or run this with others.
    struct Held {
        bool x_in_rows = true;  // the values of a step are contiguous
        nb::object state[max_states];
        bool copied[max_states] = {};  // whether a state must be copied to be contiguous
        std::vector<nb::object> tensors;
        std::vector<uintptr_t> weights;
    };

    // Stores x, the initial state and the weights in p and held. Returns false if one of them does not fit.
    bool readable(const nb::object& x, const nb::object& state, const nb::dict& weights, bool batch_first, Problem& p, Held& held) {
        try {
            if (!read_as_it_lies(x)) return false;
            const nb::object shape = tensor::attribute(x, tensor::names().shape);
            if (PyTuple_GET_SIZE(shape.ptr()) != 3 || tensor::number(shape, 2) != problem_.inputs) return false;
            p.steps = tensor::number(shape, batch_first ? 1 : 0);
            p.batch = tensor::number(shape, batch_first ? 0 : 1);
            held.x_in_rows = place(x, batch_first, p);
            return fit(weights, held.tensors, held.weights) && (state.is_none() || begin_from(state, p, held));
        } catch (nb::python_error& error) {
            // sparse and nested tensors have no strides, shape or address
            if (!error.matches(PyExc_RuntimeError)) throw;
            return false;
        }
    }

    // Stores the address and strides of x in p. Returns whether the values of a step are contiguous.
    static bool place(const nb::object& x, bool batch_first, Problem& p) {
        const nb::object strides = tensor::call(x, tensor::names().stride);
        p.x = {tensor::data(x), tensor::number(strides, batch_first ? 1 : 0), tensor::number(strides, batch_first ? 0 : 1)};
        return tensor::number(strides, 2) == 1;
    }

    // Whether the tensor is a plain array of this network's dtype.
    bool array(nb::handle tensor) const {
        for (const nb::object& type : plain_)
            if (type.ptr() == reinterpret_cast<PyObject*>(Py_TYPE(tensor.ptr())))
                return tensor::attribute(tensor, tensor::names().dtype).is(dtype_);
        return false;
    }

    bool read_as_it_lies(nb::handle tensor) const {
        const auto& ask = tensor::names();
        return array(tensor) && tensor::attribute(tensor, ask.is_cpu).is(Py_True) && !tensor::call(tensor, ask.is_neg).is(Py_True);
    }

    // Stores the initial states in p and held. Returns false if they do not fit.
    bool begin_from(const nb::object& state, Problem& p, Held& held) const {
        const auto& ask = tensor::names();
        const nb::object all = PyTuple_Check(state.ptr()) ? state : nb::make_tuple(state);
        if (PyTuple_GET_SIZE(all.ptr()) != p.cell->states) return false;
        for (int k = 0; k < p.cell->states; ++k) {
            const nb::handle given = PyTuple_GET_ITEM(all.ptr(), k);
            if (!read_as_it_lies(given)) return false;
            const nb::object shape = tensor::attribute(given, ask.shape);
            if (PyTuple_GET_SIZE(shape.ptr()) != 3 || tensor::number(shape, 0) != layers_ * directions_ ||
                tensor::number(shape, 1) != p.batch || tensor::number(shape, 2) != p.state_size(k))
                return false;
            held.state[k] = nb::borrow(given);
            held.copied[k] = !tensor::call(given, ask.is_contiguous).is(Py_True);
            p.state[k] = {tensor::data(given), p.state_size(k)};
        }
        return true;
    }

    // Looks up the weights by name; held keeps them alive. Returns false if they do not fit.
    bool fit(const nb::dict& weights, std::vector<nb::object>& held, std::vector<uintptr_t>& addresses) {
        const auto& ask = tensor::names();
        held.reserve(names_.size());
        addresses.assign(names_.size(), 0);
        for (size_t k = 0; k < names_.size(); ++k) {
            if (names_[k].is_none()) continue;
            PyObject* found = PyDict_GetItem(weights.ptr(), names_[k].ptr());
            if (found == nullptr) return false;
            const nb::handle weight = held.emplace_back(nb::borrow(found));
            if (!array(weight) || !tensor::attribute(weight, ask.shape).equal(shapes_[k]) ||
                !tensor::call(weight, ask.is_contiguous).is(Py_True))
                return false;
            addresses[k] = uintptr_t(tensor::data(weight));
            if (addresses[k] == 0) return false;  // on no device, or freed
            if (addresses[k] == seen_[k]) continue;
            if (!read_as_it_lies(weight)) return false;
            seen_[k] = addresses[k];
        }
        return true;
    }

    // Runs all layers. p has the first layer's input, the last layer's output, and the initial and final states, each
    // a dense L·D×B×width array; null initial states are zero.
    void compute(Problem& p, const std::vector<uintptr_t>& weights) const {
        const size_t bytes = storage_ == Storage::f64 ? 8 : storage_ == Storage::f32 ? 4 : 2;
        const int64_t out = p.output_size(), wide = out * directions_;
        const size_t between = layers_ > 1 ? size_t(p.steps * p.batch * wide) * bytes : 0;
        const std::unique_ptr<char[]> buffers[2] = {std::unique_ptr<char[]>(between ? new char[between] : nullptr),
                                                    std::unique_ptr<char[]>(layers_ > 2 ? new char[between] : nullptr)};
        const Steps output = p.output;
        const size_t each = weights.size() / size_t(layers_ * directions_);
        for (int layer = 0; layer < layers_; ++layer) {
            const Steps to = layer + 1 == layers_ ? output : Steps{buffers[layer % 2].get(), p.batch * wide, wide};
            for (int d = 0; d < directions_; ++d) {
                p.reverse = d == 1;
                p.output = {static_cast<char*>(to.base) + size_t(d * out) * bytes, to.step, to.row};
                set_weights(p.weights, weights.data() + size_t(layer * directions_ + d) * each, each);
                kernels->forward(p, storage_);
                for (int k = 0; k < p.cell->states; ++k) {
                    const size_t next = size_t(p.batch * p.state_size(k)) * bytes;
                    if (p.state[k].base) p.state[k].base = static_cast<char*>(p.state[k].base) + next;
                    p.final_state[k].base = static_cast<char*>(p.final_state[k].base) + next;
                }
            }
            p.x = to;
            p.inputs = wide;
        }
    }

    Problem problem_;
    Storage storage_;
    int layers_, directions_;
    std::vector<nb::object> names_, shapes_;
    nb::object dtype_;
    std::vector<nb::object> plain_;
    nb::object factors_;
    std::vector<uintptr_t> seen_;  // the weights' addresses at the last call
};

// Layers that keep their packed weights and their state, and run one step per call.
class Stream {
public:
    // calls: one for each layer; the state stays in their final_state.
    explicit Stream(const std::vector<const Call*>& calls) : first_(calls.front()->problem) {
        for (const Call* call : calls) {
            storage_ = call->storage;
            layers_.push_back(kernels->open_stream(call->problem, storage_));
        }
        const Problem& last = calls.back()->problem;
        output_ = last.output_size();
        if (storage_ == Storage::f64)
            between_.resize(size_t(last.batch * output_) * 2 * sizeof(double));
        else
            between_.resize(size_t(last.batch * output_) * 2 * sizeof(float));
    }

    ~Stream() {
        for (void* layer : layers_) kernels->close_stream(layer);
    }

    Stream(const Stream&) = delete;

    nb::object step(nb::handle row) {
        return storage_ == Storage::f64 ? step_as<double>(row) : step_as<float>(row);
    }

    void resize(int64_t batch) {
        first_.batch = batch;
        for (void* layer : layers_) kernels->resize_stream(layer, batch);
    }

private:
    template <class T>
    nb::object step_as(nb::handle row) {
        nb::ndarray<const T, nb::c_contig, nb::device::cpu> x;
        // Python raises the error about the row
        if (!nb::try_cast(row, x, false) || x.ndim() < 1 || x.ndim() > 2) return nb::none();
        const size_t dims = x.ndim();
        if (int64_t(x.shape(dims - 1)) != first_.inputs || (dims == 2 ? int64_t(x.shape(0)) : 1) != first_.batch) return nb::none();
        T* to = new T[size_t(first_.batch * output_)];
        const void* from = x.data();
        for (size_t k = 0; k < layers_.size(); ++k) {
            void* out = k + 1 == layers_.size() ? static_cast<void*>(to)
                                                : between_.data() + (k % 2) * size_t(first_.batch * output_) * sizeof(T);
            kernels->step_stream(layers_[k], from, out);
            from = out;
        }
        const size_t shape[] = {size_t(first_.batch), size_t(output_)};
        nb::capsule owner(to, [](void* p) noexcept { delete[] static_cast<T*>(p); });
        return nb::cast(nb::ndarray<nb::numpy, T>(to, dims, shape + 2 - dims, owner));
    }

    Problem first_;
    Storage storage_;
    int64_t output_;
    std::vector<void*> layers_;
    std::vector<char> between_;
};

template <Rows (Problem::*field)[max_states]>
void set_rows(Call& call, const std::vector<RowsGiven>& given) {
    for (size_t k = 0; k < given.size(); ++k) (call.problem.*field)[k] = rows(given[k]);
}

template <Steps Problem::*field>
void set_steps(Call& call, const StepsGiven& given) {
    call.problem.*field = steps(given);
}

// `field` is an array of Steps: one for each state, or for each accumulator.
template <auto field>
void set_each_steps(Call& call, const std::vector<StepsGiven>& given) {
    for (size_t k = 0; k < given.size(); ++k) (call.problem.*field)[k] = steps(given[k]);
}

template <void* Problem::*field>
void set_address(Call& call, uintptr_t given) {
    call.problem.*field = pointer(given);
}

}  // namespace

NB_MODULE(_core, m) {
    // torch.compile never releases the layers it has seen; nanobind would warn about each at exit
    nb::set_leak_warnings(false);
    m.def("load", [](const std::string& library, bool forked) {
        kernels = static_cast<const Kernels*>(symbol(library, "gw_kernels"));
        kernels->begin(forked);
    });
    m.def("level", [] { return std::string(kernels->level); });
    // Whether products of float32 numbers may read factors rounded to bfloat16.
    m.def("tiles", [] { return kernels->tiles; });
    m.def("vector_bytes", [] { return kernels->vector_bytes; });
    m.def("cell", [](const std::string& library, const std::string& name) {
        return reinterpret_cast<uintptr_t>(symbol(library, name.c_str()));
    });
    // None if the library has no such cell.
    m.def("fingerprint", [](const std::string& library, const std::string& name) -> std::optional<std::string> {
        const auto* cell = static_cast<const Cell*>(symbol_or_null(library, name.c_str()));
        if (cell == nullptr) return std::nullopt;
        return cell->fingerprint;
    });
    m.def("supports", [](const std::string& level) {
#if defined(__x86_64__)
        __builtin_cpu_init();
#endif
#define GW_LEVEL_TEST(name, has) \
    if (level == name) return bool(has);
#include "level_tests.h"
        return false;
    });
    m.def("limits", [] {
        return std::map<std::string, int>{{"states", max_states},
                                          {"accumulators", max_accumulators},
                                          {"params", max_params},
                                          {"values", max_values}};
    });

    nb::class_<Call>(m, "Call")
        .def("__init__",
             [](Call* call, uintptr_t cell, int storage, int64_t steps, int64_t batch, int64_t inputs, int64_t units,
                int64_t projection, bool reverse, int threads, int factors) {
                 new (call) Call{{}, Storage(storage)};
                 Problem& p = call->problem;
                 p.cell = pointer<const Cell>(cell);
                 p.steps = steps;
                 p.batch = batch;
                 p.inputs = inputs;
                 p.units = units;
                 p.projection = projection;
                 p.reverse = reverse;
                 p.threads = threads;
                 p.factors = Factors(factors);
             })
        .def("x", set_steps<&Problem::x>)
        .def("output", set_steps<&Problem::output>)
        .def("reset", set_steps<&Problem::reset>)
        .def("grad_output", set_steps<&Problem::grad_output>)
        .def("grad_x", set_steps<&Problem::grad_x>)
        .def("state", set_rows<&Problem::state>)
        .def("final_state", set_rows<&Problem::final_state>)
        .def("grad_final", set_rows<&Problem::grad_final>)
        .def("grad_state", set_rows<&Problem::grad_state>)
        .def("recurrent_factor", [](Call& call, const RowsGiven& given) { call.problem.recurrent_factor = rows(given); })
        .def("recurrent_input", set_steps<&Problem::recurrent_input>)
        .def("zoneout", set_each_steps<&Problem::zoneout>)
        .def("history", set_each_steps<&Problem::history>)
        .def("grad_history", set_each_steps<&Problem::grad_history>)
        .def("grad_after", set_each_steps<&Problem::grad_after>)
        .def("pre_activations", set_each_steps<&Problem::pre_activations>)
        .def("grad_pre_activations", set_each_steps<&Problem::grad_pre_activations>)
        .def("weights", [](Call& call, const std::vector<uintptr_t>& given) { set_weights(call.problem.weights, given.data(), given.size()); })
        .def("grad_weights",
             [](Call& call, const std::vector<uintptr_t>& given) { set_weights(call.problem.grad_weights, given.data(), given.size()); })
        .def("lengths", [](Call& call, uintptr_t lengths) { call.problem.lengths = pointer<const int64_t>(lengths); })
        .def("trace", set_address<&Problem::trace>)
        .def("activations", set_address<&Problem::activations>)
        .def("activations_size",
             [](const Call& call) {
                 return std::tuple(kernels->activations_row(call.problem, call.storage), kernels->activations_extra(call.storage));
             })
        .def("order", [](const Call& call, uintptr_t to) { kernels->order(call.problem, pointer<int64_t>(to)); })
        .def("forward", [](const Call& call) { kernels->forward(call.problem, call.storage); },
             nb::call_guard<nb::gil_scoped_release>())
        .def("backward", [](const Call& call) { kernels->backward(call.problem, call.storage); },
             nb::call_guard<nb::gil_scoped_release>());

    m.def("activations", [](size_t numbers, bool twice) -> nb::object {
        auto block = std::make_unique<Block>(numbers * (twice ? sizeof(double) : sizeof(float)));
        void* base = block->base();
        nb::capsule owner(block.release(), [](void* p) noexcept { delete static_cast<Block*>(p); });
        if (twice) return nb::cast(nb::ndarray<nb::pytorch, double>(base, {numbers}, owner));
        return nb::cast(nb::ndarray<nb::pytorch, float>(base, {numbers}, owner));
    });

    nb::class_<Network>(m, "Network")
        .def(nb::init<uintptr_t, int, int64_t, int64_t, int64_t, int, bool, const std::vector<nb::object>&,
                      const std::vector<nb::object>&, nb::object, const std::vector<nb::object>&, nb::object>(),
             "cell"_a, "storage"_a, "inputs"_a, "units"_a, "projection"_a, "layers"_a, "both_ways"_a, "names"_a, "shapes"_a, "dtype"_a,
             "plain"_a, "factors"_a.none())
        .def("run", &Network::run, "x"_a, "state"_a.none(), "weights"_a, "batch_first"_a, "threads"_a,
             "lengths"_a = 0, "reset"_a.none() = nb::none());

    nb::class_<Stream>(m, "Stream")
        .def(nb::init<const std::vector<const Call*>&>())
        .def("step", &Stream::step, "row"_a.none(), "The output for one further input, or None if it does not fit.")
        .def("resize", &Stream::resize, "batch"_a, "The rows of further inputs, at most those of the beginning.");
}
