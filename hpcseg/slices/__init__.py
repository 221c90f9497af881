"""Any volume in, numbered slices out. No torch."""
