"""Mutated files are refused or read rightly, as benchmarks/fuzz.py counts it."""

import subprocess
import sys

import numpy as np
import pytest


@pytest.fixture(scope="module")
def fuzz(import_benchmark):
    return import_benchmark("fuzz")


def test_mutations_change_little(fuzz, rng):
    card = b"NAXIS   =                    2".ljust(80)
    data = card + b"TUNIT1  = 'MeV     '".ljust(80) + b"END".ljust(80)
    flipped = np.frombuffer(fuzz.flip_bits(data, rng), "u1") ^ np.frombuffer(data, "u1")
    assert 1 <= np.unpackbits(flipped).sum() <= 64
    changed = fuzz.MUTATIONS["units"](data, rng)
    assert (changed[:80], changed[160:]) == (card, data[160:])
    assert changed[80:160] != data[80:160]
    assert fuzz.change_words(b"1,2\n3,4\n", rng) != b"1,2\n3,4\n"


def test_no_mutated_file_is_a_fault_a_hang_or_silently_other(fuzz, real_data):
    # not in this process, which may hold more memory than a mutated file is allowed
    command = [sys.executable, "-W", "ignore", fuzz.__file__, real_data, "--number", "20"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    title, *rows = (line.split() for line in done.stdout.splitlines())
    whole = dict(zip(title, map(int, next(row[1:] for row in rows if row[0] == "all"))))
    assert sum(whole.values()) == 20
    assert whole["refused"] > 2
    assert {name: whole[name] for name in title[3:]} == dict.fromkeys(title[3:], 0)
