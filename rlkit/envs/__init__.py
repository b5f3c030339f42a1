"""Environments behind one vector protocol."""
