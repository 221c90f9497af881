"""A trained model and a volume of any size in, labels out. Decides no cell's numbers, so no cell's id depends on it."""
