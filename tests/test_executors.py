"""Work over many processes: shards, pools that lose a process, cores of a worker."""

import math
import os
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import pytest
from made_sets import die_once

from astro_unetloc import executors
from astro_unetloc.executors import (
    limited_cores,
    open_workers,
    process_pool,
    run_shards,
    usable_cores,
)

# Subprocesses import what this process does.
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.mark.parametrize("n_pending", [1, 4, 100])
def test_results_come_for_every_key_and_no_more_is_started_than_may_be_pending(n_pending):
    assert list(run_shards(math.sqrt, [9, 1, 4])) == [(9, 3), (1, 1), (4, 2)]
    assert list(run_shards(math.sqrt, [])) == []
    started, found = [], {}

    def root(number):
        started.append(number)
        return number**0.5

    with ThreadPoolExecutor(4) as executor:
        shards = run_shards(root, range(50), executor=executor, n_pending=n_pending)
        assert started == []
        for taken, (key, value) in enumerate(shards):
            assert len(started) <= taken + n_pending
            found[key] = value
    assert found == {n: n**0.5 for n in range(50)}


def test_error_of_a_shard_is_raised_and_the_rest_is_not_run():
    started = []

    def fails(number):
        started.append(number)
        raise ValueError("no such sky")

    with ThreadPoolExecutor(1) as executor, pytest.raises(ValueError, match="no such sky"):
        list(run_shards(fails, range(50), executor=executor, n_pending=3))
    assert len(started) <= 3


def test_dead_process_is_one_error_that_says_what_to_do():
    with process_pool(1) as pool, pytest.raises(ChildProcessError, match="run the same again"):
        list(run_shards(os._exit, range(3), executor=pool))


def test_call_of_a_process_that_died_is_made_by_another_and_twice_is_its_error_alone(tmp_path):
    once = str(tmp_path / "once")
    with process_pool(2) as pool:
        assert dict(run_shards(die_once, [once], executor=pool)) == {once: once}
        calls = [pool.submit(os._exit, 9), *(pool.submit(math.sqrt, n * n) for n in range(6))]
        assert [call.result() for call in calls[1:]] == [0, 1, 2, 3, 4, 5]
        assert isinstance(calls[0].exception(), ChildProcessError)
        lost = dict(run_shards(os._exit, [9], executor=pool, lost=lambda key, error: str(error)))
    assert "2 died of the same work" in lost[9]


def test_broken_pool_of_the_user_is_one_error():
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        with pytest.raises(ChildProcessError, match="expected all workers to live"):
            list(run_shards(os._exit, [9], executor=pool, lost=lambda key, error: "lost"))


def test_cores_are_limited_for_the_block_and_for_its_thread_alone():
    everything = usable_cores()
    with limited_cores(3):
        assert usable_cores() == 3
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(usable_cores).result() == everything
    assert usable_cores() == everything


def test_processes_end_with_their_parent():
    code = """
import os, signal
from astro_unetloc.executors import process_pool
print(process_pool(1).submit(os.getpid).result(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    # the worker holds the pipe of the output open as long as it lives
    command, options = [sys.executable, "-c", code], {"capture_output": True, "text": True}
    done = subprocess.run(command, **options, env=ENVIRONMENT, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert int(done.stdout) > 0


@pytest.fixture
def client(distributed):
    """A client of a dask cluster of two processes on this machine."""
    options = {"dashboard_address": ":0", "protocol": "tcp://"}
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, **options) as cluster:
        with distributed.Client(cluster) as client:
            yield client


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:ResourceWarning")
def test_dask_runs_shards_and_goes_on_when_a_worker_dies(client, tmp_path):
    for executor in (client, client.get_executor()):
        found = dict(run_shards(math.sqrt, range(8), executor=executor, n_pending=3))
        assert found == {n: n**0.5 for n in range(8)}
    keys = [str(tmp_path / name) for name in "ab"]
    assert dict(run_shards(die_once, keys, executor=client)) == {key: key for key in keys}


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:ResourceWarning")
def test_workers_are_those_of_an_address_and_their_dashboard_is_logged(client, caplog, monkeypatch):
    monkeypatch.setattr(executors, "find_spec", bool)  # bokeh is there
    with (
        caplog.at_level("INFO", executors.__name__),
        open_workers(client.scheduler.address, 1) as own,
    ):
        assert dict(run_shards(math.sqrt, [4], executor=own)) == {4: 2}
    assert f"dashboard of the workers: {client.dashboard_link}" in caplog.messages
    with open_workers(client, 5) as same, open_workers(None, 1) as none:
        assert (same, none) == (client, None)


@pytest.mark.parametrize("n_deaths", [1, 2])
def test_workers_are_started_again_if_one_dies_at_the_start(n_deaths, distributed, monkeypatch):
    made, real = [], distributed.LocalCluster

    def cluster(**options):
        made.append(options["n_workers"])
        if len(made) <= n_deaths:
            raise RuntimeError("Nanny failed to start.")
        return real(**options, processes=False)

    monkeypatch.setattr(distributed, "LocalCluster", cluster)
    if n_deaths == 1:
        with open_workers(None, 2) as workers:
            assert workers.submit(math.sqrt, 9).result() == 3
    else:
        with (
            pytest.raises(ChildProcessError, match="2 workers to start; 2 times one died"),
            open_workers(None, 2),
        ):
            pass
    assert made == [2, 2]
