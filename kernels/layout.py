"""How a kernel is told where the elements of a strided array lie.

A layout is a shape and strides, each a tuple of exactly DIMS Python ints, the innermost axis last; strides count
elements, not bytes. Axes an array lacks stand first, with length 1 and stride 0. A broadcast axis has stride 0. Element
`i` in C order, with index `idx` in the shape, lies at position `offset + sum(idx[d] * strides[d])` of a flat array.

The number of axes is fixed so that a kernel is compiled once, not once for every rank.
"""

DIMS = 6
