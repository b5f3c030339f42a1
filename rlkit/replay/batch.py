"""What replay hands to an agent. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from tensordict import TensorDict

# A Batch is a TensorDict of batch size [B], with TorchRL's key names; of sequences [B, T], T = burn_in + length:
#   observation                 [B, *stacked obs]
#   action                      int64 [B] or float32 [B, A]
#   ("next", "observation")     [B, *stacked obs] after the window (the true final frame where it ended)
#   ("next", "reward")          [B] n-step return R, clipped if the replay says so
#   ("next", "terminated")      bool [B], of the window's last row
#   discount                    [B] gamma^K (1 - terminated): the only thing that a target needs
#   index, uid                  int64 [B] slot, and number of the row in it
#   weight, source              [B] only where they exist (priorities, mixtures)
#   mask                        bool [B, T] of sequences: rows that belong to the episode of their start
# Every scalar per row is [B], never [B, 1]. Frames stay uint8. Valid until the next `sample` unless copied, and locked:
# `batch.clone()` gives one that takes more keys.
Batch: TypeAlias = TensorDict


@dataclass(frozen=True)
class Window:
    """What to read at a sampled start row; may change from call to call."""

    n_step: int = 1
    gamma: float = 0.99
    # Sequences, for recurrent and model-based agents. A start is drawn, not a row: with stride = length every row is
    # learned from equally often (R2D2, Kapturowski et al. 2019: length 40, burn_in 40, stride 40); with stride 1 every
    # start is drawn equally often, and rows near the ends of an episode less than those in its middle.
    length: int = 1  # rows from the start on; > 1 gives [B, burn_in + length]
    burn_in: int = 0  # rows before the start that only warm up a recurrent state
    stride: int = 1  # every stride-th row of an episode is a start
