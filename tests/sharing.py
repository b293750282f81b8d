"""How files of tests are shared out among processes, so that a process that dies costs its one test and nothing more.

pytest-xdist's own way hangs then. A process runs a test when it knows the next one, or that there is none; the process
that replaces a dead one is given one file, and, should that have a single test, waits for ever once the others have been
told that there is nothing left. And the test that killed its process is run again, in one new process after another.
"""

from xdist.scheduler import LoadFileScheduling


class Sharing(LoadFileScheduling):
    """pytest-xdist's sharing by files."""

    def remove_node(self, node):
        """Take a process's files back; of one that died, return the test that it ran, which counts as done."""
        files = self.assigned_work[node]
        killed = next((test for tests in files.values() for test, done in tests.items() if not done), None)
        if killed is None:
            return super().remove_node(node)
        for tests in files.values():
            if killed in tests:
                tests[killed] = True
        for name in [name for name, tests in files.items() if all(tests.values())]:
            del files[name]
        super().remove_node(node)
        return killed

    def _reschedule(self, node):
        """Give a process more files until it has three tests, or tell it that there are no more."""
        while self.workqueue and not node.shutting_down and self._pending_of(self.assigned_work[node]) <= 2:
            self._assign_work_unit(node)
        if not self.workqueue:
            node.shutdown()
