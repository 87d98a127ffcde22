"""Triton's interpreter as the tests need it: programs that wait for each other run side by side.

Triton reads TRITON_INTERPRET when it is first imported; conftest.py sets it where there is no GPU.
"""

from __future__ import annotations

import inspect
import sys
import threading
import time

import numpy as np
from triton.runtime import interpreter

_local = threading.local()
_rewriting = threading.Lock()  # CPython 3.11 cannot parse in two threads at once
_patched: set[tuple[bool, ...]] = set()  # in this launch
_SECONDS = 120  # more than any test takes: what still runs then waits for what never comes
_PAUSE = 1e-3  # of a program that may be waiting: the processor is for those that are not


def install():
    """From here on a launch runs each of its programs in a thread of its own."""
    builder = type(interpreter.interpreter_builder)
    if isinstance(vars(builder).get("grid_idx"), property):
        return
    builder.grid_idx = property(
        lambda _: getattr(_local, "index", None), lambda _, index: setattr(_local, "index", index)
    )
    interpreter.GridExecutor.__call__ = _launch
    tensors, rmw = interpreter._patch_lang_tensor, builder.create_atomic_rmw

    def patch_tensors(tensor, scope):
        tensors(tensor, _Scope(scope))

    def create_atomic_rmw(self, *given):
        if getattr(_local, "failures", None):  # of the programs that this one may be waiting for
            raise RuntimeError("another program failed")
        time.sleep(_PAUSE)
        return rmw(self, *given)

    rewrite = interpreter.InterpretedFunction.rewrite

    def rewrite_alone(function):
        with _rewriting:
            return rewrite(function)

    patch_lang = interpreter._patch_lang

    def patch_once(function):
        """Triton does so at each call of a function, which takes a quarter of a launch's time."""
        languages = (interpreter.tl, interpreter.tl.core)
        values = {id(value) for value in function.__globals__.values()}
        seen = tuple(id(each) in values for each in languages)
        if seen in _patched:
            return None
        scope = patch_lang(function)
        _patched.add(seen)
        return scope

    interpreter.InterpretedFunction.rewrite = rewrite_alone
    interpreter._patch_lang = patch_once
    interpreter._patch_lang_tensor = patch_tensors
    builder.create_atomic_rmw = create_atomic_rmw


class _Scope:
    """Passes on what is patched, but for what NumPy 2.4 cannot: a number of an array of one number."""

    def __init__(self, scope):
        self.scope = scope

    def set_attr(self, of, name, value):
        if name == "__index__":
            value = _number
        self.scope.set_attr(of, name, value)


def _number(tensor):
    return int(tensor.handle.data.item())


def _launch(executor, *given, **named):
    known = inspect.getfullargspec(executor.fn).args
    named = {name: value for name, value in named.items() if name in known}
    given_here, named_here = executor._init_args_hst(given, named)
    _patched.clear()
    scope = interpreter._patch_lang(executor.fn)
    failures: list[BaseException] = []
    try:
        arguments = {
            name: value if name in executor.constexprs else interpreter._implicit_cvt(value)
            for name, value in inspect.getcallargs(executor.fn, *given_here, **named_here).items()
        }
        grid = tuple(executor.grid) + (1,) * (3 - len(executor.grid))
        interpreter.interpreter_builder.set_grid_dim(*grid)

        def program(index):
            _local.index, _local.failures = index, failures
            try:
                with np.errstate(all="ignore"):  # as on a chip
                    executor.fn(**arguments)
            except BaseException as failure:
                failures.append(failure)

        _run([(program, (x, y, 0)) for x in range(grid[0]) for y in range(grid[1])])
    finally:
        scope.restore()
    if failures:
        raise failures[0]
    executor._restore_args_dev(given, given_here, named, named_here)


def _run(programs):
    if len(programs) == 1:
        program, index = programs[0]
        program(index)
        return
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-3)  # a program that waits gives way soon
    try:
        threads = [threading.Thread(target=p, args=(i,), daemon=True) for p, i in programs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(_SECONDS)
        assert not any(thread.is_alive() for thread in threads), "a program waits for ever"
    finally:
        sys.setswitchinterval(before)
