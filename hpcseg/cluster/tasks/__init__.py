"""What jobs run, one task a file. Pickled at submission, so each imports its work late."""
