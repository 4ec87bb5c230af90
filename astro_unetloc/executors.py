"""Work over many processes: executors, shards of work, and the cores that each worker uses."""

import logging
import os
import threading
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from importlib.util import find_spec
from itertools import islice
from multiprocessing import get_context, parent_process
from queue import SimpleQueue

from threadpoolctl import threadpool_limits

from astro_unetloc.exceptions import InputError

log = logging.getLogger(__name__)

# Calls that are submitted and not yet finished: so many, or more for many workers.
_N_PENDING = 200
# A call is given up when so many processes have died of it.
_N_TRIES = 2
_ADVICE = "run the same again with fewer workers, or where there is more memory"

_cores = ContextVar("cores", default=None)


def usable_cores():
    """Return the number of cores that a computation may use: all, or those of its worker."""
    if _cores.get() is not None:
        return _cores.get()
    has_affinity = hasattr(os, "sched_getaffinity")  # not on macOS
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1


@contextmanager
def limited_cores(n_cores):
    """Let computations use so many cores, also those of libraries, until the block ends."""
    token = _cores.set(n_cores)
    try:
        with threadpool_limits(limits=n_cores):
            yield
    finally:
        _cores.reset(token)


def run_shards(job, keys, *, executor=None, n_pending=None, lost=None):
    """Yield each key with the result of a function of it, in order of completion.

    At most ``n_pending`` calls (enough for all workers) are submitted to the executor (of
    `concurrent.futures`, or a client of dask) and not yet yielded. Without one they run here.
    Where a call raised an error, ``lost``, a function of the key and the error, gives the result;
    without it the error is raised.
    """
    if executor is None:
        for key in keys:
            yield key, job(key)
        return
    n_pending = n_pending or max(_N_PENDING, 2 * n_workers_of(executor))
    if hasattr(executor, "get_executor"):  # a dask client
        executor = executor.get_executor()
    keys, pending = iter(keys), {}
    try:
        while True:
            for key in islice(keys, n_pending - len(pending)):
                pending[executor.submit(job, key)] = key
            if not pending:
                return
            # one at a time: what is done and not taken counts as pending
            future = next(iter(wait(pending, return_when=FIRST_COMPLETED).done))
            key, error = pending.pop(future), future.exception()
            if error is None or lost is None or isinstance(error, BrokenExecutor):
                yield key, future.result()
            else:
                yield key, lost(key, error)
            del future
    except BrokenExecutor as err:
        raise ChildProcessError(
            f"expected all workers to live; got {err}; {_ADVICE}: what was finished is kept"
        ) from err
    finally:
        for future in pending:
            future.cancel()


def n_workers_of(executor):
    """Number of calls that an executor runs at once, as far as it is known; at least one."""
    if hasattr(executor, "get_executor"):
        return max(sum(executor.nthreads().values()), 1)
    return getattr(executor, "_max_workers", 1)


@contextmanager
def open_workers(executor, n_workers):
    """The executor that is given, or one of workers that live as long as the block.

    An address such as ``tcp://node1:8786`` is that of a dask cluster. None stands for ``n_workers``
    processes of this machine, and remains None, this process, for one.
    """
    opened = None
    if isinstance(executor, str):
        opened = _cluster(executor)
    elif executor is None and n_workers > 1:
        opened = local_workers(n_workers)
    with opened or nullcontext(executor) as workers:
        link = getattr(workers, "dashboard_link", "") if find_spec("bokeh") else ""
        if opened and link:
            log.info("dashboard of the workers: %s", link)
        yield workers


@contextmanager
def local_workers(n_workers):
    """Processes of this machine: a client of dask's `LocalCluster`, without dask `process_pool`."""
    try:
        from distributed import Client
    except ImportError:
        with process_pool(n_workers) as pool:
            yield pool
        return
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # workers that die are replaced
    with _local_cluster(n_workers) as cluster, Client(cluster) as client:
        yield client


def _local_cluster(n_workers):
    """A `LocalCluster`, begun again if one of its processes dies while it starts."""
    from distributed import LocalCluster

    # any free port: several runs may go on
    options = {"dashboard_address": ":0", "protocol": "tcp://", "silence_logs": logging.CRITICAL}
    for _ in range(_N_TRIES):
        try:
            return LocalCluster(n_workers=n_workers, threads_per_worker=1, **options)
        except RuntimeError as err:
            reason = err
    raise ChildProcessError(
        f"expected {n_workers} workers to start; {_N_TRIES} times one died; {_ADVICE}"
    ) from reason


@contextmanager
def _cluster(address):
    """Client of the dask cluster at an address."""
    try:
        from distributed import Client
    except ImportError as err:
        raise InputError(
            "a cluster needs dask.distributed; got none; pip install 'astro_unetloc[cluster]'"
        ) from err
    try:
        client = Client(address)
    except ValueError as err:
        raise InputError(
            f"a cluster must have an address such as tcp://node1:8786; got {address!r}; take that "
            "of its scheduler"
        ) from err
    with client:
        yield client


def process_pool(n_workers):
    """Pool of processes that end with this one, even if it is killed.

    A call whose process dies is made again by a new one; the second death is its error.
    """
    return _Processes(n_workers)


class _Processes(Executor):
    """Pools of one process each, so that a process that dies breaks no other call."""

    def __init__(self, n_workers):
        self._max_workers = n_workers
        self._threads, self._free = ThreadPoolExecutor(n_workers), SimpleQueue()
        for _ in range(n_workers):
            self._free.put(_one_process())

    def submit(self, function, /, *args, **options):
        """The future of a call."""
        return self._threads.submit(self._call, partial(function, *args, **options))

    def _call(self, call):
        for _ in range(_N_TRIES):
            process = self._free.get()
            try:
                return process.submit(call).result()
            except BrokenExecutor as err:
                process.shutdown()
                process, reason = _one_process(), err
            finally:
                self._free.put(process)
        raise ChildProcessError(
            f"expected a worker to live; {_N_TRIES} died of the same work; {_ADVICE}"
        ) from reason

    def shutdown(self, wait=True, *, cancel_futures=False):
        """End the processes once their calls have ended."""
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
        while not self._free.empty():
            self._free.get().shutdown(wait)


def _one_process():
    """A process that is spawned, because OpenMP (in healpy) hangs after a fork."""
    return ProcessPoolExecutor(1, get_context("spawn"), initializer=_follow_parent)


def _follow_parent():
    """End this process when its parent ends; it would wait for work for ever."""

    def follow():
        parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
