"""Poisson likelihood of many sources at once: positions, counts and spectra by damped Newton steps.

Each source is fitted in its own region on top of its local background and the present model of
all other sources; neighbours take turns, so that they converge to their common maximum.
"""

from dataclasses import replace

import numpy as np

from astro_unetloc.source_model import State, evaluate

__all__ = ["curvatures", "derivatives", "fit_sources"]

INDEX_BOUNDS = (0.0, 6.0)
_MIN_COUNTS = 1e-3
# Mean and width of a weak prior on the index: faint sources say little about it.
INDEX_PRIOR = 2.3, 1.5
# Largest changes in one step: of the position in degrees, of the index.
_MAX_SHIFT_DEG, _MAX_INDEX_STEP = 0.05, 0.5


def fit_sources(fit, background_fit, model, background, *, n_rounds, turns, free):
    """Maximize the likelihood.

    Parameters
    ----------
    fit : SourcesFit
        The likelihood.
    background_fit : BackgroundFit
        Fits the background beside it.
    model, background : SourceModel, LocalBackground
        The start.
    n_rounds : int
        Number of rounds; in each one every source takes a step.
    turns : ndarray (n,) of int
        Sources of the same number take their step together; close neighbours must not.
    free : tuple of bool
        Which of x, y, counts and index are fitted.

    Returns
    -------
    state : State
        The best model.
    background : LocalBackground
        The background beside it.
    rest : ndarray (m,)
        Expected counts at the core pairs by all but the source itself.
    """
    # a state of its own, which turns change in place
    state = evaluate(fit, model.copy())
    damping = np.full(fit.n, 1e-2)
    chosen = [np.flatnonzero(turns == turn) for turn in range(int(turns.max(initial=0)) + 1)]
    parts = [(rows, *fit.part(rows)) for rows in chosen]
    for number in range(n_rounds):
        if number < 3 or number % 2:  # it hardly changes any more
            background, surface, reached = fit_background(fit, background_fit, background, state)
        total = reached + fit.cores(state)
        for rows, part, pairs in parts:
            before = state.part(rows, pairs)
            others = np.maximum(total[part.core.entry] - before.own, 0.0)
            rest = surface[pairs] + others
            step = _newton_step(part, before, rest, damping[rows], free)
            trial = evaluate(part, _limited(before.model, step))
            better = _gain(part, before, trial, rest) > -1e-9
            change = np.where(better, 0.2, 5.0)
            damping[rows] = np.clip(damping[rows] * change, 1e-6, 1e4)
            after = _accept(part, before, trial, better)
            np.add.at(total, part.core.entry, after.own - before.own)
            state.put(rows, pairs, after)
    background, surface, reached = fit_background(fit, background_fit, background, state)
    return state, background, surface + fit.others(state, reached)


def fit_background(fit, background_fit, background, state):
    """One step of the background.

    Returns
    -------
    background : LocalBackground
        The new one.
    surface : ndarray (m,)
        Its counts at the core pairs.
    reached : ndarray (n_entries,)
        What the tails of all sources give at each entry.
    """
    own, others, reached = fit.at_all_pairs(state)
    surface = background_fit.density(background)
    background = background_fit.step(background, surface / (surface + others + own))
    return background, background_fit.density(background)[: len(fit.cell)], reached


def _accept(fit, state, trial, better):
    """The trial where it is better, else the old state."""
    if better.all():
        return trial
    pair = better[fit.core.source]
    return State(
        state.model.merged(trial.model, better),
        tuple(np.where(pair, new, old) for new, old in zip(trial.density, state.density)),
        tuple(
            np.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)
            for new, old in zip(trial.rates, state.rates)
        ),
        np.where(pair, trial.own, state.own),
    )


def _gain(fit, state, trial, rest):
    """By how much the logarithm of the posterior (n,) grows."""
    ratio = (trial.own + rest) / (state.own + rest)
    grown = fit.core.sum(fit.core.number * np.log(ratio), fit.n)
    for s, sign in ((trial, 1), (state, -1)):
        grown -= sign * (s.model.counts * s.rates[3] - _log_prior(s.model.index))
    return grown


def _log_prior(index):
    mean, sigma = INDEX_PRIOR
    return -0.5 * ((index - mean) / sigma) ** 2


def curvatures(fit, state, rest):
    """Gradient and negative curvature of the logarithm of the posterior, and the information.

    Parameters
    ----------
    fit : SourcesFit
        The likelihood.
    state : State
        Where it is expanded.
    rest : ndarray (m,)
        Expected counts at the core pairs by all but the source itself.

    Returns
    -------
    gradient : ndarray (n, 4)
        By x, y, counts and index.
    curvature, information : ndarray (n, 4, 4)
        Negative second derivatives, and the part of them that is never negative.
    """
    model, mu = state.model, state.own + rest
    counts = model.counts[fit.core.source] / mu
    share, by_index, by_index2 = (state.rates[k].ravel()[fit.cell] for k in range(3))
    density, by_x, by_y, by_xx, by_xy, by_yy = state.density
    weight = fit.core.number
    scale = counts * share
    first = derivatives(fit, state, rest)
    second = {
        (0, 0): scale * by_xx, (0, 1): scale * by_xy, (1, 1): scale * by_yy,
        (0, 2): share * by_x / mu, (1, 2): share * by_y / mu,
        (0, 3): counts * by_index * by_x, (1, 3): counts * by_index * by_y,
        (2, 3): by_index * density / mu, (3, 3): counts * by_index2 * density,
    }  # fmt: skip
    observed, observed_1, observed_2 = state.rates[3:]
    gradient = np.stack([fit.core.sum(weight * d, fit.n) for d in first], axis=1)
    gradient[:, 2] -= observed
    gradient[:, 3] -= (
        model.counts * observed_1 + (model.index - INDEX_PRIOR[0]) / INDEX_PRIOR[1] ** 2
    )
    information, curvature = np.zeros((2, fit.n, 4, 4))
    for a in range(4):
        for b in range(a, 4):
            product = fit.core.sum(weight * first[a] * first[b], fit.n)
            information[:, a, b] = information[:, b, a] = product
            if (a, b) in second:
                product = product - fit.core.sum(weight * second[a, b], fit.n)
            curvature[:, a, b] = curvature[:, b, a] = product
    curvature[:, 2, 3] += observed_1
    curvature[:, 3, 2] += observed_1
    curvature[:, 3, 3] += model.counts * observed_2
    for matrix in (curvature, information):
        matrix[:, 3, 3] += INDEX_PRIOR[1] ** -2.0
    return gradient, curvature, information


def derivatives(fit, state, rest):
    """Relative changes of the expected counts at the core pairs by x, y, counts and index."""
    mu = state.own + rest
    counts = state.model.counts[fit.core.source] / mu
    share, by_index = (state.rates[k].ravel()[fit.cell] for k in (0, 1))
    density, by_x, by_y = state.density[:3]
    scale = counts * share
    return [scale * by_x, scale * by_y, share * density / mu, counts * by_index * density]


def _newton_step(fit, state, rest, damping, free):
    """A damped step (n, 4) of the sources, uphill whatever the curvature."""
    free = np.flatnonzero(free)
    gradient, curvature, information = curvatures(fit, state, rest)
    gradient = gradient[:, free]
    curvature, information = (m[:, free[:, None], free] for m in (curvature, information))
    scale = 1 / np.sqrt(np.einsum("naa->na", information) + 1e-6)
    value, vector = np.linalg.eigh(curvature * scale[:, :, None] * scale[:, None, :])
    value = np.maximum(np.abs(value), 1e-3) + damping[:, None]
    change = np.einsum("nab,na->nb", vector, scale * gradient) / value
    step = np.zeros((fit.n, 4))
    step[:, free] = scale * np.einsum("nab,nb->na", vector, change)
    return step


def _limited(model, step):
    """The model after a step (n, 4), shortened where it is too long."""
    shift = np.hypot(step[:, 0], step[:, 1])
    scale = np.minimum(1.0, _MAX_SHIFT_DEG / np.maximum(shift, 1e-12))
    change = np.clip(step[:, 3], -_MAX_INDEX_STEP, _MAX_INDEX_STEP)
    counts = np.clip(model.counts + step[:, 2], model.counts / 4, model.counts * 4)
    return replace(
        model,
        x=model.x + step[:, 0] * scale,
        y=model.y + step[:, 1] * scale,
        counts=np.maximum(counts, _MIN_COUNTS),
        index=np.clip(model.index + change, *INDEX_BOUNDS),
    )
