"""The faults that faults.py plants: each one text of the source in another's place.

An old text stands exactly once below src, in whatever file; `python benchmarks/faults.py --check` says
where that is no longer so. A fault is one that somebody could make by a slip, and that no import shows.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One planted fault.

    Attributes:
        name: its room and what is wrong.
        old, new: the text of the source, and what takes its place.
        tests: the files that are to find it, the most likely one first.
    """

    name: str
    old: str
    new: str
    tests: tuple[str, ...]


FAULTS = (
    # cells and what is printed of them
    Fault(
        "cells: derivative of tanh",
        "(dy * (1 - y * y),)",
        "(dy * (1 - y),)",
        ("test_backends.py",),
    ),
    Fault(
        "cells: derivative of a quotient",
        "(dy / y.args[1], -dy * y / y.args[1])",
        "(dy / y.args[1], -dy / y.args[1])",
        ("test_backends.py", "test_cells.py"),
    ),
    Fault(
        "cells: detach lets the gradient through",
        '"detach": lambda y, dy: (None,)',
        '"detach": lambda y, dy: (dy,)',
        ("test_backends.py", "test_cells.py"),
    ),
    Fault(
        "cells: a peephole sees the old state",
        "c = f * s.c + (1 - f) * g\n    o = sigmoid(a.o + p.po * c)",
        "c = f * s.c + (1 - f) * g\n    o = sigmoid(a.o + p.po * s.c)",
        ("test_catalogue.py", "test_backends.py"),
    ),
    Fault(
        "emit: half of a gate's gradient is lost",
        '[("gate", a.gate), (a.part, a.gate)]',
        "[(a.part, a.gate)]",
        ("test_cpu.py", "test_triton.py"),
    ),
    Fault(
        "emit: no brackets in a formula",
        'bare = binding >= least and (leading or not written.startswith("-"))',
        'bare = leading or not written.startswith("-")',
        ("test_equations.py",),
    ),
    # backends
    Fault(
        "cpu: strides of the gradient",
        "kept = [None if g is None else _dense(g) for g in grads]",
        "kept = list(grads)",
        ("test_cpu.py", "test_backends.py"),
    ),
    Fault(
        "cpu: order of traced sequences",
        "values.index_select(2, order.argsort())",
        "values.index_select(2, order)",
        ("test_cpu.py", "test_backends.py", "test_traced.py"),
    ),
    Fault(
        "cpu: gradients of unused parts are not zero",
        "return plan.from_input == plan.from_state == len(cell.gates)",
        "return True",
        ("test_cpu.py", "test_backends.py"),
    ),
    Fault(
        "reference: zoneout's shares exchanged",
        "share[t] * before + (1 - share[t]) * new",
        "share[t] * new + (1 - share[t]) * before",
        ("test_backends.py", "test_options.py"),
    ),
    Fault(
        "reference: reset a step late",
        "reset = masks.reset[t]",
        "reset = masks.reset[max(t - 1, 0)]",
        ("test_backends.py", "test_options.py"),
    ),
    Fault(
        "contract: a step too many is valid",
        "torch.arange(steps, device=lengths.device)[:, None] < lengths",
        "torch.arange(steps, device=lengths.device)[:, None] <= lengths",
        ("test_layers.py", "test_backends.py"),
    ),
    Fault(
        "contract: lengths beyond the end pass",
        "wrong = (as_signed < 0) | (as_signed > steps)",
        "wrong = as_signed < 0",
        ("test_layers.py", "test_torch.py"),
    ),
    Fault(
        "contract: small normalised layers in single precision",
        "_FEW_VALUES = 32",
        "_FEW_VALUES = 0",
        ("test_layer_norm.py", "test_backends.py"),
    ),
    Fault(
        "aten: padding opens the input gate",
        "gates = [-_SATURATED, _SATURATED, 0, -_SATURATED]",
        "gates = [_SATURATED, _SATURATED, 0, -_SATURATED]",
        ("test_layers.py", "test_backends.py", "test_torch.py"),
    ),
    Fault(
        "aten: the state of an empty sequence",
        "ended = torch.where((lengths > 0)[:, None], last, state[0])",
        "ended = last",
        ("test_layers.py", "test_backends.py", "test_torch.py"),
    ),
    Fault(
        "scan: a reset in the padding",
        "cut = cut if valid is None else cut & valid",
        "cut = cut if valid is None else cut",
        ("test_scan.py",),
    ),
    Fault(
        "scan: gradient by the wrong state",
        "_carried(of_states[1:], states[:-1], cut)",
        "_carried(of_states[1:], states[1:], cut)",
        ("test_scan.py",),
    ),
    Fault(
        "operators: negated weights",
        "resolved = [None if w is None else w.resolve_neg() for w in operands.weights]",
        "resolved = list(operands.weights)",
        ("test_torch.py",),
    ),
    Fault(
        "registry: a named backend is passed over in silence",
        "return f\"the backend '{name}' was asked for, but it {reason}\"",
        'return _found("auto", cell_name, transformed, recorded, **fields)',
        ("test_calls.py", "test_layers.py", "test_scan.py"),
    ),
    Fault(
        "triton: what is fed back is not cleared",
        "values = tl.where(cleared[:, None], 0.0, values)",
        "values = values + 0.0",
        ("test_triton.py",),
    ),
    Fault(
        "triton: gradient of relu at zero",
        "return tl.where(x <= 0, 0.0, dy)",
        "return tl.where(x > 0, 0.0, dy)",
        ("test_triton.py",),
    ),
    # layers
    Fault(
        "masks: recurrent dropout without its scale",
        "recurrent = F.dropout(ones, recurrent_dropout)",
        "recurrent = F.dropout(ones, recurrent_dropout).clamp(max=1)",
        ("test_layers.py",),
    ),
    Fault(
        "masks: zoneout's mean in inference",
        "return x.new_full((1, 1, size), p)",
        "return x.new_full((1, 1, size), 1 - p)",
        ("test_layers.py",),
    ),
    Fault(
        "resets: the last step of a reversed sequence",
        "valid_steps(steps, lengths - 1)",
        "valid_steps(steps, lengths - 2)",
        ("test_options.py", "test_directions.py", "test_layers.py"),
    ),
    Fault(
        "states: shared by both directions",
        "[tuple([s[k] for s in states]) for k in range(len(config.step_shapes))]",
        "[tuple([s[0] for s in states]) for k in range(len(config.step_shapes))]",
        ("test_layers.py", "test_torch.py"),
    ),
    Fault(
        "directions: the mean is a sum",
        "return (one + other) / 2",
        "return one + other",
        ("test_directions.py",),
    ),
    Fault(
        "init: one of a gate's two biases is left",
        '_parameter(layer, "bias_hh" + suffix)[rows] = 0',
        "pass",
        ("test_init.py",),
    ),
    Fault(
        "init: time scales beyond the longest",
        "torch.empty(layer._structure.units).uniform_(1, longest - 1)",
        "torch.empty(layer._structure.units).uniform_(1, 2 * longest)",
        ("test_init.py",),
    ),
    Fault(
        "stream: no zoneout",
        "if any(zoneout):\n            pairs",
        "if not any(zoneout):\n            pairs",
        ("test_stream.py",),
    ),
    Fault(
        "step: a state handed on is the caller's own",
        "unshared[k] = state.clone()",
        "unshared[k] = state",
        ("test_calls.py", "test_step.py"),
    ),
    Fault(
        "convert: a shared module becomes two",
        "if id(module) not in made:",
        "if True:",
        ("test_convert.py",),
    ),
    Fault(
        "mlstm: the running maximum forgets to decay",
        "edges.append(torch.maximum(decay + edges[-1], largest))",
        "edges.append(torch.maximum(edges[-1], largest - decay))",
        ("test_mlstm.py",),
    ),
    Fault(
        "keras: the output of a masked step",
        "rows = (count - 1).clamp(min=0) * batch",
        "rows = count.clamp(max=len(y) - 1) * batch",
        ("test_keras_layers.py", "test_keras.py"),
    ),
    # weights of other libraries
    Fault(
        "weights: peepholes of ONNX in PyTorch's order",
        'split_gates(P[d], "i o f")',
        'split_gates(P[d], "i f o")',
        ("test_weights_onnx.py",),
    ),
    Fault(
        "weights: the coupled gate's sign",
        '"f": -rows["i"]',
        '"f": rows["i"]',
        ("test_weights_onnx.py",),
    ),
    Fault(
        "weights: Keras's two biases exchanged",
        '{"bias_ih": pair[0], "bias_hh": pair[1]}',
        '{"bias_ih": pair[1], "bias_hh": pair[0]}',
        ("test_weights_keras.py",),
    ),
    Fault(
        "weights: order of cuDNN's matrices",
        '(("weight_ih", size), ("weight_hh", width))',
        '(("weight_hh", width), ("weight_ih", size))',
        ("test_weights_cudnn.py",),
    ),
    # data
    Fault(
        "data: the context sees the first step to forecast",
        "rows = begin + origin[:, None] + np.arange(-length, 0)",
        "rows = begin + origin[:, None] + np.arange(-length, 0) + 1",
        ("test_forecast.py", "test_forecast_numbers.py", "test_scaling.py"),
    ),
    Fault(
        "data: scales of a series by its last rows too",
        "part = table[:, start : start + count]",
        "part = table[:, start:]",
        ("test_scaling.py", "test_forecast_numbers.py"),
    ),
    Fault(
        "data: a season less than a season ago",
        "apart = np.abs(values[season:] - values[:-season])",
        "apart = np.abs(values[1:] - values[:-1])",
        ("test_scaling.py", "test_forecast_numbers.py"),
    ),
    Fault(
        "data: the later of two equal wall times",
        'ambiguous="earliest"',
        'ambiguous="latest"',
        ("test_zones.py", "test_timeline.py"),
    ),
    Fault(
        "data: sign of a zone's name",
        'f"Etc/GMT{-hours:+d}"',
        'f"Etc/GMT{hours:+d}"',
        ("test_zones.py",),
    ),
    Fault(
        "data: a table that is cut off",
        "if fields < columns:",
        "if fields > columns:",
        ("test_table.py", "test_readers.py"),
    ),
    Fault(
        "data: line of a row in messages",
        "{index + 2 + self.blank}",
        "{index + 1 + self.blank}",
        ("test_table.py", "test_panel.py"),
    ),
    # tasks
    Fault(
        "scores: sign in the pinball loss",
        'result["pinball"] = _mean(np.maximum(q * gap, (q - 1) * gap))',
        'result["pinball"] = _mean(np.maximum(q * gap, (1 - q) * gap))',
        ("test_forecast.py", "test_forecast_numbers.py"),
    ),
    Fault(
        "scores: rank of a conformal interval",
        "np.ceil(np.round((number + 1) * coverage, 9))",
        "np.ceil(np.round(number * coverage, 9))",
        ("test_forecast_properties.py", "test_forecast_numbers.py"),
    ),
    Fault(
        "scores: phases of the seasonal baseline",
        "np.tile(last, -(-horizon // season))",
        "np.repeat(last, -(-horizon // season), 1)",
        ("test_forecast.py", "test_forecast_numbers.py"),
    ),
    Fault(
        "training: dropout of a resumed run",
        "self._seed((self.recipe.seed * 1_000_003 + self.global_step) % 2**63)",
        "self.recipe.seed",
        ("test_resume.py",),
    ),
    Fault(
        "training: the last round is kept",
        "return min(range(len(losses)), key=losses.__getitem__)",
        "return len(losses) - 1",
        ("test_resume.py", "test_forecast.py", "test_sequences_estimators.py"),
    ),
    Fault(
        "training: a sequence twice in a pass",
        "np.array_split(draw.permutation(self.chosen), self.number)",
        "np.array_split(draw.choice(self.chosen, len(self.chosen)), self.number)",
        ("test_sequences_estimators.py", "test_sequences_data.py"),
    ),
    Fault(
        "files: a damaged checkpoint",
        'if _checksum(described["tree"], tensors) != described["sha256"]:',
        "if not described:",
        ("test_resume.py", "test_saved.py"),
    ),
    Fault(
        "files: an edited model",
        'if _content(described) != found["checksum"]:',
        "if not found:",
        ("test_saved.py",),
    ),
    Fault(
        "files: an older model's tensors stay",
        "if before is not None:\n        with suppress(OSError)",
        'if before == "":\n        with suppress(OSError)',
        ("test_saved.py",),
    ),
    Fault(
        "command line: exit status of an error",
        "_say(with_flags(str(error), flags))\n        return 2\n    except BrokenPipeError",
        "_say(with_flags(str(error), flags))\n        return 0\n    except BrokenPipeError",
        ("test_cli.py", "test_command_lines.py"),
    ),
)
