"""How fast this machine does what hpcseg does, against a user's own loop and against what the hardware allows."""
