"""What GPUs tell one another: NCCL, by nccl4py, on the stream on which everything else of a process runs.

As on the host (see `sums`) the library only moves the numbers: in which order NCCL would add them up depends on the network.
A call is in its place on the stream, and in the CUDA graph of a captured step, as a kernel's launch is. The host does not wait.
"""

from typing import TYPE_CHECKING, Any

from minigrad.kernels.build.settings import install

if TYPE_CHECKING:
    from minigrad.exchange.session import Session

IN_ORDER = 0, 7  # what NCCL calls success, and a call that goes on


def library() -> Any:
    """nccl4py; ImportError with the command that installs it."""
    try:
        import nccl.core
    except ImportError as error:
        raise ImportError(f"exchange between GPUs needs nccl4py and NCCL: {install('nccl')}") from error
    return nccl.core


class Gpus:
    """The GPUs of all processes, one each, and the stream of this one's; made by all processes at the same time."""

    def __init__(self, session: "Session", stream: int) -> None:
        nccl = library()
        known = bytes(nccl.get_unique_id()).hex() if session.leads else None
        known = session.from_first(known, "where the GPUs meet")
        self.stream = stream
        self.communicator = session.exchange(
            "the meeting of the GPUs",
            lambda: nccl.Communicator.init(
                session.world, session.rank, nccl.UniqueId.from_bytes(bytes.fromhex(known)), None
            ),
        )

    def swap(self, parts: Any, received: Any) -> None:
        """received[r] = what process r has in its parts[rank of this one]; both `(world, chunk)`, on the GPU."""
        self.communicator.alltoall(parts, received, stream=self.stream)

    def collect(self, part: Any, whole: Any) -> None:
        """whole[r] = the part of process r; `(world, chunk)`, on the GPU."""
        self.communicator.allgather(part, whole, stream=self.stream)

    def fault(self) -> str | None:
        """What went wrong in an exchange that was launched; None while nothing has."""
        state = int(self.communicator.get_async_error())
        return None if state in IN_ORDER else f"NCCL's error {state}: {self.communicator.get_last_error().strip()}"
