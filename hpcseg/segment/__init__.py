"""Trained networks and one slice of any size in, its classes out. The evaluation and `hpcseg predict` both call it."""
