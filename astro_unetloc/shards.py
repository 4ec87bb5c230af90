"""Shards: independent pieces of work, run here or over any executor, a few at a time."""

import os
import threading
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, ProcessPoolExecutor, wait
from itertools import islice

__all__ = ["process_pool", "run_shards"]


def run_shards(job, keys, *, executor=None, n_pending=16):
    """Results of a function for every key, in the order in which they come.

    Parameters
    ----------
    job : callable
        Takes one key; must not depend on anything else that changes.
    keys : iterable
        What to run it for.
    executor : concurrent.futures.Executor or dask.distributed.Client, optional
        Runs them; without it they run here, one after the other.
    n_pending : int
        Most shards submitted and not yet taken, which bounds the memory; no less than the workers.

    Yields
    ------
    tuple
        Key and result.

    Raises
    ------
    ChildProcessError
        If a process of the pool died; dask starts another one and goes on.
    """
    if executor is None:
        for key in keys:
            yield key, job(key)
        return
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
            key = pending.pop(future)
            yield key, future.result()
            del future
    except BrokenExecutor as err:
        raise ChildProcessError(
            f"expected all workers to live; got {err}; run the same again with fewer workers, or "
            "where there is more memory: what was finished is kept"
        ) from err
    finally:
        for future in pending:
            future.cancel()


def process_pool(n_workers):
    """A pool of processes that end when this one does, however it ends.

    Processes are spawned: OpenMP, which healpy uses, hangs in a fork.

    Parameters
    ----------
    n_workers : int
        How many.

    Returns
    -------
    concurrent.futures.ProcessPoolExecutor
    """
    from multiprocessing import get_context

    return ProcessPoolExecutor(n_workers, get_context("spawn"), initializer=_follow_parent)


def _follow_parent():
    """End this process when its parent was killed: it would wait for work for ever."""
    from multiprocessing import parent_process

    def follow():
        parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
