"""What replay hands to an agent. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from tensordict import TensorDict

# A Batch is a TensorDict of batch size [B] (or [B, L] for windows of length L), with TorchRL's key names:
#   observation                 [B, *stacked obs]
#   action                      int64 [B] or float32 [B, A]
#   ("next", "observation")     [B, *stacked obs] after the window (the true final frame where it ended)
#   ("next", "reward")          [B] n-step return R, clipped if the replay says so
#   ("next", "terminated")      bool [B], of the window's last row
#   discount                    [B] gamma^K (1 - terminated): the only thing that a target needs
#   index, uid                  int64 [B] slot, and number of the row in it
#   weight, source              [B] only where they exist (priorities, mixtures)
# Every scalar per row is [B], never [B, 1]. Frames stay uint8. Valid until the next `sample` unless copied.
Batch: TypeAlias = TensorDict


@dataclass(frozen=True)
class Window:
    """What to read at a sampled start row; may change from call to call."""

    n_step: int = 1
    gamma: float = 0.99
    length: int = 1  # consecutive start rows; > 1 gives [B, L]
