"""The parts of compare.py: what is measured, in which processes, and how it is reported."""
