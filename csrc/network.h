// All layers and directions of one module in one call, which checks the module's tensors itself.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <tuple>
#include <vector>

#include "kept_memory.h"
#include "kernels.h"
#include "loaded.h"
#include "tensor.h"

namespace gw {

// The layers and directions of one module through all steps; with gradients, one layer in one direction.
class Network {
    using Array = tensor::Array;
    static constexpr nb::dlpack::dtype bfloat16{4, 16, 1};  // kDLBfloat

public:
    // names and shapes: of the module's weights, for each layer and direction in the order of set_weights; None for
    // a missing weight. plain: the tensor types that are plain arrays in memory, torch.Tensor first. factors: a function that returns the
    // Factors of a call now, or None. computed_in: the dtype of saved activations. every_part: whether the cell uses both
    // parts of every gate; the core does not write the gradients of unused parts.
    Network(uintptr_t cell, int storage, int64_t inputs, int64_t units, int64_t projection, int layers, bool both_ways,
            const std::vector<nb::object>& names, const std::vector<nb::object>& shapes,
            const std::vector<nb::object>& plain, nb::object factors, nb::object computed_in, bool every_part)
        : storage_(Storage(storage)), layers_(layers), directions_(both_ways ? 2 : 1), names_(names), shapes_(shapes),
          plain_(plain), factors_(std::move(factors)), computed_in_(std::move(computed_in)), every_part_(every_part) {
        tensor::exchange_by(plain_.front());
        for (const nb::object& name : names_) weights_ += !name.is_none();
        for (const nb::object& shape : shapes_) sizes_.push_back(shape.is_none() ? std::vector<int64_t>() : nb::cast<std::vector<int64_t>>(shape));
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
        Problem p = problem_;
        p.threads = threads;
        p.lengths = pointer<const int64_t>(lengths);
        Held held;
        const auto by_name = [&](nb::handle name) { return PyDict_GetItem(weights.ptr(), name.ptr()); };
        if (!readable(x, state, by_name, batch_first, p, held)) return nb::none();
        if (p.lengths && !std::all_of(p.lengths, p.lengths + p.batch, [&](int64_t n) { return 0 <= n && n <= p.steps; })) return nb::none();
        if (reset) {
            const auto [base, outermost, next] = *reset;
            p.reset = {pointer(base), batch_first ? next : outermost, batch_first ? outermost : next};
        }
        // from here on a failure, such as a failed allocation, is an error
        const Results results = prepare(x, batch_first, p, held);
        {
            nb::gil_scoped_release release;
            compute(p, held.weights);
        }
        return nb::make_tuple(results.output, p.cell->states == 1 ? nb::borrow(PyTuple_GET_ITEM(results.final.ptr(), 0)) : results.final);
    }

    // As run, for a module with one layer and one direction. It saves the activations that `gradients` needs. given: x, all
    // initial states or none, and the weights in the order of the names. Returns the output, the final states and the
    // activations; None if one of the tensors does not fit.
    nb::object run_saving(const nb::tuple& given, bool batch_first, int threads) {
        Problem p = problem_;
        p.threads = threads;
        Held held;
        nb::object x = given[0];
        const Py_ssize_t before = Py_ssize_t(given.size()) - weights_;  // x and the initial states
        const nb::object state = before > 1 ? tensor::found(PyTuple_GetSlice(given.ptr(), 1, before)) : nb::none();
        Py_ssize_t next = before;
        const auto in_order = [&](nb::handle) { return PyTuple_GET_ITEM(given.ptr(), next++); };
        if (!readable(x, state, in_order, batch_first, p, held)) return nb::none();
        const Results results = prepare(x, batch_first, p, held);
        set_weights(p.weights, held.weights.data(), held.weights.size());
        const int64_t rows = (p.steps + 1) * p.batch;
        const nb::object activations =
            activations_tensor(x, rows * kernels->activations_row(p, storage_) + kernels->activations_extra(storage_), computed_in_, storage_ == Storage::f64);
        p.activations = tensor::data(activations);
        {
            nb::gil_scoped_release release;
            kernels->forward(p, storage_);
        }
        const int states = p.cell->states;
        nb::object found = tensor::found(PyTuple_New(states + 2));
        PyTuple_SET_ITEM(found.ptr(), 0, nb::object(results.output).release().ptr());
        for (int k = 0; k < states; ++k) PyTuple_SET_ITEM(found.ptr(), 1 + k, nb::borrow(PyTuple_GET_ITEM(results.final.ptr(), k)).release().ptr());
        PyTuple_SET_ITEM(found.ptr(), states + 1, nb::object(activations).release().ptr());
        return found;
    }

    // The gradients of the tensors that run_saving was given, None for those that are not wanted. saved: these tensors and the
    // activations, as autograd or its hooks have kept them. grads: the gradients of the output and the final states, or None
    // each. Returns None if one of them is not a plain array in memory, such as a batch of gradients.
    nb::object gradients(const nb::tuple& saved, bool batch_first, const nb::tuple& grads, const nb::tuple& wanted) {
        const auto& ask = tensor::names();
        Problem p = problem_;
        std::vector<nb::object> held;  // keeps alive what the run reads
        const Py_ssize_t given = Py_ssize_t(saved.size()) - 1, before = given - weights_;
        Array kept;
        for (Py_ssize_t k = 0; k < given; ++k)
            if (!is_plain(saved[size_t(k)], kept)) return nb::none();
        nb::object x = saved[0], activations = saved[size_t(given)];
        if (!tensor::read(activations, kept) || !tensor::is_on_cpu(kept)) return nb::none();
        if (!tensor::is_dense(kept)) held.push_back(activations = tensor::call(activations, tensor::names().contiguous));
        const Array lies = in_rows(x, held);
        p.steps = lies.shape[batch_first ? 1 : 0];
        p.batch = lies.shape[batch_first ? 0 : 1];
        p.x = steps_of(lies, batch_first);
        if (!set_gradients(p, batch_first, grads, held)) return nb::none();
        p.factors = factors_now(p);
        p.activations = tensor::data(activations);

        const nb::object found = tensor::found(PyList_New(given));
        for (Py_ssize_t k = 0; k < given; ++k) PyList_SET_ITEM(found.ptr(), k, nb::none().release().ptr());
        const auto is_wanted = [&](Py_ssize_t k) { return PyTuple_GET_ITEM(wanted.ptr(), k) == Py_True; };
        const auto put = [&](Py_ssize_t k, nb::object gradient) {
            void* const to = tensor::data(gradient);
            PyList_SetItem(found.ptr(), k, gradient.release().ptr());  // replaces None
            return to;
        };
        if (is_wanted(0)) p.grad_x = dense(put(0, tensor::call(x, ask.new_empty, lies.shape[0], lies.shape[1], p.inputs)), batch_first, p, p.inputs);
        for (int k = 0; k + 1 < before; ++k) {
            const int64_t width = p.state_size(k);
            if (is_wanted(1 + k)) p.grad_state[k] = {put(1 + k, tensor::call(x, ask.new_empty, 1, p.batch, width)), width};
        }
        std::vector<uintptr_t> weights(names_.size()), of_weights(names_.size());
        Py_ssize_t at = before;
        for (size_t k = 0; k < names_.size(); ++k) {
            if (names_[k].is_none()) continue;
            nb::object weight = saved[size_t(at)];
            if (!tensor::is_dense(tensor::array_of(weight))) held.push_back(weight = tensor::call(weight, ask.contiguous));
            weights[k] = uintptr_t(tensor::data(weight));
            if (is_wanted(at)) of_weights[k] = uintptr_t(put(at, tensor::call_with_shape(weight, every_part_ ? ask.new_empty : ask.new_zeros, shapes_[k])));
            ++at;
        }
        set_weights(p.weights, weights.data(), weights.size());
        set_weights(p.grad_weights, of_weights.data(), of_weights.size());
        {
            nb::gil_scoped_release release;
            kernels->backward(p, storage_);
        }
        return found;
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

    struct Results {
        nb::object output, final;  // final: a tuple
    };

    // Makes the results, and stores in p what a readable call lacks. x and the states are copied where they must be.
    Results prepare(nb::object& x, bool batch_first, Problem& p, Held& held) const {
        const auto& ask = tensor::names();
        p.factors = factors_now(p);
        if (!held.x_in_rows) {
            x = tensor::call(x, ask.contiguous);
            p.x = steps_of(tensor::array_of(x), batch_first);
        }
        const int states = p.cell->states;
        for (int k = 0; k < states; ++k) {
            if (!held.copied[k]) continue;
            held.state[k] = tensor::call(held.state[k], ask.contiguous);
            p.state[k].base = tensor::data(held.state[k]);
        }
        const int64_t wide = p.output_size() * directions_;
        const nb::object output = tensor::call(x, ask.new_empty, batch_first ? p.batch : p.steps, batch_first ? p.steps : p.batch, wide);
        p.output = dense(tensor::data(output), batch_first, p, wide);
        const nb::object final = tensor::found(PyTuple_New(states));
        for (int k = 0; k < states; ++k) {
            const int64_t width = p.state_size(k);
            nb::object last = tensor::call(x, ask.new_empty, layers_ * directions_, p.batch, width);
            p.final_state[k] = {tensor::data(last), width};
            PyTuple_SET_ITEM(final.ptr(), k, last.release().ptr());
        }
        return {output, final};
    }

    // Those that the settings ask for. A run of one row reads its numbers as they are.
    Factors factors_now(const Problem& p) const {
        return factors_.is_none() || p.steps * p.batch <= 1 ? Factors::as_stored : Factors(tensor::number(factors_()));
    }

    // A contiguous T×B×width array, or B×T×width if batch_first.
    static Steps dense(void* base, bool batch_first, const Problem& p, int64_t width) {
        return {base, batch_first ? width : p.batch * width, batch_first ? p.steps * width : width};
    }

    // An array T×B×width, or B×T×width if batch_first.
    static Steps steps_of(const Array& x, bool batch_first) { return {x.data, x.strides[batch_first ? 1 : 0], x.strides[batch_first ? 0 : 1]}; }

    // Makes x a copy that `held` keeps alive, unless its last dimension is contiguous.
    static Array in_rows(nb::object& x, std::vector<nb::object>& held) {
        const Array array = tensor::array_of(x);
        if (array.strides[array.ndim - 1] == 1) return array;
        held.push_back(x = tensor::call(x, tensor::names().contiguous));
        return tensor::array_of(x);
    }

    // Stores the gradients of the results in p. Returns false if one of them is not a plain array in memory.
    bool set_gradients(Problem& p, bool batch_first, const nb::tuple& grads, std::vector<nb::object>& held) const {
        const auto& ask = tensor::names();
        for (int k = 0; k <= p.cell->states; ++k) {
            nb::object gradient = grads[size_t(k)];
            if (gradient.is_none()) continue;
            Array array;
            if (!is_plain(gradient, array)) return false;
            if (is_negated(gradient)) held.push_back(gradient = tensor::call(gradient, ask.resolve_neg));
            const Steps given = steps_of(in_rows(gradient, held), k == 0 && batch_first);
            if (k == 0)
                p.grad_output = given;
            else
                p.grad_final[k - 1] = {given.base, given.row};
        }
        return true;
    }

    // Stores x, the initial state and the weights in p and held. Returns false if one of them does not fit. weight: returns
    // the weight of a name, or null.
    template <class Find>
    bool readable(const nb::object& x, const nb::object& state, const Find& weight, bool batch_first, Problem& p, Held& held) const {
        Array lies;
        if (!is_plain(x, lies) || is_negated(x) || lies.ndim != 3 || lies.shape[2] != problem_.inputs) return false;
        p.steps = lies.shape[batch_first ? 1 : 0];
        p.batch = lies.shape[batch_first ? 0 : 1];
        p.x = steps_of(lies, batch_first);
        held.x_in_rows = lies.strides[2] == 1;
        return fit(weight, held.tensors, held.weights) && (state.is_none() || begin_from(state, p, held));
    }

    // Whether the tensor is a plain array of this network's dtype on the CPU. Stores how it lies there.
    bool is_plain(nb::handle tensor, Array& to) const {
        const nb::dlpack::dtype dtype = storage_ == Storage::f64 ? nb::dtype<double>() : storage_ == Storage::f32 ? nb::dtype<float>() : bfloat16;
        for (const nb::object& type : plain_)
            if (type.ptr() == reinterpret_cast<PyObject*>(Py_TYPE(tensor.ptr()))) return tensor::read(tensor, to) && to.dtype == dtype && tensor::is_on_cpu(to);
        return false;
    }

    // Whether torch takes the array's numbers as negated ones.
    static bool is_negated(nb::handle tensor) { return tensor::call(tensor, tensor::names().is_neg).is(Py_True); }

    // Stores the initial states in p and held. Returns false if they do not fit.
    bool begin_from(const nb::object& state, Problem& p, Held& held) const {
        const nb::object all = PyTuple_Check(state.ptr()) ? state : nb::make_tuple(state);
        if (PyTuple_GET_SIZE(all.ptr()) != p.cell->states) return false;
        for (int k = 0; k < p.cell->states; ++k) {
            const nb::handle given = PyTuple_GET_ITEM(all.ptr(), k);
            Array lies;
            if (!is_plain(given, lies) || is_negated(given) || lies.ndim != 3 || lies.shape[0] != layers_ * directions_ || lies.shape[1] != p.batch ||
                lies.shape[2] != p.state_size(k))
                return false;
            held.state[k] = nb::borrow(given);
            held.copied[k] = !tensor::is_dense(lies);
            p.state[k] = {lies.data, p.state_size(k)};
        }
        return true;
    }

    // Looks up the weights; held keeps them alive. Returns false if they do not fit.
    template <class Find>
    bool fit(const Find& find, std::vector<nb::object>& held, std::vector<uintptr_t>& addresses) const {
        held.reserve(names_.size());
        addresses.assign(names_.size(), 0);
        for (size_t k = 0; k < names_.size(); ++k) {
            if (names_[k].is_none()) continue;
            PyObject* found = find(names_[k]);
            if (found == nullptr) return false;
            const nb::handle weight = held.emplace_back(nb::borrow(found));
            Array lies;
            const std::vector<int64_t>& size = sizes_[k];
            if (!is_plain(weight, lies) || is_negated(weight) || !std::equal(size.begin(), size.end(), lies.shape, lies.shape + lies.ndim) || !tensor::is_dense(lies) ||
                lies.data == nullptr)  // without numbers
                return false;
            addresses[k] = uintptr_t(lies.data);
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
    std::vector<std::vector<int64_t>> sizes_;  // those of the shapes
    std::vector<nb::object> plain_;
    nb::object factors_, computed_in_;
    bool every_part_;
    Py_ssize_t weights_ = 0;
};

}  // namespace gw
