"""Selections of photons: energy ranges, and the event selection that a header states.

The domain of a model is the selection that it was trained for. There is no warning where a header
states nothing, or where another selection hardly changes the counts: a cleaner event class, a later
release of Pass 8, another division of all photons into types.
"""

import contextlib
import re

import astropy.units as u
import numpy as np

from astro_unetloc.cubes import energies_in_gev, joined_edges
from astro_unetloc.exceptions import InputError, warn

# Range of an image that states no energies: that of the default model.
ASSUMED_RANGE_GEV = (10.0, 2000.0)
_EDGE_RTOL = 1e-4  # edges in keV as float32 agree this well and better

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
# Names other than GLAST, FERMI and LAT; a header that names none is taken for the LAT.
_OTHER_TELESCOPE = re.compile(r"(?!.*(GLAST|FERMI)).*[A-Z]", re.IGNORECASE)
_OTHER_INSTRUMENT = re.compile(r"(?!.*LAT\b).*[A-Z]", re.IGNORECASE)
_MAX_LAT_GEV = 3000.0  # maps of the LAT end below
_CUT_MARGIN = 1.01  # an energy cut this much inside the bins of a map is no rounding error

# What the built-in response and diffuse emission describe. The zenith angles are those of 3FHL
# (arXiv:1702.00664, section 2.1); 4FGL takes the same above 1 GeV.
BUILT_IN_DOMAIN = {
    "event_class": ["SOURCE", "CLEAN", "ULTRACLEAN", "ULTRACLEANVETO", "SOURCEVETO"],
    "event_type": ["FRONT", "BACK"],
    "max_zenith_deg": 105.0,
}


def parse_energy_range(energy_range):
    """A pair of energies (numbers in GeV, str or Quantity) as floats in GeV; None stays None."""
    if energy_range is None:
        return None
    try:
        low, high = map(_to_gev, energy_range)
    except (TypeError, ValueError) as err:
        wanted = "energy_range must be two energies, such as (10, 500) in GeV or Quantities"
        raise InputError(f"{wanted}; got {energy_range!r}") from err
    return _increasing(low, high, "energy_range")


def _to_gev(value):
    """One energy in GeV; a number without a unit is in GeV."""
    value = u.Quantity(value)
    return float(value.to_value("" if value.unit.is_equivalent("") else "GeV"))


def _increasing(low, high, where):
    """The pair itself if it is a range of energies in GeV."""
    if not 0 < low < high < np.inf:
        got = f"{low:g} to {high:g} GeV"
        raise InputError(f"{where} must be two increasing positive energies; got {got}")
    return low, high


def dss_cuts(header, kind):
    """Keyword, value and unit of the DSS cuts of a header whose type matches a pattern."""
    for key in header:
        if key.startswith("DSTYP") and re.fullmatch(
            kind, re.sub(r"\s", "", str(header[key])), re.I
        ):
            names = (f"DSVAL{key[5:]}", f"DSUNI{key[5:]}")
            yield names[0], str(header.get(names[0], "")), str(header.get(names[1], "")).strip()


def header_range_gev(header):
    """Energy range (emin, emax) in GeV of the DSS keywords, EMIN/EMAX or E_MIN/E_MAX, or None.

    Several cuts, as of gtselect run twice, mean their intersection.
    """
    cuts = [
        _stated_range(value.split(":"), unit or "MeV", key)  # that of the Fermi tools
        for key, value, unit in dss_cuts(header, "ENERGY")
    ]
    if cuts:
        return common_range(cuts, "the ENERGY cuts of the header")
    for low, high in (("EMIN", "EMAX"), ("E_MIN", "E_MAX")):
        if low in header and high in header:
            comment = re.search(r"\[(\w+)\]", header.comments[low])  # FITS: unit in brackets
            unit = header.get("EUNIT", comment.group(1) if comment else None)
            warn_of_no_unit(unit, f"{low}, {high}")
            return _stated_range((header[low], header[high]), unit, f"{low}, {high}")
    return None


def warn_of_no_unit(unit, what):
    """Warn of energies of photons that are taken for MeV because no unit stands with them."""
    if not str(unit or "").strip():
        warn(f"{what} without a unit are taken for MeV; write the unit into the header", 8)


def common_range(ranges, what):
    """The energies that all of several ranges (low, high) in GeV hold."""
    low, high = max(low for low, _ in ranges), min(high for _, high in ranges)
    if low >= high:
        got = ", ".join(f"{low:g}-{high:g}" for low, high in ranges)
        raise InputError(f"{what} must overlap; got {got} GeV; select the events again")
    return low, high


def _stated_range(pair, unit, where):
    try:
        low, high = energies_in_gev(np.array([float(value) for value in pair]), unit)
    except (ValueError, TypeError) as err:
        raise InputError(f"two energies were expected in {where}; got {list(pair)}") from err
    return _increasing(float(low), float(high), where)


def wcs_edges_gev(header, n_energy):
    """Edges in GeV from the third WCS axis, the last resort for cubes without a table."""
    name = str(header.get("CTYPE3", "")).strip().upper()
    if "ENER" not in name or "CRVAL3" not in header or "CDELT3" not in header:
        wanted = f"counts with {n_energy} planes must state their energies (EBOUNDS or *_BANDS)"
        raise InputError(f"{wanted}; got none and a third axis {name!r}; write them with the map")
    step, start, pixel = header["CDELT3"], header["CRVAL3"], header.get("CRPIX3", 1)
    if str(header.get("CREATOR", "")).strip().lower() == "gtbin":
        # it writes the start and the width of the first bin
        edges = start * (1 + step / start) ** np.arange(n_energy + 1)
        kind = "the logarithmic bins of gtbin"
    else:
        edges = start + (np.arange(n_energy + 1) + 0.5 - pixel) * step
        kind = "linear bins"
    warn(f"the map has no table of energies; taking {kind} from the header of its third axis")
    edges = energies_in_gev(edges, header.get("CUNIT3"))
    return joined_edges(edges[:-1], edges[1:])


def select_bins(edges, energy_range):
    """First and last + 1 of the energy bins inside a range in GeV; a warning if it cuts others."""
    low, high = energy_range
    inside = (edges[:-1] >= low * (1 - _EDGE_RTOL)) & (edges[1:] <= high * (1 + _EDGE_RTOL))
    touched = (edges[:-1] < high * (1 - _EDGE_RTOL)) & (edges[1:] > low * (1 + _EDGE_RTOL))
    if not inside.any():
        got = f"got bins at {', '.join(f'{edge:.4g}' for edge in edges)} GeV"
        raise InputError(f"no energy bin lies inside energy_range {low:g} to {high:g} GeV; {got}")
    first, last = np.flatnonzero(inside)[[0, -1]]
    if np.any(touched & ~inside):
        warn(
            f"energy_range {low:g} to {high:g} GeV cuts through bins of the map; "
            f"taking the whole bins inside: {edges[first]:.4g} to {edges[last + 1]:.4g} GeV"
        )
    return first, last + 1


def check_domain(header, energy_edges, card, *, finder="unet", psf=None):
    """Warn in one line of differences between a map and what a finder was made for.

    ``header`` has the DSS keywords of the map as far as they are known, ``energy_edges`` are in
    GeV; without ``domain`` in the card of the model only the energies are compared. The finder
    "scan" uses no model: it needs ``psf`` where the built-in one does not hold, and "scan" and
    "both" are refused for another telescope without it.
    """
    stated, telescope = stated_selection(header), other_telescope(header, energy_edges)
    if finder != "unet":
        check_psf(header, energy_edges, psf, f"finder {finder!r} needs")
    if finder == "scan":
        phrases = _energy_differences(stated.get("energy_gev"), energy_edges, energy_edges)
        phrases += _psf_differences(stated) if psf is None else []
        if phrases:
            warn(f"the scan may not fit the map: {'; '.join(phrases)}")
        return
    domain, phrases = card.get("domain", {}), []
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
    phrases += _energy_differences(stated.get("energy_gev"), energy_edges, bands)
    if domain and telescope:
        phrases.append(
            f"photons of {telescope} (not of Fermi-LAT: PSF, exposure and diffuse emission differ, "
            "and with them scores, fluxes, errors and classes); take finder scan and the PSF of "
            "the telescope (--finder scan with --psf or --psf-radius)"
        )
    if phrases:
        warn(
            f"the map is outside of what model {card['name']} was trained for, scores may not "
            f"hold: {'; '.join(phrases)}"
        )


def check_psf(header, energy_edges, psf, needs):
    """Refuse a map of another telescope without its PSF; ``needs`` begins the message."""
    telescope = other_telescope(header, energy_edges)
    if telescope and psf is None:
        raise InputError(
            f"{needs} the PSF of the telescope; got photons of {telescope} and no psf; give psf, a "
            "file or the radius that holds 68 % (--psf or --psf-radius)"
        )


def other_telescope(header, energy_edges):
    """What observed a map if it is not the LAT, by its header or else its energies; "" if it is."""
    telescope, instrument = (str(header.get(k, "")).strip() for k in ("TELESCOP", "INSTRUME"))
    name = f"{telescope} {instrument}".strip()
    if _OTHER_TELESCOPE.match(telescope) or _OTHER_INSTRUMENT.match(instrument):
        return name
    beyond = not name and energy_edges[-1] > _MAX_LAT_GEV
    return f"an unknown telescope, up to {energy_edges[-1]:g} GeV" if beyond else ""


def _psf_differences(stated):
    """Phrase on photons that the built-in PSF does not describe, in a list, or none."""
    types, release = stated.get("event_type"), stated.get("release", "P8")
    kinds = []
    if types and not _same_photons(types, BUILT_IN_DOMAIN["event_type"]):
        kinds.append(f"event type {'+'.join(types)}")
    if release.upper().startswith("P7"):
        kinds.append(f"events of {release}")
    text = "the built-in PSF is that of all photons of Fermi-LAT, not of"
    return [f"{text} {', '.join(kinds)} (give psf)"] if kinds else []


def _same_photons(*lists):
    """Whether lists of types select the same photons: the same types, or all of a group."""
    whole = [any(set(group) <= set(types) for group in _TYPE_GROUPS) for types in lists]
    return all(whole) or all(set(types) == set(lists[0]) for types in lists)


def _energy_differences(cut, energy_edges, bands):
    """Phrases on the energies: bins that a cut emptied, and energies outside of the model."""
    low, high = energy_edges[0], energy_edges[-1]
    used = max(low, bands[0]), min(high, bands[-1])
    phrases = []
    if cut and (cut[0] > used[0] * _CUT_MARGIN or cut[1] * _CUT_MARGIN < used[1]):
        phrases.append(
            f"events were cut to {cut[0]:g}-{cut[1]:g} GeV in bins of {low:g}-{high:g} GeV "
            "(give energy_range)"
        )
    covered = np.log(used[1] / used[0]) / np.log(high / low)
    if 0 < covered < 0.5:
        phrases.append(f"only {100 * covered:.0f} % of the map's log-energy range is covered")
    return phrases


def stated_selection(header):
    """Event selection that the DSS keywords of a header state, with the keys of a domain."""
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
    zenith = [re.search(r":(\d+\.?\d*)", cut) for _, cut, _ in dss_cuts(header, "ZENITH_ANGLE")]
    zenith = [float(highest[1]) for highest in zenith if highest]
    stated |= {"max_zenith_deg": min(zenith)} if zenith else {}
    cuts = {key: value for key, value in header.items() if key.startswith("DS")}
    with contextlib.suppress(InputError):  # not understood: nothing is stated
        stated["energy_gev"] = header_range_gev(cuts)
    return stated


def _names(mask, bits):
    """Names of the bits of a mask; empty if one is not known."""
    numbers = [bit for bit in range(mask.bit_length()) if mask >> bit & 1]
    return [bits[bit] for bit in numbers] if set(numbers) <= set(bits) else []
