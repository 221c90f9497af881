"""What the records of a run say: accepted ones, holes, groups of repetitions. The report reads nothing else."""
