"""Shares: k of n with an interval, in bins; and the small tables that hold them."""

import numpy as np

__all__ = ["edges_around", "score_table", "share_columns", "wilson_interval"]


def wilson_interval(k, n, *, n_sigma=1.0):
    r"""Interval of the share that k of n estimate.

    .. math:: \frac{1}{n + z^2} \left(k + \frac{z^2}{2} \pm
              z \sqrt{\frac{k (n - k)}{n} + \frac{z^2}{4}}\right)

    (Wilson 1927, J. Am. Stat. Assoc. 22, 209, doi:10.1080/01621459.1927.10502953).

    Parameters
    ----------
    k, n : array_like of int
        Successes and trials, broadcast against each other.
    n_sigma : float
        z; 1 for 68 %.

    Returns
    -------
    low, high : ndarray
        NaN where n is 0.

    Examples
    --------
    >>> from astro_unetloc.shares import wilson_interval
    >>> [round(float(end), 3) for end in wilson_interval(9, 10)]
    [0.766, 0.961]
    """
    k, n = (np.asarray(x, float) for x in (k, n))
    n = np.where(n > 0, n, np.nan)
    square = n_sigma**2
    half = n_sigma * np.sqrt(k * (n - k) / n + square / 4)
    return (k + square / 2 - half) / (n + square), (k + square / 2 + half) / (n + square)


def share_columns(name, k, n):
    """Columns ``<name>``, ``<name>_Low`` and ``<name>_High``: the share and its 68 % interval.

    Parameters
    ----------
    name : str
        What the share is called.
    k, n : array_like (m,) of int
        Successes and trials.

    Returns
    -------
    dict of str to ndarray (m,)
        NaN where n is 0.
    """
    k, n = np.asarray(k, float), np.asarray(n, float)
    low, high = wilson_interval(k, n)
    share = k / np.where(n > 0, n, np.nan)
    return {name: share, f"{name}_Low": low, f"{name}_High": high}


def edges_around(values, ladder):
    """The steps of a ladder that hold all values.

    Parameters
    ----------
    values : ndarray (n,)
        What is not finite, below the ladder or at its top or above is left out.
    ladder : array_like (m,)
        Ascending edges.

    Returns
    -------
    ndarray
        From the last edge below the smallest value to the first above the largest; a single edge,
        of no bin, without values.
    """
    ladder = np.asarray(ladder, float)
    values = values[np.isfinite(values)]
    values = values[(values >= ladder[0]) & (values < ladder[-1])]
    if not len(values):
        return ladder[:1]
    first, last = np.searchsorted(ladder, [values.min(), values.max()], side="right")
    return ladder[first - 1 : last + 1]


def score_table(title, about, columns, *, units=None, meta=None):
    """A table that says what it holds.

    Parameters
    ----------
    title, about : str
        A heading, and one or two sentences; ``title`` and ``about`` of its ``meta``.
    columns : dict of str to array_like (n,)
        The columns.
    units : dict of str to str, optional
        Units of columns.
    meta : dict, optional
        More of ``meta``.

    Returns
    -------
    QTable
    """
    from astropy.table import QTable
    from astropy.units import Quantity

    table = QTable(meta={"title": title, "about": about} | (meta or {}))
    for name, values in columns.items():
        unit = (units or {}).get(name)
        table[name] = Quantity(values, unit, dtype=float) if unit else np.asarray(values)
    return table
