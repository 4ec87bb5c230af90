"""What finders saw, and a file that keeps it, for compare_peers.py."""

import json
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Found:
    """What a finder saw in n patches.

    Attributes
    ----------
    rows : ndarray (m, 4)
        Number of the patch in the list of patches, Galactic longitude, latitude, score.
    seconds : ndarray (n,)
        Of each patch.
    """

    rows: np.ndarray
    seconds: np.ndarray


class Store:
    """What the peers have found, kept in a file if there is one.

    Parameters
    ----------
    path : pathlib.Path or None
        The file.
    settings : dict
        What the results depend on.

    Raises
    ------
    ValueError
        If the file was made with other settings.
    """

    def __init__(self, path, settings):
        self.path, self.settings, self.arrays = path, json.dumps(settings), {}
        if path is None or not path.exists():
            return
        with np.load(path) as saved:
            self.arrays = dict(saved)
        found = str(self.arrays.pop("settings"))
        if found != self.settings:
            raise ValueError(
                f"expected results of {self.settings}; {path} holds those of {found}; "
                "use another file"
            )

    def check_sky(self, number, sizes):
        """Raise unless a sky has the numbers of photons and sources that results were made of."""
        known = self.arrays.get(f"sky {number}")
        if known is None:
            self.arrays[f"sky {number}"] = np.array(sizes)
            self._write()
        elif not np.array_equal(known, sizes):
            raise ValueError(
                f"expected a sky of {known[0]} photons and {known[1]} sources; got {sizes[0]} and "
                f"{sizes[1]}; {self.path} was made by another simulator, use another file"
            )

    def get(self, name):
        """Results of a peer so far: a `Found`, empty at first."""
        rows = self.arrays.get(f"{name} rows", np.zeros((0, 4)))
        return Found(rows, self.arrays.get(f"{name} seconds", np.zeros(0)))

    def put(self, name, found):
        """Keep the results of a peer."""
        self.arrays |= {f"{name} rows": found.rows, f"{name} seconds": found.seconds}
        self._write()

    def _write(self):
        if self.path is not None:
            # whole or not at all: a run may be stopped while it writes
            part = self.path.with_suffix(".part.npz")
            np.savez_compressed(part, settings=self.settings, **self.arrays)
            part.replace(self.path)
