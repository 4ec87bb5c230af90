"""The catalogue as a `SourceCatalog` of gammapy, its sources with models and flux points."""

import astropy.units as u
import numpy as np
from astropy.table import Table
from gammapy.catalog import CATALOG_REGISTRY, SourceCatalog, SourceCatalogObject
from gammapy.estimators import FluxPoints
from regions import EllipseSkyRegion

from astro_unetloc.catalog.columns import COLUMNS, flag_names
from astro_unetloc.catalog.models import (
    LIMIT_LEVEL,
    MIN_BAND_TS,
    band_counts,
    band_limits,
    to_gammapy_models,
)
from astro_unetloc.catalog.read import as_table
from astro_unetloc.catalog.table import (
    band_edges,
    confidence_ellipses,
    is_catalog,
    numbers,
    sky_positions,
    texts,
)
from astro_unetloc.catalog.write import plain_table
from astro_unetloc.exceptions import InputError


class SourceCatalogObjectUNL(SourceCatalogObject):
    """One source of a catalogue of `astro_unetloc.find_sources`."""

    table = None  # of one row, with the metadata of the catalogue

    def __str__(self):
        return self.info()

    def info(self):
        """Return what is known of the source as text, a line for each column.

        Returns
        -------
        str
        """
        lines = []
        for spec in COLUMNS:
            if spec.name.startswith("Unc_"):
                continue
            cells = self._cells(spec)
            if spec.name == "Flags":
                cells = ", ".join(flag_names(int(self.data["Flags"]))) or "none"
            if cells:
                lines.append(f"{spec.name:<20s}: {cells} {spec.unit}".rstrip())
        return "\n".join(lines)

    def _cells(self, spec):
        """Text of a value, or of those by band, with the errors; empty if unknown."""
        if spec.dtype.startswith("U"):
            return str(texts(self.table[spec.name])[0])
        name, ndim, form = f"Unc_{spec.name}", 2 if spec.per_band else 1, _FORMATS[spec.dtype[0]]
        values = np.ravel(numbers(self.table[spec.name], spec.unit or None, ndim=ndim))
        errors = np.full(len(values), np.nan)
        if name in self.table.colnames:
            errors = np.ravel(numbers(self.table[name], spec.unit or None, ndim=ndim))
        if not np.isfinite(values).any():
            return ""
        pairs = zip(values, errors)
        cells = [form.format(v) + (f" +- {e:.2g}" if np.isfinite(e) else "") for v, e in pairs]
        return ", ".join(cells)

    def sky_model(self):
        """Return the source as `astro_unetloc.to_gammapy_models` models it.

        Returns
        -------
        gammapy.modeling.models.SkyModel
        """
        return to_gammapy_models(self.table)[0]

    def spectral_model(self):
        """Return the spectral part of `sky_model`.

        Returns
        -------
        gammapy.modeling.models.SpectralModel
        """
        return self.sky_model().spectral_model

    def spatial_model(self):
        """Return the spatial part of `sky_model`.

        Returns
        -------
        gammapy.modeling.models.PointSpatialModel
        """
        return self.sky_model().spatial_model

    @property
    def position_error(self):
        """Ellipse (`regions.EllipseSkyRegion`) that holds the source by 95 %; None if unknown."""
        major, minor, angle = confidence_ellipses(self.table)[0]
        if not np.isfinite(major):
            return None
        # `regions` counts the angle of the width from the west, a position angle counts from north
        sizes = {"width": 2 * major * u.deg, "height": 2 * minor * u.deg}
        return EllipseSkyRegion(self.position, angle=(angle + 90) * u.deg, **sizes)

    @property
    def flux_points_table(self):
        """Fluxes by band (`astropy.table.Table`) in the format gadf-sed; limits where TS < 4.

        The 95 % limits are Bayesian with a flat prior (Helene 1983, NIM 212, 319), as those of
        `astro_unetloc.upper_limits`, for the Poisson likelihood that the counts of a band and their
        error stand for. On the Galactic centre and the northern sky above 50 GeV they are 0.92 to
        1.0 of those of the likelihood itself for 90 % of the bands with counts, 1.0 to 1.4 of it
        without; its TS is lower by the width of the PSF, so that ``is_ul`` is the same in 93 % of
        the bands.
        """
        bands, edges = band_counts(self.table), band_edges(self.table)
        if bands is None:
            raise InputError(
                "flux points need the edges of the bands, BANDS in the header; got a catalogue "
                "without, as in .csv; read that of .fits, .ecsv or .vot"
            )
        known = np.isfinite(bands["counts"] * bands["flux"])[0]
        if not known.any():
            raise InputError(
                f"flux points need Flux_Band of {self.name}; got none; find it with an exposure"
            )
        limit, ts = (values[0, known] for values in band_limits(bands))
        counts, per_count = (bands[name][0, known] for name in ("counts", "flux"))
        table = Table(meta={"SED_TYPE": "flux", "UL_CONF": LIMIT_LEVEL, "n_sigma": 1})
        table["e_min"], table["e_max"] = edges[:-1][known] * u.GeV, edges[1:][known] * u.GeV
        unit = u.Unit("cm-2 s-1")
        error = numbers(self.table["Unc_Flux_Band"], "cm-2 s-1", ndim=2)[0][known]
        table["flux"], table["flux_err"] = counts * per_count * unit, error * unit
        table["flux_ul"] = limit * per_count * unit
        table["is_ul"] = ts < MIN_BAND_TS
        return table

    @property
    def flux_points(self):
        """Fluxes by band as `gammapy.estimators.FluxPoints`; limits where TS < 4."""
        return FluxPoints.from_table(
            self.flux_points_table, format="gadf-sed", reference_model=self.sky_model()
        )


class SourceCatalogUNL(SourceCatalog):
    """A catalogue of `astro_unetloc.find_sources` as a `gammapy.catalog.SourceCatalog`.

    Parameters
    ----------
    catalog : QTable, str or path-like
        The catalogue or its file, as `astro_unetloc.read_catalog` takes it.

    Examples
    --------
    >>> from astro_unetloc import register_catalog
    >>> catalog = register_catalog()("catalog.fits")  # doctest: +SKIP
    >>> source = catalog["UNL J1745.6-2900"]  # doctest: +SKIP
    >>> source.flux_points.plot(sed_type="e2dnde")  # doctest: +SKIP
    """

    tag = "unl"
    description = "Sources that astro_unetloc found in a counts map"
    source_object_class = SourceCatalogObjectUNL

    def __init__(self, catalog):
        table = as_table(catalog)
        if not is_catalog(table):
            got = f"got the columns {', '.join(table.colnames[:6])}"
            raise InputError(f"a catalogue of find_sources was expected; {got}; find sources first")
        super().__init__(plain_table(table))

    def _make_source_object(self, index):
        source = super()._make_source_object(index)
        source.table = self.table[[index]]
        return source

    @property
    def positions(self):
        """Positions of the sources (`~astropy.coordinates.SkyCoord`, ICRS)."""
        return sky_positions(self.table)

    def to_models(self):
        """Return the models of all sources with a flux, see `astro_unetloc.to_gammapy_models`.

        Returns
        -------
        gammapy.modeling.models.Models
        """
        return to_gammapy_models(self.table)


_FORMATS = {"f": "{:.6g}", "i": "{:.0f}"}


def register_catalog():
    """Add ``SourceCatalogUNL`` to the catalogues of gammapy under the tag "unl", and return it.

    Returns
    -------
    type
        ``gammapy.catalog.CATALOG_REGISTRY.get_cls("unl")``

    Examples
    --------
    >>> from astro_unetloc import register_catalog
    >>> register_catalog().tag
    'unl'
    """
    if SourceCatalogUNL not in CATALOG_REGISTRY:
        CATALOG_REGISTRY.append(SourceCatalogUNL)
    return SourceCatalogUNL
