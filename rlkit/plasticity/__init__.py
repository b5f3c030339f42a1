"""Protocols of the monitor, the cures and the replay ratio."""
