"""TIFF slices to HDF5 to tiles to device batches."""
