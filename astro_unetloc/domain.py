"""The domain of a model: the event selection it was trained for, against that of a map.

What a map does not state is no reason to warn, nor is what hardly changes its counts: a cleaner
event class, a later release of Pass 8, or another division of all photons into types.
"""

import re

import numpy as np

from astro_unetloc.energies import image_range_gev
from astro_unetloc.messages import warn

__all__ = ["BUILT_IN_DOMAIN", "check_domain", "domain_differences"]

# Bits of EVENT_CLASS and EVENT_TYPE in Pass 8 (Fermi Science Support Center, Cicerone, "LAT Data
# Columns" and "LAT Data Selection").
_CLASS_BITS = {
    1: "TRANSIENT100E", 2: "TRANSIENT100", 3: "TRANSIENT020E", 4: "TRANSIENT020",
    5: "TRANSIENT010E", 6: "TRANSIENT010", 7: "SOURCE", 8: "CLEAN", 9: "ULTRACLEAN",
    10: "ULTRACLEANVETO", 11: "SOURCEVETO", 16: "TRANSIENT015S",
}  # fmt: skip
# Each group of types divides all photons.
_TYPE_GROUPS = (
    ("FRONT", "BACK"),
    ("PSF0", "PSF1", "PSF2", "PSF3"),
    ("EDISP0", "EDISP1", "EDISP2", "EDISP3"),
)
_TYPE_BITS = dict(enumerate(name for group in _TYPE_GROUPS for name in group))
_MASK = re.compile(r"BIT_MASK\((EVENT_CLASS|EVENT_TYPE),(\d+)(?:,(\w+))?\)")
# A cut on energies this much inside the bins of a map is none of rounding.
_CUT_MARGIN = 1.01

# What the built-in response and diffuse emission describe. The zenith angles are those of 3FHL
# (arXiv:1702.00664, section 2.1); 4FGL takes the same above 1 GeV.
BUILT_IN_DOMAIN = {
    "event_class": ["SOURCE", "CLEAN", "ULTRACLEAN", "ULTRACLEANVETO", "SOURCEVETO"],
    "event_type": ["FRONT", "BACK"],
    "max_zenith_deg": 105.0,
}


def domain_differences(header, energy_edges, card):
    """What of a map differs from what a model was trained for.

    Parameters
    ----------
    header : dict
        DSS keywords (``DSTYPn``, ``DSVALn``, ``DSUNIn``) of the map, as far as it has them.
    energy_edges : ndarray (n_energy + 1,)
        Edges of the map in GeV.
    card : dict
        The card of the model; without ``domain`` only the energies are compared.

    Returns
    -------
    list of str
        One phrase for each difference.
    """
    domain, stated = card.get("domain", {}), _stated(header)
    phrases = []
    classes, wanted = stated.get("event_class", []), domain.get("event_class")
    if wanted and not set(classes) <= set(wanted):
        phrases.append(f"event class {'+'.join(classes)} (not {wanted[0]} or cleaner)")
    types, wanted = stated.get("event_type"), domain.get("event_type")
    if types and wanted and not _same_photons(types, wanted):
        phrases.append(f"event type {'+'.join(types)} (not {'+'.join(wanted)})")
    if stated.get("release", "P8").upper().startswith("P7") and domain:
        phrases.append(f"events of {stated['release']} (not Pass 8)")
    zenith, highest = stated.get("max_zenith_deg"), domain.get("max_zenith_deg")
    if zenith and highest and zenith > highest:
        phrases.append(f"zenith angles up to {zenith:g} deg (not {highest:g})")
    bands = np.asarray(card["band_edges_gev"], dtype=float)
    return phrases + _energy_differences(stated.get("energy_gev"), energy_edges, bands)


def check_domain(header, energy_edges, card):
    """Warn in one line where a map differs from what a model was trained for.

    Parameters are those of `domain_differences`.

    Warns
    -----
    UnetlocWarning
        If it does.
    """
    phrases = domain_differences(header, energy_edges, card)
    if phrases:
        warn(
            f"the map is outside of what model {card['name']} was trained for, scores may not "
            f"hold: {'; '.join(phrases)}"
        )


def _same_photons(types, wanted):
    """Whether two lists of types select the same photons, by the same types or by all of a kind."""

    def holds_all(names):
        return any(set(group) <= set(names) for group in _TYPE_GROUPS)

    return set(types) == set(wanted) or holds_all(types) and holds_all(wanted)


def _energy_differences(cut, energy_edges, bands):
    """Phrases on the energies: bins that a cut left empty, and what the model does not cover."""
    low, high = energy_edges[0], energy_edges[-1]
    phrases = []
    if cut is not None:
        used = max(low, bands[0]), min(high, bands[-1])
        if cut[0] > used[0] * _CUT_MARGIN or cut[1] * _CUT_MARGIN < used[1]:
            phrases.append(
                f"events were cut to {cut[0]:g}-{cut[1]:g} GeV in bins of {low:g}-{high:g} GeV "
                f"(give energy_range)"
            )
    whole = np.log(high / low)
    covered = max(np.log(min(high, bands[-1]) / max(low, bands[0])), 0.0) / whole
    if 0 < covered < 0.5:
        phrases.append(f"only {100 * covered:.0f} % of the map's log-energy range is covered")
    return phrases


def _stated(header):
    """What the DSS keywords of a header say, by the names of a domain; nothing they do not."""
    stated = {}
    for key, value in header.items():
        if not key.startswith("DSTYP"):
            continue
        kind = str(value).replace(" ", "").upper()
        mask = _MASK.fullmatch(kind)
        if mask:
            bits = {"EVENT_CLASS": _CLASS_BITS, "EVENT_TYPE": _TYPE_BITS}[mask[1]]
            release = mask[3] or ""
            names = _names(int(mask[2]), bits) if release.startswith("P8") else []
            stated |= {mask[1].lower(): names} if names else {}
            stated |= {"release": release} if release else {}
        elif kind == "ZENITH_ANGLE":
            stated |= _highest(str(header.get(f"DSVAL{key[5:]}", "")))
    try:
        stated["energy_gev"] = image_range_gev(
            {key: value for key, value in header.items() if key.startswith("DS")}
        )
    except ValueError:  # not understood: nothing is stated
        pass
    return stated


def _names(mask, bits):
    """Names of the bits of a mask; empty if one is not known."""
    numbers = [bit for bit in range(mask.bit_length()) if mask >> bit & 1]
    return [bits[bit] for bit in numbers] if set(numbers) <= set(bits) else []


def _highest(ranges):
    """The highest zenith angle of ``low:high`` or several of these."""
    try:
        return {"max_zenith_deg": max(float(part.split(":")[1]) for part in ranges.split(","))}
    except (IndexError, ValueError):
        return {}
