"""hpcseg: U-Net segmentation experiments on X-ray slices, as resumable GPU batch jobs."""

__version__ = "0.1.0"
