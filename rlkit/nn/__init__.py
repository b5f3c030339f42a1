"""Torsos, heads, batched networks and distributions."""
