import io

import numpy as np
import pytest

from astro_unetloc.evaluation.figures import draw_case

SHAPE = (24, 32)
CODE = "sky001010-0007"


def case(true_xy=(), found_xy=(), *, rng=None, **options):
    """Picture of a patch of 24 x 32 pixels, drawn."""
    rng = np.random.default_rng(rng)
    counts = rng.poisson(0.3, (*SHAPE, 5))
    mask, probability = (counts[..., :1] > 0), rng.random((*SHAPE, 2))
    figure = draw_case(counts, mask, probability, true_xy, found_xy, code=CODE, **options)
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    return figure


def circles(figure):
    return figure.axes[3].patches


def test_four_panels_show_counts_mask_probability_and_sources():
    figure = case([(5, 6)], [(5.2, 6.1)], rng=0)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[1:] == ["Mask", "Probability, 0 to 1", "Sources"]
    assert titles[0].startswith("Counts")
    images = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    assert {image.shape for image in images} == {SHAPE}
    counts = np.random.default_rng(0).poisson(0.3, (*SHAPE, 5))
    assert images[0].sum() == pytest.approx(counts.sum(), rel=0.02)
    np.testing.assert_array_equal(images[1], counts[..., 0] > 0)


def test_marks_stand_at_their_pixels():
    figure = case([(5.5, 6.25)], [(20.0, 7.0), (3.0, 4.0)], verdicts=["wrong", "right"])
    assert list(circles(figure)[0].center) == [5.5, 6.25]
    assert circles(figure)[0].radius == pytest.approx(0.3 / (10 / 128))
    right, wrong = (points.get_offsets().tolist() for points in figure.axes[3].collections)
    assert (right, wrong) == ([[3.0, 4.0]], [[20.0, 7.0]])


def test_roles_are_drawn_each_in_its_way_and_others_not_at_all():
    roles = ["faint", "counted", "extended", "below", "counted"]
    figure = case([(i, 5) for i in range(5)], roles=roles)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["true source", "faint true source", "extended true source"]
    assert len(circles(figure)) == 4
    assert len({str(circle.get_linestyle()) for circle in circles(figure)}) == 3


def test_extended_sources_are_as_wide_as_they_are_and_no_circle_is_narrower_than_a_match():
    xy, radius = [(-9, 5), (3, 5), (9, 5), (15, 5), (20, 5)], [3.0, 0.0, 0.1, 1.5, np.nan]
    roles = ["extended", "counted", "extended", "extended", "extended"]
    figure = case(xy, roles=roles, radius_deg=radius, pixel_deg=0.1)
    drawn = [(circle.center[0], circle.radius) for circle in circles(figure)]
    assert drawn == [(x, pytest.approx(r)) for x, r in [(3, 3), (9, 3), (15, 15), (20, 3)]]


def test_sources_outside_the_patch_are_left_out_and_do_not_stretch_it():
    # pixels reach half a pixel beyond their centres
    figure = case([(-0.4, 3), (-0.6, 3), (31.4, 23.4), (3, 23.6), (np.nan, 3)], [(1e9, 0)])
    assert len(circles(figure)) == 2
    for axes in figure.axes:
        assert axes.get_xlim() == (-0.5, 31.5)
        assert axes.get_ylim() == (-0.5, 23.5)


def test_title_names_the_patch_and_where_it_lies():
    figure = case(center=(361.5, -2), about="3 missed $")
    assert figure.get_suptitle() == rf"{CODE}   l = 1.50°, b = -2.00°   3 missed \$"
    assert case().get_suptitle() == CODE


def test_empty_patch_is_drawn():
    nothing = np.zeros(SHAPE)
    figure = draw_case(nothing, nothing, nothing, [], [], code=CODE)
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    assert not figure.legends


def test_images_of_different_shape_are_an_error():
    image = np.zeros(SHAPE)
    with pytest.raises(ValueError, match=r"one shape; got \(24, 32\), \(24, 32\), \(32, 24\)"):
        draw_case(image, image, image.T, [], [], code=CODE)


@pytest.mark.parametrize("what", ["roles", "radius_deg", "verdicts"])
def test_one_kind_for_each_position_or_an_error(what):
    with pytest.raises(ValueError, match=f"{what} must be one for each position; got 2 for 1"):
        case([(1, 1)], [(1, 1)], **{what: ["right", "faint"]})
