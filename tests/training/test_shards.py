import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from conftest import skip_unless_in_ci

from astro_unetloc.training.make import process_pool, run_shards


def square(number):
    return number**2


def process_id(number):
    return os.getpid()


def die(number):
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(marker):
    """Kill the worker that comes first."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return marker
    time.sleep(0.3)  # the other worker is at work by then
    os.kill(os.getpid(), signal.SIGKILL)


class Counting:
    """An executor that counts what was submitted, done one after the other when waited for."""

    def __init__(self):
        self.submitted = 0

    def submit(self, job, key):
        self.submitted += 1
        future = Future()
        future.set_result(job(key))
        return future


def test_results_come_for_every_key():
    assert list(run_shards(square, [3, 1, 2])) == [(3, 9), (1, 1), (2, 4)]
    assert list(run_shards(square, [])) == []


@pytest.mark.parametrize("n_pending", [1, 2, 100])
def test_executor_gives_the_same_results_in_any_order(n_pending):
    with ThreadPoolExecutor(3) as executor:
        found = dict(run_shards(square, range(20), executor=executor, n_pending=n_pending))
    assert found == {n: n**2 for n in range(20)}


def test_no_more_is_submitted_than_may_be_pending():
    executor = Counting()
    for taken, _ in enumerate(run_shards(square, iter(range(50)), executor=executor, n_pending=4)):
        assert executor.submitted <= taken + 4
    assert executor.submitted == 50


def test_nothing_is_run_before_it_is_asked_for():
    executor = Counting()
    run_shards(square, range(50), executor=executor)
    assert executor.submitted == 0


def test_error_of_a_shard_is_raised_and_the_rest_is_not_run():
    started = []

    def fails(number):
        started.append(number)
        raise ValueError("no such sky")

    with ThreadPoolExecutor(1) as executor:
        with pytest.raises(ValueError, match="no such sky"):
            list(run_shards(fails, range(50), executor=executor, n_pending=3))
    assert len(started) <= 3


def test_dead_process_is_one_error_that_says_what_to_do():
    with process_pool(1) as pool, pytest.raises(ChildProcessError, match="run the same again"):
        list(run_shards(die, range(3), executor=pool))


def test_processes_end_with_their_parent():
    code = """
import os, signal, time
from test_shards import process_id
from astro_unetloc.training.make import process_pool
if __name__ == "__main__":
    print(process_pool(1).submit(process_id, 0).result(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    worker = int(done.stdout)
    for _ in range(100):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        stat = subprocess.run(["ps", "-o", "stat=", "-p", str(worker)], capture_output=True)
        if b"Z" in stat.stdout:  # ended, not yet collected
            return
        time.sleep(0.1)
    pytest.fail("the worker outlived its parent")


@pytest.fixture(scope="module")
def cluster():
    """A dask cluster of two processes on this machine."""
    try:
        from distributed import LocalCluster
    except ImportError:
        skip_unless_in_ci("dask.distributed is not installed")
    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, protocol="tcp://"
    ) as cluster:
        yield cluster


@pytest.fixture
def client(cluster):
    """A client of the cluster."""
    from distributed import Client

    with Client(cluster) as client:
        yield client


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:ResourceWarning")
def test_dask_client_or_its_executor_runs_shards(client):
    for executor in (client, client.get_executor()):
        found = dict(run_shards(square, range(8), executor=executor, n_pending=3))
        assert found == {n: n**2 for n in range(8)}


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:ResourceWarning")
def test_dask_goes_on_when_a_worker_dies(client, tmp_path):
    keys = [str(tmp_path / name) for name in "ab"]
    assert dict(run_shards(die_once, keys, executor=client)) == {key: key for key in keys}
