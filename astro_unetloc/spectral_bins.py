"""Intensities integrated over energy bins, by power laws between the energies that are known."""

import numpy as np

__all__ = ["integrate_intensity", "rebin_intensity"]

# How far a spectrum is continued beyond its ends: the official models end at 0.5-0.9 TeV.
_MAX_EXTRAPOLATION = 5.0


def integrate_intensity(energy, intensity, edges):
    """Integrals over bins of intensities at single energies.

    Between two energies, and beyond the ends, the intensity is a power law; where one of two is
    zero, energy times intensity is a straight line in log energy.

    Parameters
    ----------
    energy : ndarray (m,)
        Increasing energies in GeV, two or more.
    intensity : ndarray (m, ...)
        Per GeV.
    edges : ndarray (n_bins + 1,)
        Edges of the bins in GeV.

    Yields
    ------
    ndarray (...)
        Integral over each bin.

    Raises
    ------
    ValueError
        If bins reach beyond the energies by more than a factor 5.
    """
    if len(energy) < 2:
        raise ValueError(f"a spectrum needs two or more energies; got {len(energy)}; add others")
    low, high = energy[0] / _MAX_EXTRAPOLATION, energy[-1] * _MAX_EXTRAPOLATION
    if edges[0] < low or edges[-1] > high:
        raise ValueError(
            f"a model from {energy[0]:g} to {energy[-1]:g} GeV cannot be continued to bins from "
            f"{edges[0]:g} to {edges[-1]:g} GeV; give one that covers them"
        )
    for start, stop in zip(edges[:-1], edges[1:]):
        inside = energy[(energy > start) & (energy < stop)]
        nodes = np.concatenate([[start], inside, [stop]])
        values = [_at(energy, intensity, node) for node in nodes]
        yield sum(_segment(*pair) for pair in zip(nodes[:-1], nodes[1:], values[:-1], values[1:]))


def _at(energy, intensity, node):
    """Intensity at one energy: a power law through the two around it or nearest to it."""
    row = int(np.clip(np.searchsorted(energy, node) - 1, 0, len(energy) - 2))
    weight = np.log(node / energy[row]) / np.log(energy[row + 1] / energy[row])
    below, above = (np.asarray(intensity[row + step], dtype=float) for step in (0, 1))
    positive = (below > 0) & (above > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        power = below * (above / below) ** weight
    return np.where(positive, power, np.maximum(below + weight * (above - below), 0.0))


def _segment(start, stop, at_start, at_stop):
    """Integral of a power law between two energies."""
    log_step = np.log(stop / start)
    first, last = at_start * start, at_stop * stop
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.log(last / first)
        integral = (last - first) / slope
    # a slope near zero is a straight line, and so is what touches zero
    usable = np.isfinite(slope) & (np.abs(slope) > 1e-6)
    return log_step * np.where(usable, integral, (first + last) / 2)


def rebin_intensity(intensity, edges, new_edges):
    """Integrals over other bins of intensities that are integrals over bins.

    Inside a bin the spectrum is the power law between the neighbours; what a bin holds stays the
    same, so that bins with common edges are summed exactly.

    Parameters
    ----------
    intensity : ndarray (n_bins,)
        Integrals.
    edges : ndarray (n_bins + 1,)
        Their edges in GeV.
    new_edges : ndarray (n_new + 1,)
        The edges that are asked for, in GeV.

    Returns
    -------
    ndarray (n_new,)

    Raises
    ------
    ValueError
        If they reach beyond the known ones.
    """
    edges, new_edges = np.asarray(edges, dtype=float), np.asarray(new_edges, dtype=float)
    low, high = edges[[0, -1]]
    if new_edges[0] < low * (1 - 1e-6) or new_edges[-1] > high * (1 + 1e-6):
        raise ValueError(
            f"the spectrum is known from {low:g} to {high:g} GeV; got bins from {new_edges[0]:g} "
            f"to {new_edges[-1]:g} GeV; choose bins inside"
        )
    intensity = np.asarray(intensity, dtype=float)
    center = (np.log(edges[1:]) + np.log(edges[:-1])) / 2
    density = np.log(np.maximum(intensity, 1e-300) / np.diff(edges))
    slope = np.gradient(density, center) if len(center) > 1 else np.array([-2.4])
    slope = 1 + np.clip(slope, -6, 2)  # of the integral
    slope = np.where(np.abs(slope) < 1e-6, 1e-6, slope)
    number = np.clip(np.searchsorted(edges, new_edges, side="right") - 1, 0, len(intensity) - 1)
    start, stop, power = edges[number], edges[number + 1], slope[number]
    part = ((new_edges / start) ** power - 1) / ((stop / start) ** power - 1)
    total = np.concatenate([[0.0], np.cumsum(intensity)])
    return np.diff(total[number] + np.clip(part, 0, 1) * intensity[number])
