"""Make patch sets, be killed, go on: run as ``python killed_sets.py FOLDER``.

Every process that makes a set is a fork of one that has imported everything; it is killed when it
reaches a given number of the steps that change files. Prints how many steps there are.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

from made_skies import made_patches

from astro_unetloc.training import make as training_make
from astro_unetloc.training import patch_set as patch_files

OPTIONS = {"n_skies": 2, "patches_per_sky": 2, "first_seed": 4}
APPENDED = OPTIONS | {"n_skies": 3, "append": True}


def small_patches(seed, *, n_patches, **options):
    return made_patches(seed, n_patches=n_patches, n_pix=16)


def kill_at(step):
    """Let this process kill itself before that step, of those that change files; count them."""
    taken = [0]

    def counted(function):
        def wrapper(*args, **kwargs):
            taken[0] += 1
            if taken[0] == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return wrapper

    os.fsync, os.replace, os.unlink = counted(os.fsync), counted(os.replace), counted(os.unlink)
    patch_files._copy, shutil.rmtree = counted(patch_files._copy), counted(shutil.rmtree)
    return taken


def make(path, options, step=0):
    """Make a set in a fork, killed at a step; the number of steps, -1 if it was killed."""
    child = os.fork()
    if child == 0:
        taken = kill_at(step)
        training_make.patches_of_sky = small_patches
        try:
            training_make.make_patch_set(path, **options)
        except FileExistsError:
            os._exit(0 if path.exists() else 101)
        except BaseException as err:
            sys.stderr.write(f"step {step}: {err!r}\n")
            os._exit(102)
        os._exit(taken[0])
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code < 100, code
    return -1 if code == -signal.SIGKILL else code


def main(folder):
    """Kill at every step of making and at every second one of appending, and go on each time."""
    n_steps = make(folder / "whole.h5", OPTIONS)
    for step in range(1, n_steps + 1):
        path = folder / f"made{step}.h5"
        assert make(path, OPTIONS, step) == -1
        make(path, OPTIONS)
    shutil.copy(folder / "whole.h5", folder / "longer.h5")
    n_append = make(folder / "longer.h5", APPENDED)
    for step in range(1, n_append + 1, 2):
        path = folder / f"appended{step}.h5"
        shutil.copy(folder / "whole.h5", path)
        assert make(path, APPENDED, step) == -1
        make(path, APPENDED)
    sys.stdout.write(f"{n_steps} {n_append}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
