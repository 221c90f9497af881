"""How fast this machine does what hpcseg does, and what share of what the hardware allows that is."""
