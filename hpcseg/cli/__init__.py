"""The command line: parses, makes one call, shows the answer."""
