"""Forward passes that leave nothing behind: hooks, modes and random streams are as before, even after an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rlkit.core.errors import ConfigError
from rlkit.plasticity.protocols import UnitGraph, UnitLayer

# What changes or draws when a model is only looked at; the rest stays in the mode that training uses.
_PUT_TO_EVAL = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Inside, `module` may be run: batch statistics stand still, dropout is off, nothing is compiled or autocast."""
    quiet = [
        part
        for part in module.modules()
        if part.training and (isinstance(part, _PUT_TO_EVAL) or getattr(part, "draws_noise", False))
    ]
    for part in quiet:
        part.training = False
    devices = {p.device for p in module.parameters()}
    cuda = [device for device in devices if device.type == "cuda"]
    try:
        with torch.random.fork_rng(cuda), torch.compiler.set_stance("force_eager"), _full_precision(devices):
            yield
    finally:
        for part in quiet:
            part.training = True


@contextmanager
def _full_precision(devices: set[torch.device]) -> Iterator[None]:
    kinds = {device.type for device in devices} or {"cpu"}
    with torch.autocast(kinds.pop(), enabled=False):
        yield


class Capture:
    """While open, the activations of every layer of `graph` in a forward pass of `module`.

    `change`, if given, replaces what each layer hands on.
    """

    def __init__(
        self, module: nn.Module, graph: UnitGraph, change: Callable[[UnitLayer, Tensor], Tensor] | None = None
    ):
        self._module, self._graph, self._change = module, graph, change
        self._calls: dict[str, list[Tensor]] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> Capture:
        for layer in self._graph.layers:
            site = self._module.get_submodule(layer.activation or layer.norm or layer.name)
            self._hooks.append(site.register_forward_hook(self._hook(layer)))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _hook(self, layer: UnitLayer) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
        counter = 0

        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor | None:
            nonlocal counter
            mine = layer.call is None or counter == layer.call
            counter += 1
            if not mine:
                return None
            h = output.detach()
            if layer.function is not None:
                h = layer.function(h.clone())  # the clone: what follows may work in place on the producer's output
            self._calls.setdefault(layer.name, []).append(h)
            return None if self._change is None else self._change(layer, output)

        return hook

    def activations(self) -> Mapping[str, Tensor]:
        """h of each layer, several calls in one pass as more samples. ConfigError if a layer was not called."""
        missing = [layer.name for layer in self._graph.layers if layer.name not in self._calls]
        if missing:
            raise ConfigError(
                f"the forward pass did not come by {', '.join(missing)}",
                why="the unit graph names layers that this forward pass does not use",
                fix="give a forward function that runs every monitored network, or a graph of the layers that it runs",
                see="docs/plasticity.md",
            )
        return {
            layer.name: calls[0] if len(calls) == 1 else torch.cat(calls, dim=0 if layer.ensemble == 1 else 1)
            for layer in self._graph.layers
            for calls in [self._calls[layer.name]]
        }
