"""One cell of a grid, from its settings to its record."""
