"""What users would otherwise take, doing the work of hpcseg: see the README beside this file."""
