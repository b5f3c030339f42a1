"""Rings, windows and samplers; usable without the rest of rlkit."""
