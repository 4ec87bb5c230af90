"""The objective of the clustering as the method's first description words it."""

import numpy as np


def literal_score(image, centroids, radius, penalty):
    """Circle by circle and pixel by pixel."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    used, score = np.zeros(image.shape, dtype=bool), 0.0
    for x_center, y_center in centroids:
        circle = np.hypot(x - x_center, y - y_center) <= radius
        score += image[circle & ~used].sum() + penalty * np.sum(circle & used)
        used |= circle
    return score
