"""Free places for texts beside points of a picture."""

import numpy as np
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

# Size of all text of a picture, that of the legends of journals.
TEXT_POINTS = 8.0
# Points from a ring to its text, which gets a line beyond the first; what a point of distance
# costs, beside 1 for covering something; how often the texts are placed.
_GAPS, _COST, _MAX_TRIES = (3.0, 8.0, 16.0, 25.0, 36.0, 50.0, 66.0), 5e-4, 12


def free_places(anchors, texts, *, limits, taken, ring, weight=1.0, force=False):
    """Centres (n, 2) in points of texts beside the first anchors, and which of them need a line.

    None if a text would cover another one or, which costs ``weight``, a ring; with ``force`` it
    covers as little as possible.
    """
    halves = np.array([text_size(text) for text in texts]).reshape(-1, 2) / 2
    order, centers, is_far = np.arange(len(texts)), np.zeros((len(texts), 2)), [False] * len(texts)
    choices = [_choices(anchors, n, half, limits, ring, weight) for n, half in enumerate(halves)]
    for _ in range(_MAX_TRIES):
        lines = taken
        for n, row in enumerate(order):
            (tried, paths, cost, is_near), half, done = choices[row], halves[row], order[:n]
            cost = cost + _n_covered(paths, centers[done], halves[done])
            cost += _n_covered(tried[:, None], centers[done], half + halves[done] + 1)
            cost += _n_covered(tried[:, None], lines, half + 0.5)
            best = np.argmin(cost)
            if cost[best] > 0.5 and not force:
                break
            centers[row], is_far[row] = tried[best], not is_near[best]
            lines = np.append(lines, paths[best], axis=0)
        else:
            return centers, is_far
        order = np.append(row, order[order != row])  # the next time it is the first
    return None


def _choices(anchors, row, half, limits, ring, weight):
    """Places (n, 2) for a text beside an anchor, lines to them, costs, and which are near."""
    angles = np.radians(np.arange(0, 360, 22.5))
    steps = [(gap, np.cos(angle), np.sin(angle)) for gap in _GAPS for angle in angles]
    gaps, directions = np.split(np.array(steps), [1], axis=1)
    others = anchors[np.abs(anchors - anchors[row]).max(axis=1) > 1]  # not at the same place
    tried = anchors[row] + directions * (ring + gaps + half)
    paths = anchors[row] + (tried - anchors[row])[:, None] * np.linspace(0, 1, 12)[:, None]
    gap = (np.abs(tried[:, None] - others) - half).max(axis=-1)
    own, is_near = (np.abs(tried - anchors[row]) - half).max(axis=-1), gaps[:, 0] == _GAPS[0]
    cost = (gap < ring).sum(axis=1) + _n_covered(paths, others, ring)
    cost = weight * (cost + (is_near & (gap.min(axis=1, initial=np.inf) < own)))
    outside = ((tried - half < limits[0]) | (tried + half > limits[1])).any(axis=1)
    return tried, paths, cost + _COST * gaps[:, 0] + 1e3 * outside, is_near


def _n_covered(paths, centers, halves):
    """How many boxes, around centres (m, 2), each path (n, n_points, 2) touches."""
    inside = (np.abs(paths[:, :, None] - centers) < halves).all(axis=-1)
    return inside.any(axis=1).sum(axis=1)


def text_size(text):
    """Width and height of a text in points."""
    font = FontProperties(size=TEXT_POINTS)
    width = text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]
    return np.array([width, 1.1 * TEXT_POINTS])
