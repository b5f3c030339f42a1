"""Nested state on disk: structure as JSON, arrays as safetensors. No pickle."""

from __future__ import annotations

import errno
import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlkit.core.typing import State


def save_tree(directory: Path, name: str, tree: State) -> None:
    """Write `tree` as `name`.json and `name`.safetensors, both fsynced. Raises OSError, if the disk is full, say."""
    tensors: dict[str, Tensor] = {}
    structure = _encode(tree, tensors)
    path = directory / f"{name}.safetensors"
    try:
        save_file(tensors, path)
    except SafetensorError as error:  # the system's error is in its text only
        number = next((number for number in errno.errorcode if os.strerror(number) in str(error)), None)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error
    fsync(path)
    write_text(directory / f"{name}.json", json.dumps(structure, allow_nan=False))


def load_tree(directory: Path, name: str) -> State:
    """Read what `save_tree` wrote; every array comes back with its type and memory layout."""
    tensors = load_file(directory / f"{name}.safetensors")
    tree = _decode(json.loads((directory / f"{name}.json").read_text()), tensors)
    assert isinstance(tree, dict)
    return tree


def _encode(node: Any, tensors: dict[str, Tensor]) -> Any:
    match node:
        case Tensor():
            key = str(len(tensors))
            tensors[key] = node.detach().cpu().contiguous().clone()
            # Fused optimisers read raw memory, so a moment must come back in its parameter's layout.
            channels_last = node.dim() == 4 and node.is_contiguous(memory_format=torch.channels_last)
            layout = {"channels_last": True} if channels_last and not node.is_contiguous() else {}
            return {"$tensor": key, **layout}
        case np.ndarray():
            key = str(len(tensors))
            tensors[key] = torch.from_numpy(np.ascontiguousarray(node).copy())
            return {"$array": key, "shape": list(node.shape)}  # ascontiguousarray makes a scalar 1-D
        case bytes():
            key = str(len(tensors))
            tensors[key] = torch.from_numpy(np.frombuffer(node, np.uint8).copy())
            return {"$bytes": key}
        case bool() | int() | str() | None:
            return node
        case np.integer() | np.bool_() | np.floating():
            return _encode(node.item(), tensors)
        case float():
            return node if np.isfinite(node) else {"$float": repr(node)}
        case list():
            return [_encode(item, tensors) for item in node]
        case tuple():
            return {"$tuple": [_encode(item, tensors) for item in node]}
        case dict():
            if all(isinstance(key, str) and not key.startswith("$") for key in node):
                return {key: _encode(value, tensors) for key, value in node.items()}
            return {"$items": [[_encode(key, tensors), _encode(value, tensors)] for key, value in node.items()]}
        case _:
            raise TypeError(f"a state may not hold a {type(node).__name__}: {node!r}")


def _decode(node: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, list):
        return [_decode(item, tensors) for item in node]
    if not isinstance(node, dict):
        return node
    match node:
        case {"$tensor": key, "channels_last": True}:
            return tensors[key].to(memory_format=torch.channels_last)
        case {"$tensor": key}:
            return tensors[key]
        case {"$array": key, "shape": shape}:
            return tensors[key].numpy().reshape(shape)
        case {"$bytes": key}:
            return tensors[key].numpy().tobytes()
        case {"$float": text}:
            return float(text)
        case {"$tuple": items}:
            return tuple(_decode(item, tensors) for item in items)
        case {"$items": items}:
            return {_decode(key, tensors): _decode(value, tensors) for key, value in items}
        case _:
            return {key: _decode(value, tensors) for key, value in node.items()}


def fsync(path: Path) -> None:
    """Force a file or directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Replace a small file atomically: a reader sees the old text or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    fsync(path.parent)


def crc32(path: Path) -> int:
    """zlib.crc32 of a file's bytes."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return value
