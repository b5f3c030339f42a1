"""What every part may import, and what imports no other part."""
