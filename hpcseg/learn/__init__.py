"""Batches to a trained U-Net to confusion matrices. Never knows about Slurm."""
