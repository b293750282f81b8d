"""What compare.py measures: one file a section, for the CPU and the GPU alike.

A section has `plan(run)`, which yields (what is measured, a function that measures it and returns a result that JSON can
hold), `report(result)`, `targets(result)`, and, where contenders take part, `prepare(spec, framework)`: what one of them does
first, and the function that does its bursts. tools/sides.py calls that in a process of the contender's, or in this one.
"""
