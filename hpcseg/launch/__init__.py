"""The ranks of a launch: which one this process is, how they find each other, and which are alive."""
