"""What GPUs tell one another: NCCL, by nccl4py, on the stream on which everything else of a process runs.

As on the host (see `sums`) the library only moves the numbers: in which order NCCL would add them up depends on the network.
A call is in its place on the stream, and in the CUDA graph of a captured step, as a kernel's launch is. The host does not wait.
So it marks the stream behind what it has launched, and the thread that watches asks whether the GPU has come to the mark.
"""

import threading
import time
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
    """The GPUs of all processes, one each; made by all processes at the same time. `device` is this one's."""

    def __init__(self, session: "Session", device: Any) -> None:
        nccl = library()
        known = bytes(nccl.get_unique_id()).hex() if session.leads else None
        known = session.from_first(known, "where the GPUs meet")
        self.driver, self.stream = device.driver, device.stream
        self.behind = self.driver.new_event()  # what was launched last
        self.since: float | None = None  # when that was; None once the GPU has passed it
        self.error: str | None = None  # why the GPU will not come there
        self.lock = threading.Lock()
        self.communicator = session.exchange(
            "the meeting of the GPUs",
            lambda: nccl.Communicator.init(
                session.world, session.rank, nccl.UniqueId.from_bytes(bytes.fromhex(known)), None
            ),
        )
        device.launched = self.mark

    def swap(self, parts: Any, received: Any) -> None:
        """received[r] = what process r has in its parts[rank of this one]; both `(world, chunk)`, on the GPU."""
        self.communicator.alltoall(parts, received, stream=int(self.stream))
        self.mark()

    def collect(self, part: Any, whole: Any) -> None:
        """whole[r] = the part of process r; `(world, chunk)`, on the GPU."""
        self.communicator.allgather(part, whole, stream=int(self.stream))
        self.mark()

    def mark(self) -> None:
        """Mark the stream behind what was launched, but for a graph that is being made, whose launch is marked."""
        if not self.driver.is_noting(self.stream):
            with self.lock:
                self.driver.record(self.behind, self.stream)
                self.since = time.monotonic()

    def at_work(self) -> float | None:
        """For how many seconds the GPU has been at what was launched last; None if it is done."""
        with self.lock:
            try:
                if self.since is not None and self.driver.is_past(self.behind):
                    self.since = None
            except RuntimeError as error:
                self.error = str(error)
            return None if self.since is None else time.monotonic() - self.since

    def fault(self, timeout: float) -> str | None:
        """What went wrong in an exchange that was launched; None while nothing has."""
        state = int(self.communicator.get_async_error())
        if state not in IN_ORDER:
            return f"failed in an exchange between GPUs: NCCL's error {state}: {self.communicator.get_last_error().strip()}"
        waited = self.at_work()
        if self.error is not None:
            return f"failed at what its GPU was told: {self.error}"
        if waited is None or waited < timeout:
            return None
        return f"has waited {waited:.0f} s for its GPU, which hangs or waits in an exchange for another one"

    def where(self) -> str:
        """How far the GPU is, in words."""
        waited = self.at_work()
        return "its GPU is done" if waited is None else f"its GPU has been at work for {waited:.0f} s"

    def abort(self, bound: float) -> None:
        """End NCCL's exchanges, which hold the GPU; after so many seconds they are left to the process's end."""
        ends = threading.Thread(target=self.communicator.abort, daemon=True)
        ends.start()
        ends.join(bound)
