"""What processes tell one another, on MPI: sums whose order is fixed, agreement, and the end of all where one fails.

session   the processes of a run
channel   the exchanges between them
sums      averages of arrays and of batch statistics over all of them
beside    averages by a thread, while the processes compute
gpus      the same between GPUs: NCCL
launches  both as launches of a device, which captured steps repeat
watch     a thread that knows where the others are, and ends a run that can't go on
"""

from minigrad.exchange.errors import RankFailed, RanksDiffer
from minigrad.exchange.session import Session, current, start

__all__ = ["RankFailed", "RanksDiffer", "Session", "current", "start"]
