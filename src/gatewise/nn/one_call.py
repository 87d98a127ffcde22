"""The short way of a call: a backend runs all layers and directions in one call; with gradients, one layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gatewise.backends.contract import Network, address_of, differentiated, in_double, in_memory
from gatewise.backends.gradient import run_network
from gatewise.backends.registry import choose, load
from gatewise.backends.torch_private import watched
from gatewise.nn.config import LayerConfig
from gatewise.nn.parameters import STORED
from gatewise.nn.sequences import State

if TYPE_CHECKING:
    from gatewise.nn.shapes import Lengths

_threads = torch.get_num_threads


class OneCall:
    """Runs a layer's call in one call of a backend, and its backward pass in another.

    The checks are few, because they take a good part of the time of a call with one step.

    Attributes:
        network: the backend's network; None before the first call that a backend can run.
    """

    def __init__(self, config: LayerConfig) -> None:
        self._config, self._backend = config, ""
        self.network: Network | None = None

    def run(
        self,
        backend: str,
        parameters: Mapping[str, Tensor | None],
        input: object,
        hx: State | None,
        lengths: Lengths | None,
        reset: Tensor | None,
        batch_first: bool,
    ) -> Any:
        """The output and the final state, or None if the call must take the longer way.

        Args:
            backend: "auto", or the name of a backend.
            parameters: the layer's parameters by name.
        """
        if not isinstance(input, Tensor) or watched():
            return None
        network = self.network
        if network is None or network.dtype is not input.dtype or backend != self._backend:
            network = self._make(backend, parameters, input)
            if network is None:
                return None
        if torch.is_grad_enabled():
            plain = lengths is None and reset is None
            return (
                self._differentiable(network, parameters, input, hx, batch_first) if plain else None
            )
        threads = _threads()
        if lengths is None and reset is None:
            return network.run(input, hx, parameters, batch_first, threads)
        if not _are_readable(self._config, input, lengths, reset, batch_first):
            return None
        return network.run(
            *(input, hx, parameters, batch_first, threads),
            0 if lengths is None else address_of(lengths),  # type: ignore[arg-type]
            None if reset is None else (address_of(reset), *reset.stride()),
        )

    def _differentiable(
        self,
        network: Network,
        parameters: Mapping[str, Tensor | None],
        input: Tensor,
        hx: State | None,
        batch_first: bool,
    ) -> Any:
        """The result of a call that records gradients. Several layers or directions take the longer way."""
        if network.cell is None:
            return None
        weights = [parameters.get(name) for name in network.names if name is not None]
        given: Any = (input, *_listed(hx))
        # autograd reads the sizes of what it is given before the network does
        if not in_memory((*given, *weights)) or any(t is None or t.is_nested for t in given):
            return None
        if not (differentiated(weights) or differentiated(given)):
            return network.run(input, hx, parameters, batch_first, _threads())
        found = run_network(network, batch_first, *given, *weights)
        if found is None:
            return None
        output, *final = found
        return output, tuple(final) if len(final) > 1 else final[0]

    def run_step(
        self,
        backend: str,
        parameters: Mapping[str, Tensor | None],
        input: Tensor,
        hx: State | None,
    ) -> Any:
        """The state after one step over ``input``, B×I, or None as from :meth:`run`."""
        try:
            x = input[None]
            if isinstance(hx, Tensor):
                hx = hx[None]
            elif hx is not None:
                if not isinstance(hx, tuple | list):
                    return None
                hx = tuple(s[None] for s in hx)
        except (TypeError, IndexError, RuntimeError):
            return None  # the longer way raises the error
        result = self.run(backend, parameters, x, hx, None, None, False)
        if result is None:
            return None
        after = result[1]  # squeezed in place, because a view could not be detached
        if isinstance(after, Tensor):
            return after.squeeze_(0)
        return tuple(s.squeeze_(0) for s in after)

    def _make(
        self, backend: str, parameters: Mapping[str, Tensor | None], input: Tensor
    ) -> Network | None:
        """The network of the chosen backend; None if the backend has none or it cannot run ``input``."""
        config = self._config
        like = parameters.get("weight_ih" + config.first_suffix)
        if (
            like is None
            or not in_memory((input,))
            or input.is_nested
            or not input.is_cpu
            or input.device != like.device
            or input.dtype != like.dtype
            or (config.layer_norm and in_double(config.cell, config.hidden_size, input.dtype))
        ):
            return None
        choice = choose(
            backend,
            cell=config.cell,
            input_size=config.input_size,
            hidden_size=config.hidden_size,
            proj_size=config.proj_size,
            dtype=input.dtype,
            device=input.device,
            layer_norm=config.layer_norm,
            single=config.single_step,
        )
        make = getattr(load(choice.backend), "network", None)
        if make is None:
            return None
        weights = [
            (name + suffix, shapes[name]) if name in shapes else (None, None)
            for suffix, shapes in config.step_shapes.items()
            for name in (*STORED.values(), *config.cell.params)
        ]
        sizes = (
            *(config.input_size, config.hidden_size, config.proj_size, config.num_layers),
            config.bidirectional,
        )
        self.network, self._backend = make(config.cell, sizes, weights, input.dtype), backend
        return self.network


def _listed(hx: State | None) -> tuple[Any, ...]:
    """The states of ``hx``."""
    if hx is None:
        return ()
    if not isinstance(hx, tuple):
        return (hx,)
    return hx or (None,)  # an empty tuple is no state, and not the default


def _are_readable(
    config: LayerConfig,
    input: Tensor,
    lengths: Lengths | None,
    reset: Tensor | None,
    batch_first: bool,
) -> bool:
    """Whether a network can read the lengths and resets in place. It checks the lengths' values itself."""
    shape, given = input.shape, [t for t in (lengths, reset) if t is not None]
    plain = in_memory(given) and all(t.is_cpu for t in given)  # type: ignore[union-attr]
    if not plain or input.dim() != 3:
        return False
    if isinstance(lengths, Tensor):
        batch = (shape[0 if batch_first else 1],)
        if lengths.dtype != torch.int64 or lengths.shape != batch or not lengths.is_contiguous():
            return False
    if reset is None:
        return True
    return not config.bidirectional and reset.dtype == torch.bool and reset.shape == shape[:-1]
