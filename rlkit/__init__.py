"""rlkit: deep reinforcement learning agents that keep learning, and the tools to see why others stop."""

__version__ = "0.1.0"
