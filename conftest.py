"""Make nbval 0.11 dependable: no lost outputs, no hang on a dead kernel, no check that checks nothing."""
import time
from queue import Empty

import pytest

try:
    import nbval.kernel
    import nbval.plugin
    import zmq
    from jupyter_client.manager import KernelManager
except ImportError:  # the tests of the library run without it
    nbval = None

if nbval is None:

    def pytest_addoption(parser):
        """Accept the options that pyproject.toml names; no notebook is collected."""
        parser.addoption("--nbval-lax", action="store_true", help="ignored: nbval is not installed")
        parser.addoption("--nbval-current-env", action="store_true", help="ignored: nbval is not installed")
        parser.addoption("--nbval-cell-timeout", help="ignored: nbval is not installed")

else:

    class RoomyKernelManager(KernelManager):
        """Keep every output message until nbval reads it (it reads only after the cell has ended)."""

        def client(self, **kwargs):
            client = super().client(**kwargs)
            client.context.setsockopt(zmq.RCVHWM, 0)  # 0 is no limit
            return client

    class WatchedKernel(nbval.kernel.RunningKernel):
        """Notice a dead kernel within seconds instead of waiting for the cell timeout."""

        def await_reply(self, msg_id, timeout=None):
            deadline = time.monotonic() + (timeout or float("inf"))
            while True:
                try:
                    return super().await_reply(msg_id, timeout=min(2.0, max(0.0, deadline - time.monotonic())))
                except Empty:
                    if not self.is_alive():
                        raise RuntimeError("The notebook's kernel died in this cell (out of memory?).") from None
                    if time.monotonic() >= deadline:
                        raise

    nbval.kernel.KernelManager, nbval.plugin.RunningKernel = RoomyKernelManager, WatchedKernel


def pytest_collection_modifyitems(items):
    """An output check without a stored output would pass whatever the cell prints: refuse it."""
    for item in items:
        cell = getattr(item, "cell", None)
        if cell is not None and item.options.get("check") and cell.execution_count is None:
            raise pytest.UsageError(
                f"{item.nodeid}: asks for an output check, but no output is stored. Run it and save."
            )


def pytest_runtest_makereport(item, call):
    """Remember the first cell of a notebook that failed."""
    failed = call.when == "call" and call.excinfo and not call.excinfo.errisinstance(pytest.skip.Exception)
    if hasattr(item, "cell") and failed:
        item.parent.first_failure = getattr(item.parent, "first_failure", None) or item.name


def pytest_runtest_setup(item):
    """After a failure the rest of that notebook is noise: skip it."""
    if hasattr(item, "cell") and getattr(item.parent, "first_failure", None):
        pytest.skip(f"{item.parent.first_failure} of this notebook failed")
