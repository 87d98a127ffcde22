"""Small ONNX and Keras files that would take much memory or time, and what reading each of them takes.

As a program: ``weights_bombs.py FOLDER`` reads every file in a child of its own and prints, as JSON, of each
how it ended, the bytes that it took at most above what the process had before, and its seconds.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
import traceback
import zipfile
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

H = 4
R = np.ones((1, H, H), np.float32)
MIB = 2**20


def rnn(name="layer", W="W"):
    return helper.make_node("RNN", ["X", W, "R"], [f"Y_{name}"], name=name, hidden_size=H)


def model(nodes, stored=(), functions=(), **arrays):
    """A model of these nodes; R is there, arrays are tensors."""
    arrays = {"R": R, **arrays}
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, None)],
        [],
        [*(numpy_helper.from_array(array, name) for name, array in arrays.items()), *stored],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=10)


def doublings(count, first="a"):
    names = [first, *(f"{first}{k}" for k in range(1, count)), "W"]
    return [
        helper.make_node("Concat", [names[k], names[k]], [names[k + 1]], axis=0)
        for k in range(count)
    ]


def doubled():
    return model([*doublings(29), rnn()], a=np.ones(4, np.float32))


def doubled_within():
    inner = helper.make_graph([*doublings(29), rnn()], "inner", [], [])
    return model([helper.make_node("Loop", ["n"], ["Z"], body=inner)], a=np.ones(4, np.float32))


def doubled_in_a_constant():
    value = numpy_helper.from_array(np.ones(4, np.float32))
    return model([helper.make_node("Constant", [], ["a"], value=value), *doublings(29), rnn()])


def many(operator, name, array, count=600, **attributes):
    """``count`` nodes that each take the same tensor, put together."""
    nodes = [helper.make_node(operator, ["a"], [f"a{k}"], **attributes) for k in range(count)]
    together = helper.make_node("Concat", [f"a{k}" for k in range(count)], ["W"], axis=0)
    return model([*nodes, together, rnn()], a=array)


def cast_wider():
    return many("Cast", "cast", np.ones(MIB, np.int8), to=TensorProto.DOUBLE)


def transposed():
    return many("Transpose", "turned", np.ones((1024, 1024), np.int8), perm=[1, 0])


def gathered():
    indices = np.zeros(2000, np.int64)
    nodes = [helper.make_node("Gather", ["a", "i"], ["b"], axis=0)]
    nodes += [helper.make_node("Gather", ["b", "i"], ["c"], axis=1)]
    nodes += [helper.make_node("Gather", ["c", "i"], ["W"], axis=2)]
    return model([*nodes, rnn()], a=np.ones((1, 1, 1), np.float32), i=indices)


def functions_of_functions():
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]

    def function(name, nodes):
        return helper.make_function("own", name, ["X", "W", "R"], ["Y"], nodes, opsets)

    inputs = ["X", "W", "R"]
    made = [function("f0", [helper.make_node("RNN", inputs, ["Y"], hidden_size=H)])]
    for k in range(1, 30):
        nodes = [
            helper.make_node(f"f{k - 1}", inputs, [out], domain="own") for out in ("unused", "Y")
        ]
        made.append(function(f"f{k}", nodes))
    call = helper.make_node("f29", ["X", "W", "R"], ["Y"], domain="own")
    return model([call], functions=made, W=np.ones((1, H, 2), np.float32))


def function_of_itself():
    opsets = [helper.make_opsetid("own", 1)]
    nodes = [helper.make_node("f", ["X"], ["Y"], domain="own")]
    function = helper.make_function("own", "f", ["X"], ["Y"], nodes, opsets)
    return model([helper.make_node("f", ["X"], ["Y"], domain="own")], functions=[function])


def without_its_numbers(raw):
    tensor = TensorProto(name="W", data_type=TensorProto.FLOAT, dims=[1, H, 2**40])
    if raw:
        tensor.raw_data = bytes(4)
    return model([rnn()], [tensor])


def text():
    tensor = TensorProto(name="a", data_type=TensorProto.STRING, dims=[20_000])
    tensor.string_data.extend([b"1" * 100_000, *[b""] * 19_999])
    cast = helper.make_node("Cast", ["a"], ["W"], to=TensorProto.FLOAT)
    return model([cast, rnn()], [tensor])


def sparse(stored):
    values = numpy_helper.from_array(np.ones(1, np.float32), "W" if stored else "")
    indices = numpy_helper.from_array(np.zeros(1, np.int64))
    tensor = helper.make_sparse_tensor(values, indices, [2**40])
    if not stored:
        return model([helper.make_node("Constant", [], ["W"], sparse_value=tensor), rnn()])
    made = model([rnn()])
    made.graph.sparse_initializer.append(tensor)
    return made


def shared_by_many_layers():
    return model([rnn(f"l{k}") for k in range(2000)], W=np.ones((1, H, 2**16), np.float32))


def many_small_layers():
    return model([rnn(f"l{k}") for k in range(20_000)], W=np.ones((1, H, 2), np.float32))


def many_small_operations():
    nodes = [helper.make_node("Identity", ["a"], [f"a{k}"]) for k in range(20_000)]
    together = helper.make_node("Concat", [f"a{k}" for k in range(20_000)], ["W"], axis=0)
    return model([*nodes, together, rnn()], a=np.ones(1, np.float32))


def beside(folder):
    """Tensors that are all the same bytes of another file."""
    (folder / "beside.bin").write_bytes(bytes(4 * MIB))
    tensors = [
        TensorProto(name=f"a{k}", data_type=1, dims=[MIB], data_location=TensorProto.EXTERNAL)
        for k in range(500)
    ]
    for tensor in tensors:
        tensor.external_data.add(key="location", value="beside.bin")
    together = helper.make_node("Concat", [each.name for each in tensors], ["W"], axis=0)
    return model([together, rnn()], tensors)


ONNX = {
    "doubled": (doubled, "Concat.*the limit"),
    "doubled within a node": (doubled_within, "Concat.*the limit"),
    "doubled from a constant": (doubled_in_a_constant, "Concat.*the limit"),
    "cast to what is wider": (cast_wider, "Cast.*the limit"),
    "turned often": (transposed, "Transpose.*the limit"),
    "gathered": (gathered, "Gather.*the limit"),
    "functions": (functions_of_functions, "functions.*the limit"),
    "a function of itself": (function_of_itself, "'f' of the file calls itself"),
    "huge and empty": (lambda: without_its_numbers(False), "the limit|cannot be read"),
    "huge with four bytes": (lambda: without_its_numbers(True), "but has 4: the file is damaged"),
    "text": (text, "'a' is text; it must be numbers"),
    "sparse": (lambda: sparse(True), "'W' is sparse"),
    "sparse constant": (lambda: sparse(False), "'W' has a sparse_value"),
    "one weight in many layers": (shared_by_many_layers, "the limit"),
    "many small layers": (many_small_layers, "the limit"),
    "many small operations": (many_small_operations, "the limit"),
}


def keras_layer(name, units=H):
    options = dict(name=name, units=units, activation="tanh", use_bias=False)
    return dict(class_name="SimpleRNN", module="keras.layers", config=options)


def keras_archive(path, layers, weights, text=None):
    """A .keras file of these layers; ``weights`` writes into its HDF5 file."""
    import h5py

    config = dict(class_name="Sequential", module="keras", config=dict(name="m", layers=layers))
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        weights(file)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", text or json.dumps(config))
        archive.writestr("metadata.json", json.dumps(dict(keras_version="3.15.1")))
        archive.writestr("model.weights.h5", memory.getvalue())


def one_array_for_all(file, count=400):
    options = dict(chunks=True, compression="gzip")
    kernel = file.create_dataset("kernel", data=np.zeros((2**20, H), "f4"), **options)
    own = file.create_dataset("own", data=np.zeros((H, H), "f4"))
    for k in range(count):
        group = file.create_group(f"layers/simple_rnn{f'_{k}' if k else ''}/cell/vars")
        group["0"], group["1"] = kernel, own


def shared_arrays(path):
    keras_archive(path, [keras_layer(f"l{k}") for k in range(400)], one_array_for_all)


def many_lists(path):
    text = '{"class_name": "Sequential", "config": [' + "[]," * 20_000_000 + "[]]}"
    keras_archive(path, [], lambda file: None, text)


def many_lists_within_bounds(path):
    text = '{"class_name": "Sequential", "config": [' + "[]," * 2_500_000 + "[]]}"
    keras_archive(path, [], lambda file: None, text)


KERAS = {
    "one array in many layers": (shared_arrays, "may still be read"),
    "a long configuration": (many_lists, "bytes of text; at most"),
    "a configuration of many lists": (many_lists_within_bounds, "cannot be read as a Keras model"),
}


def write_all(folder: Path) -> dict[str, tuple[Path, str]]:
    """Of each bomb its file, and what an error says of it."""
    found = {}
    for k, (name, (make, message)) in enumerate({**ONNX, "beside": (None, "the limit")}.items()):
        path = folder / f"{k}.onnx"
        path.write_bytes((make or (lambda: beside(folder)))().SerializeToString())
        found[name] = path, message
    for k, (name, (write, message)) in enumerate(KERAS.items()):
        path = folder / f"{k}.keras"
        write(path)
        found[name] = path, message
    return found


def _outcome(path: Path) -> str:
    import gatewise as gw

    read = gw.from_onnx if path.suffix == ".onnx" else gw.from_keras
    try:
        read(path)
    except gw.GatewiseError as error:
        return f"{type(error).__name__}: {error}"[:500]
    except BaseException:
        return traceback.format_exc()[-500:]
    return "read"


def measured(path: Path) -> tuple[str, int, float]:
    """How reading ends, in a child of this process; the bytes that it took, and the seconds."""
    receive, send = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak begins anew
        before = _status("VmRSS")
        outcome = _outcome(path)
        os.write(send, json.dumps([outcome, _status("VmHWM") - before]).encode())
        os._exit(0)
    os.close(send)
    with os.fdopen(receive) as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    outcome, peak = json.loads(answer) if answer else (f"ended with {status}", 0)
    return outcome, peak, time.monotonic() - began


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def main(folder: Path) -> None:
    import onnx.inliner
    import onnx.reference

    import gatewise as gw

    assert onnx.inliner
    assert onnx.reference
    gw.from_onnx(model([rnn()], W=np.ones((1, H, 2), np.float32)))  # all is imported
    files = write_all(folder)
    print(json.dumps({name: (*measured(path), message) for name, (path, message) in files.items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
