"""Shape checks for pure functions: [B, 1] broadcast against [B] is the classic silent bug."""

from __future__ import annotations

from torch import Tensor


def check_shapes(*pairs: Tensor | str) -> None:
    """`check_shapes(reward, "B", next_q, "B A")`: a letter has one size everywhere, a number is itself.

    Raises ValueError with the tensor's position, its shape and the shape wanted.
    """
    sizes: dict[str, int] = {}
    for position in range(0, len(pairs), 2):
        tensor, names = pairs[position], pairs[position + 1]
        assert isinstance(tensor, Tensor)
        assert isinstance(names, str)
        wanted = names.split()
        found = tuple(tensor.shape)
        fits = len(found) == len(wanted) and all(
            size == (int(name) if name.isdigit() else sizes.setdefault(name, size))
            for name, size in zip(wanted, found, strict=True)
        )
        if not fits:
            raise ValueError(f"tensor {position // 2} has shape {list(found)}, wanted [{names}] with {sizes}")
