"""CUDA kernels on a machine without a GPU, from the very PTX that a GPU would get.

ptx          the text, taken apart
translate    a kernel as LLVM's code; its instructions in arithmetic, choices, memory and waiting
flow         which registers a thread needs again after it has waited
compiled     that as machine code, kept on disk
layout       where a translated kernel and what runs it find each other's numbers
machine      how blocks and threads are run, and brought together where they wait; what warps do together in warps
checks       what was wrong although it went well: races, reads of what nobody wrote, copies that were not waited for
faults       what was wrong, in words
counts       what a kernel asks of a GPU: sectors of memory, bank conflicts, instructions
driver       a GPU made of all that, under the methods of the real driver
"""
