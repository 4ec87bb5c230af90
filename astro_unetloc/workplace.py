"""Workplace: where the finished parts of an evaluation are kept until the report is written.

A run that was killed goes on where it was.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from astro_unetloc.judgement import join
from astro_unetloc.patch_files import write_whole
from astro_unetloc.prediction_files import (
    join_predictions,
    predictions_bytes,
    read_judgement,
    read_recipe,
)

__all__ = ["Workplace"]


@dataclass(frozen=True)
class Workplace:
    """Where finished parts of a run are kept.

    Attributes
    ----------
    folder : Path or None
        Their folder; None to keep nothing.
    overwrite : bool
        Whether parts that were made otherwise may be replaced.
    """

    folder: Path | None = None
    overwrite: bool = False

    def beside(self, name):
        """A workplace within this one."""
        return Workplace(self.folder and self.folder / name, self.overwrite)

    def judged(self, recipe, jobs, *, joined=None, progress=None):
        """Do what is not done, and join everything.

        Parameters
        ----------
        recipe : dict of str to value
            What the parts are made with.
        jobs : dict of str to callable
            Each returns patches and their judgement, as `predict_sky`.
        joined : str, optional
            Name of the file of predictions to make of all parts; none without it.
        progress : callable, optional
            Wraps an iterable, as `tqdm.tqdm` does.

        Returns
        -------
        Judgement
            Of all parts together.

        Raises
        ------
        ValueError
            If there are parts that were made otherwise.
        """
        names = progress(jobs, desc="parts") if progress and len(jobs) > 1 else jobs
        if self.folder is None:
            return join([jobs[name]()[1] for name in names])
        self.folder.mkdir(parents=True, exist_ok=True)
        paths = {name: self.folder / f"{name}.h5" for name in jobs}
        for path in paths.values():
            self._check(path, recipe)
        for name in names:
            if not paths[name].exists():
                patches, judgement = jobs[name]()
                write_whole(paths[name], predictions_bytes(patches, judgement, recipe=recipe))
        if joined:
            return join_predictions(paths.values(), self.folder / joined, recipe=recipe)
        return join([read_judgement(path) for path in paths.values()])

    def _check(self, path, recipe):
        """Refuse a part that was made otherwise, or throw it away."""
        if not path.exists():
            return
        found = read_recipe(path)
        differ = [n for n in recipe | found if recipe.get(n) != found.get(n)]
        if differ and not self.overwrite:
            said = ", ".join(f"{n} {found.get(n)!r}, not {recipe.get(n)!r}" for n in differ)
            raise ValueError(
                f"unfinished evaluation {path}: expected one made with the same options; got "
                f"{said}; give the same options, choose another folder or allow overwriting"
            )
        if differ:
            path.unlink()

    def clear(self):
        """Remove all parts."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
