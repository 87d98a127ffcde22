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

#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "amx_permission.h"
#include "kept_memory.h"
#include "kernels.h"
#include "loaded.h"
#include "network.h"

namespace nb = nanobind;
using namespace nanobind::literals;
using namespace gw;

namespace {

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

// (address, step, row) and (address, row): strides in elements.
using StepsGiven = std::tuple<uintptr_t, int64_t, int64_t>;
using RowsGiven = std::tuple<uintptr_t, int64_t>;

Steps steps(const StepsGiven& given) { return {pointer(std::get<0>(given)), std::get<1>(given), std::get<2>(given)}; }
Rows rows(const RowsGiven& given) { return {pointer(std::get<0>(given)), std::get<1>(given)}; }

struct Call {
    Problem problem;
    Storage storage;
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

    m.def("activations", activations_tensor, "like"_a, "numbers"_a, "dtype"_a, "twice"_a);

    nb::class_<Network>(m, "Network")
        .def(nb::init<uintptr_t, int, int64_t, int64_t, int64_t, int, bool, const std::vector<nb::object>&,
                      const std::vector<nb::object>&, const std::vector<nb::object>&, nb::object, nb::object, bool>(),
             "cell"_a, "storage"_a, "inputs"_a, "units"_a, "projection"_a, "layers"_a, "both_ways"_a, "names"_a, "shapes"_a,
             "plain"_a, "factors"_a.none(), "computed_in"_a, "every_part"_a)
        .def("run_saving", &Network::run_saving, "given"_a, "batch_first"_a, "threads"_a)
        .def("gradients", &Network::gradients, "saved"_a, "batch_first"_a, "grads"_a, "wanted"_a)
        .def("run", &Network::run, "x"_a, "state"_a.none(), "weights"_a, "batch_first"_a, "threads"_a,
             "lengths"_a = 0, "reset"_a.none() = nb::none());

    nb::class_<Stream>(m, "Stream")
        .def(nb::init<const std::vector<const Call*>&>())
        .def("step", &Stream::step, "row"_a.none(), "The output for one further input, or None if it does not fit.")
        .def("resize", &Stream::resize, "batch"_a, "The rows of further inputs, at most those of the beginning.");
}
