"""Who feeds whom in a module that declares no unit graph: read off one forward pass, and proved by zeroing.

Every layer labels the columns of what it returns; the labels are carried through activations, pooling, flattening and
concatenation by counting columns, until the next layer reads them. What is followed is the pass that really happens:
branches of the code and layers called twice need no tracing of symbols.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from rlkit.core.errors import ConfigError
from rlkit.plasticity.probes import undisturbed
from rlkit.plasticity.protocols import Consumer, UnitGraph, UnitLayer
from rlkit.plasticity.surgery import column_views, to_columns


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase, nn.RMSNorm)
_ACTIVATIONS = _names(
    "relu relu_ relu6 leaky_relu leaky_relu_ elu elu_ selu selu_ celu gelu silu mish softplus tanh tanh_ sigmoid "
    "sigmoid_ hardtanh hardswish hardsigmoid softsign logsigmoid sin cos"
)
_SAME_COLUMNS = _names(  # each column of the result comes from the same column of the argument, and 0 stays 0
    "dropout dropout1d dropout2d alpha_dropout feature_dropout contiguous clone detach to float double half bfloat16 "
    "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
    "adaptive_avg_pool3d _adaptive_avg_pool2d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d"
)
_RESHAPES = _names("flatten unflatten view reshape squeeze unsqueeze expand")
_OVER_POSITIONS = _names("mean sum amax")
_SUMS = _names("add add_ __add__ __radd__ __iadd__ sub sub_ __sub__ __rsub__ __isub__")
_SCALINGS = _names("mul mul_ __mul__ __rmul__ __imul__ div div_ true_divide __truediv__ __itruediv__")
_LAYERS = _names("linear conv1d conv2d conv3d matmul mm bmm addmm baddbmm einsum __matmul__ __rmatmul__")


@dataclass(frozen=True)
class _Activation:
    module: str  # address, "" = a function
    function: Callable[[Tensor], Tensor] | None
    call: int  # of the module
    halves: int = 1


@dataclass(frozen=True)
class _Columns:
    """Neighbouring columns that have one origin."""

    count: int
    producer: str | None = None  # None = an input of the network, or a residual stream
    per_unit: int = 1
    norm: str | None = None
    activation: _Activation | None = None
    lost: str = ""  # the operation that could not be followed


@dataclass(frozen=True)
class _Label:
    """What the columns of a tensor are; `axis` is theirs."""

    axis: int
    blocks: tuple[_Columns, ...]

    def each(self, change: Callable[[_Columns], _Columns]) -> _Label:
        return replace(self, blocks=tuple(change(block) for block in self.blocks))


@dataclass
class _Found:
    """What is known about one producer."""

    units: int
    copies: int
    activations: list[_Activation] = field(default_factory=list)
    norms: list[str | None] = field(default_factory=list)
    consumers: list[Consumer] = field(default_factory=list)
    read_before: bool = False  # somebody reads it before its activation, or adds it to a residual stream


def graph_of(module: nn.Module, *inputs: Any, forward: Callable[[], Any] | None = None, prefix: str = "") -> UnitGraph:
    """The unit graph of `module`, from one forward pass without gradients in eval mode, checked by `check_graph`.

    forward: instead of module(*inputs). prefix: the module's name in `agent.networks`; addresses then start with it.
    Layers are linear or convolutional modules, and what looks like them: a weight with a row for each of `out_features`
    or `out_channels`. Layers whose units are added to a residual stream, and output layers, have no units of their own.
    Raises ConfigError if an operation between two layers cannot be followed, with its name, and if there is no hidden
    layer with an activation, with the list of the layers. Then declare the graph by hand: a
    `rlkit.plasticity.protocols.UnitGraph` returned by the agent's `unit_graph()`.
    """
    module = getattr(module, "_orig_mod", module)
    tracer = _Tracer(module)
    with _evaluating(module), tracer.hooks(), tracer:
        result = module(*inputs) if forward is None else forward()
    tracer.returned(result)
    graph = UnitGraph(tuple(tracer.unit_layers()))
    if not graph.layers:
        layers = [f"{name} ({type(part).__name__})" for name, part in module.named_modules() if _is_layer(part)]
        raise _cannot_follow(
            f"{type(module).__name__} has no hidden layer with an activation that another layer reads",
            f"its layers are: {', '.join(layers) or 'none'}",
        )
    check_graph(module, graph, *inputs, forward=forward)
    return _prefixed(graph, prefix) if prefix else graph


@torch.no_grad()
def check_graph(
    module: nn.Module, graph: UnitGraph, *inputs: Any, forward: Callable[[], Any] | None = None, seed: int = 0
) -> None:
    """Silencing units must equal zeroing the columns that the graph says they have; else ConfigError.

    For each layer the activation is replaced by noise, so that units that are silent on `inputs` are proved too. Then
    half of the units, at random, are silenced: once at the activation, once in the weights of the consumers. Both must
    give the same at every consumer, and in the result of the network: there a consumer that is not declared shows.
    forward: instead of module(*inputs), for an agent: check_graph(agent.networks, agent.unit_graph(), forward=lambda:
    agent.outputs(batch)). Weights are put back bit for bit. Layers with a function as activation are silenced before
    it; those with f(0) != 0 cannot be, and are left out.
    """
    module = getattr(module, "_orig_mod", module)
    run = forward or (lambda: module(*inputs))
    rng = torch.Generator().manual_seed(seed)
    for layer in graph.layers:
        if layer.function is not None and layer.function(torch.zeros(1)).item() != 0:
            continue
        silent = torch.rand(layer.ensemble, layer.units, generator=rng) < 0.5
        silent[:, 0] = True
        noise_seed = int(torch.randint(2**31, (), generator=rng))
        with _evaluating(module):
            at_activation = _passes(module, layer, run, silent, noise_seed, in_activation=True)
        with _evaluating(module):  # anew: a network that draws from the global generator draws the same
            in_columns = _passes(module, layer, run, silent, noise_seed, in_activation=False)
        for address in at_activation:
            if not _close(at_activation[address], in_columns[address]):
                raise ConfigError(
                    f"the unit graph of {layer.name!r} is wrong"
                    + (f" about its consumer {address!r}" if address else ": somebody else reads its units"),
                    why="silencing units is not the same as zeroing the columns that it gives them"
                    if address
                    else "its consumers agree, but the result of the network changes",
                    fix="check per_unit (positions of a channel after pooling), first (offset in a concatenation),"
                    " halves, and that all consumers are declared",
                    see="docs/plasticity.md",
                )


def _passes(
    module: nn.Module, layer: UnitLayer, run: Callable[[], Any], silent: Tensor, seed: int, *, in_activation: bool
) -> dict[str, list[Tensor]]:
    """What each consumer, and "" the network, returns with the units silent in the one way or in the other."""
    seen: dict[str, list[Tensor]] = {address: [] for address in (*(c.layer for c in layer.consumers), "")}
    noise = torch.Generator().manual_seed(seed)
    calls = 0

    def silence(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor | None:
        nonlocal calls
        calls += 1
        if layer.call is not None and calls - 1 != layer.call:
            return None
        h = torch.randn(output.shape, generator=noise).to(output)
        if not in_activation:
            return h
        halves = 1 if layer.function is not None else layer.halves
        shape = [1] * h.dim()
        shape[1 if layer.ensemble == 1 else 2] = halves * layer.units
        if layer.ensemble > 1:
            shape[0] = layer.ensemble
        return h.masked_fill(silent.repeat(1, halves).view(shape).to(h.device), 0)

    def watch(address: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _module, _inputs, output: seen[address].extend(_tensors(output))

    with ExitStack() as stack:
        site = layer.activation or layer.norm or layer.name
        stack.callback(module.get_submodule(site).register_forward_hook(silence).remove)
        for address in seen:
            if address:
                stack.callback(module.get_submodule(address).register_forward_hook(watch(address)).remove)
        if not in_activation:
            for consumer in layer.consumers:
                _zero_columns(stack, module.get_submodule(consumer.layer), layer, consumer, silent)
        seen[""].extend(_tensors(run()))
    return seen


def _zero_columns(stack: ExitStack, reader: nn.Module, layer: UnitLayer, consumer: Consumer, silent: Tensor) -> None:
    for _, _, view in column_views(reader, layer, consumer):
        mask = to_columns(silent, consumer, view.shape[2])
        stack.callback(view.copy_, view.clone())
        view.masked_fill_(mask.view(len(mask), 1, -1, *[1] * (view.dim() - 3)).to(view.device), 0)


def _close(first: list[Tensor], second: list[Tensor]) -> bool:
    def equal(a: Tensor, b: Tensor) -> bool:
        a, b = a.double(), b.double()
        scale = float(a.abs().max()) if a.numel() else 0.0
        return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5 * scale)

    return len(first) == len(second) and all(equal(a, b) for a, b in zip(first, second, strict=True))


class _Tracer(TorchFunctionMode):
    """Labels tensors while a forward pass runs."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._module = module
        self._addresses = {part: name for name, part in module.named_modules()}
        self._labels: dict[int, tuple[Tensor, _Label]] = {}  # by id; the tensor is kept, so that ids stay its own
        self._found: dict[str, _Found] = {}
        self._calls: dict[str, int] = {}
        self._running: list[_Label | None] = []  # what each module that is running was given
        self._closed = 0  # how many of them are followed as a whole, not function by function

    # Labels.

    def label(self, tensor: Any) -> _Label | None:
        found = self._labels.get(id(tensor)) if isinstance(tensor, Tensor) else None
        return None if found is None else found[1]

    def _put(self, tensor: Tensor, label: _Label) -> None:
        self._labels[id(tensor)] = (tensor, label)

    def _lose(self, result: Any, labels: list[_Label], operation: str) -> None:
        producer = next((block.producer for label in labels for block in label.blocks if block.producer), None)
        before = next((block.lost for label in labels for block in label.blocks if block.lost), "")
        for tensor in _tensors(result):
            self._put(tensor, _Label(0, (_Columns(0, producer, lost=before or operation),)))

    # Modules: layers, norms and activations.

    @contextmanager
    def hooks(self) -> Iterator[None]:
        with ExitStack() as stack:
            for part in self._module.modules():
                stack.callback(part.register_forward_pre_hook(self._enter, with_kwargs=True).remove)
                stack.callback(part.register_forward_hook(self._leave, with_kwargs=True).remove)
            yield

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = _tensors((args, kwargs))
        self._running.append(self.label(given[0]) if given else None)  # now: it may work in place
        self._closed += _is_closed(module)

    def _leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        label, address = self._running.pop(), self._addresses[module]
        self._closed -= _is_closed(module)
        if _is_layer(module):
            self._read(module, address, _tensors((args, kwargs))[0], label)
            self._produce(module, address, output)
        elif _is_norm(module):
            self._normalise(address, label, output)
        elif not any(_is_layer(part) for part in module.modules()):
            self._activate(module, address, label, output)

    def _produce(self, layer: nn.Module, address: str, output: Tensor) -> None:
        units, copies = _units_of(layer), getattr(layer, "copies", 1)
        axis = 2 if hasattr(layer, "copies") else 1
        if output.shape[axis : axis + 1] != (units,):
            raise _cannot_follow(
                f"{address!r} returns {list(output.shape)}", f"its {units} units must lie along axis {axis}"
            )
        self._found.setdefault(address, _Found(units, copies))
        self._put(output, _Label(axis, (_Columns(units, address),)))

    def _read(self, layer: nn.Module, address: str, source: Tensor, label: _Label | None) -> None:
        """`layer` reads `source`: each block of its columns gets a consumer."""
        if label is None:
            return
        channels_first = hasattr(layer, "out_channels")
        first = 0
        for block in label.blocks:
            lost = block.lost
            if not lost and label.axis != (1 if channels_first else source.dim() - 1):
                lost = "a layer along another axis than the units'"
            if lost:
                raise _cannot_follow(
                    f"what {address!r} reads cannot be traced back to units",
                    f"between {block.producer or 'an earlier layer'!r} and it is {lost}",
                )
            if block.producer is not None:
                self._consume(block, address, first)
            first += block.count

    def _consume(self, block: _Columns, reader: str, first: int) -> None:
        assert block.producer is not None
        found = self._found[block.producer]
        if block.activation is None:
            found.read_before = True
            return
        if block.activation not in found.activations:
            found.activations.append(block.activation)
        if block.norm not in found.norms:
            found.norms.append(block.norm)
        halves = block.activation.halves
        for half in range(halves):
            consumer = Consumer(reader, block.per_unit, first + half * (block.count // halves))
            if consumer not in found.consumers:
                found.consumers.append(consumer)

    def _normalise(self, address: str, label: _Label | None, output: Tensor) -> None:
        if label is None:
            return
        if len(label.blocks) == 1:
            block = label.blocks[0]
            if block.producer and block.activation is None and block.norm is None and not block.lost:
                self._put(output, label.each(lambda b: replace(b, norm=address)))
                return
            if block.producer is None and not block.lost:
                self._put(output, label)
                return
        self._lose(output, [label], f"the norm {address!r}, which mixes units after their activation")

    def _activate(self, module: nn.Module, address: str, label: _Label | None, output: Any) -> None:
        """A module without layers in it that turned units before their activation into anything else is one."""
        call = self._calls.get(address, 0)
        self._calls[address] = call + 1
        if label is None:
            return
        block, now = label.blocks[0], self.label(output)
        ready = block.producer is not None and block.activation is None and not block.lost and len(label.blocks) == 1
        if ready and isinstance(output, Tensor) and output.dim() > label.axis:
            inside = now is not None and any(b.activation and b.activation.module for b in now.blocks)
            halves, rest = divmod(output.shape[label.axis], block.count)
            if now == label or inside:
                return  # it passed them on, or an activation inside it was found
            if halves in (1, 2) and rest == 0:  # 2: two functions of each unit one after the other
                activation = _Activation(address, None, call, halves)
                block = replace(block, count=halves * block.count, activation=activation)
                self._put(output, _Label(label.axis, (block,)))
                return
        if _owns_parameters(module):
            self._lose(output, [label], f"{address!r} ({type(module).__name__})")

    # Functions.

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        labels = [] if self._closed else [found for found in map(self.label, _tensors((args, kwargs))) if found]
        shape = next((tensor.shape for tensor in _tensors((args, kwargs))), torch.Size())  # before an in-place change
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        if not self._closed and _tensors(result):
            if labels:
                self._follow(name, func, args, kwargs, labels, shape, result)
            elif name in _LAYERS:
                self._lose(result, [], f"{name}() with weights that are not a layer's")
        return result

    def _follow(
        self,
        name: str,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        labels: list[_Label],
        shape: torch.Size,
        result: Any,
    ) -> None:
        label = labels[0]
        known = not any(block.lost for found in labels for block in found.blocks)
        if known and isinstance(result, Tensor):
            single = len(labels) == 1 and len(_tensors((args, kwargs))) == 1
            if name in {"cat", "concat", "concatenate"} and (joined := self._joined(args, kwargs, result)):
                return self._put(result, joined)
            if name in _SUMS and len(_tensors((args, kwargs))) > 1:
                return self._add(labels, result)
            if single and name in _ACTIVATIONS and len(label.blocks) == 1:
                block = label.blocks[0]
                if block.producer is None:
                    return self._put(result, label)
                if block.activation is None:
                    activation = _Activation("", _Applied(func, args[1:], kwargs), 0)
                    return self._put(result, label.each(lambda b: replace(b, activation=activation)))
            if single and (moved := _moved(name, label, args, kwargs, shape, result)):
                return self._put(result, moved)
        return self._lose(result, labels, f"{name}()")

    def _add(self, labels: list[_Label], result: Tensor) -> None:
        """A residual stream: nobody's units."""
        for label in labels:
            for block in label.blocks:
                if block.producer is not None:
                    self._found[block.producer].read_before = True
        self._put(result, _Label(labels[0].axis, (_Columns(result.shape[labels[0].axis]),)))

    def _joined(self, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> _Label | None:
        tensors = args[0] if args else kwargs["tensors"]
        dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
        dim %= result.dim()
        blocks: list[_Columns] = []
        for tensor in tensors:
            found = self.label(tensor)
            if found is not None and found.axis != dim:
                return None
            blocks += [_Columns(tensor.shape[dim])] if found is None else found.blocks
        return _Label(dim, tuple(blocks))

    # What was found.

    def returned(self, result: Any) -> None:
        """Units that the network itself returns are read outside: zeroing columns cannot silence them."""
        for tensor in _tensors(result):
            for block in (self.label(tensor) or _Label(0, ())).blocks:
                if block.producer is None or block.lost:
                    continue
                if block.activation is not None and self._found[block.producer].consumers:
                    raise _cannot_follow(
                        f"the units of {block.producer!r} are also a result of the network",
                        "whoever reads them there cannot be silenced when they are recycled",
                    )

    def unit_layers(self) -> Iterator[UnitLayer]:
        readers: dict[Consumer, str] = {}
        for name, found in self._found.items():
            if found.read_before or not found.consumers:
                continue
            for consumer in found.consumers:
                other = readers.setdefault(consumer, name)
                if other != name:
                    raise _cannot_follow(
                        f"{other!r} and {name!r} feed the same columns of {consumer.layer!r}, which is called twice",
                        "zeroing the columns of a unit of the one would silence a unit of the other",
                    )
            sites = {(a.module, a.function, a.halves) for a in found.activations}
            calls = {a.call for a in found.activations}
            module = found.activations[0].module
            call = None
            if len(sites) > 1 or len(found.norms) > 1:
                raise _cannot_follow(
                    f"{name!r} is called several times, and not always followed by the same activation",
                    "its units have one score, of one activation",
                )
            if module and len(calls) < self._calls[module]:
                call = calls.pop()
                if calls:
                    raise _cannot_follow(
                        f"{name!r} shares the activation {module!r} with other layers and is called several times",
                        "a unit layer names one call of its activation, or all of them",
                    )
            yield UnitLayer(
                name,
                module,
                found.units,
                tuple(found.consumers),
                norm=found.norms[0],
                ensemble=found.copies,
                halves=found.activations[0].halves,
                function=found.activations[0].function,
                call=call,
            )


@dataclass(frozen=True)
class _Applied:
    """A function that ended a layer, with its settings; on a copy, since it may work in place."""

    function: Callable[..., Tensor]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self, value: Tensor) -> Tensor:
        settings = {name: setting for name, setting in self.kwargs.items() if name != "input"}
        return self.function(value.clone(), *self.args, **settings)

    def __hash__(self) -> int:
        return hash(self.function)


def _moved(
    name: str, label: _Label, args: tuple[Any, ...], kwargs: dict[str, Any], before: torch.Size, result: Tensor
) -> _Label | None:
    """The label after an operation on one tensor of shape `before`; None if it is not known to keep columns apart."""
    axis, after = label.axis, result.shape
    if name in _SAME_COLUMNS or name in _SCALINGS:
        return label if after[: axis + 1] == before[: axis + 1] else None
    if name in _OVER_POSITIONS:
        dims = args[1] if len(args) > 1 else kwargs.get("dim")
        dims = (dims,) if isinstance(dims, int) else dims or range(len(before))
        return label if all(dim % len(before) > axis for dim in dims) else None
    if name not in _RESHAPES:
        return None
    new = len(after) - len(before)
    if name == "expand":  # copies of a shared trunk: new axes come first
        moved = axis + new
        return replace(label, axis=moved) if after[moved:] == before[axis:] else None
    if after[:axis] != before[:axis]:
        return None
    if after[axis : axis + 1] == before[axis : axis + 1] and math.prod(after[axis:]) == math.prod(before[axis:]):
        return label
    if len(after) == axis + 1 and after[axis] == math.prod(before[axis:]):
        positions = math.prod(before[axis + 1 :])
        return label.each(lambda b: replace(b, count=b.count * positions, per_unit=b.per_unit * positions))
    return None


def _is_layer(module: nn.Module) -> bool:
    own = [name for name, parameter in module.named_parameters(recurse=False) if parameter.dim() >= 2]
    return bool(own) and (hasattr(module, "out_features") or hasattr(module, "out_channels"))


def _is_norm(module: nn.Module) -> bool:
    """torch's, and a layer norm of batched copies: it says how many copies and units it has."""
    return isinstance(module, _NORMS) or (hasattr(module, "copies") and hasattr(module, "units"))


def _is_closed(module: nn.Module) -> bool:
    """Whether it is followed as a whole: a layer, a norm, or a module with parameters and no layer in it."""
    if _is_layer(module) or _is_norm(module):
        return True
    return _owns_parameters(module) and not any(_is_layer(part) for part in module.modules())


def _owns_parameters(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None


def _units_of(layer: nn.Module) -> int:
    return int(layer.out_channels if hasattr(layer, "out_channels") else layer.out_features)  # type: ignore[arg-type]


def _tensors(value: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for part in value.values() for tensor in _tensors(part)]
    if isinstance(value, tuple | list):
        return [tensor for part in value for tensor in _tensors(part)]
    return []


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """As `undisturbed`, without gradients and all in eval mode: two passes that differ by noise prove nothing."""
    modes = {part: part.training for part in module.modules()}
    try:
        with undisturbed(module), torch.no_grad():
            module.eval()
            yield
    finally:
        for part, training in modes.items():
            part.training = training


def _cannot_follow(what: str, why: str) -> ConfigError:
    return ConfigError(
        what,
        why=why,
        fix="declare the graph by hand: UnitGraph((UnitLayer(name='fc1', activation='relu1', units=64,"
        " consumers=(Consumer('fc2'),)), ...)) from rlkit.plasticity.protocols",
        see="docs/plasticity.md",
    )


def _prefixed(graph: UnitGraph, prefix: str) -> UnitGraph:
    def at(address: str) -> str:
        return f"{prefix}.{address}" if address else ""

    return UnitGraph(
        tuple(
            replace(
                layer,
                name=at(layer.name),
                activation=at(layer.activation),
                norm=None if layer.norm is None else at(layer.norm),
                consumers=tuple(replace(consumer, layer=at(consumer.layer)) for consumer in layer.consumers),
            )
            for layer in graph.layers
        )
    )
