"""Workplace: where the finished parts of an evaluation are kept until the report is written.

A run that was killed goes on where it was.
"""

from dataclasses import dataclass, field
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
    files : set of Path
        The files of the parts so far, those of the places within this one too.
    """

    folder: Path | None = None
    overwrite: bool = False
    files: set = field(default_factory=set, repr=False, compare=False)

    def beside(self, name):
        """A workplace within this one."""
        return Workplace(self.folder and self.folder / name, self.overwrite, self.files)

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
        self.files.update(paths.values(), [self.folder / joined] if joined else [])
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
        """Remove the files of all parts, and the folders that are empty without them."""
        for path in self.files:
            path.unlink(missing_ok=True)
        # the deepest first; a folder with files of others stays
        folders = {path.parent for path in self.files}
        for folder in sorted(folders, key=lambda path: -len(path.parts)):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
