"""Cells to array tasks to states. The only package that imports submitit."""
