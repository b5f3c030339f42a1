"""Samplers: index-only, seedable, with state."""
