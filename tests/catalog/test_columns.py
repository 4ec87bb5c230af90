import numpy as np
import pytest
from astropy.io.votable.ucd import check_ucd
from astropy.table import Column
from astropy.units import Unit

from astro_unetloc import flag_names
from astro_unetloc.catalog.columns import COLUMNS, FLAGS, LAYOUT_KEYWORDS, MATCH_COLUMNS
from astro_unetloc.exceptions import InputError

CONTRACT = """
    Source_Name RAJ2000 DEJ2000 GLON GLAT
    Conf_68_SemiMajor Conf_68_SemiMinor Conf_68_PosAng
    Conf_95_SemiMajor Conf_95_SemiMinor Conf_95_PosAng
    Score Probability Log_Odds Sqrt_TS Npred Unc_Npred Flux Unc_Flux
    Spectral_Index Unc_Spectral_Index Counts_Band Unc_Counts_Band Flux_Band Unc_Flux_Band
    Class Prob_AGN Prob_PSR Prob_OTHER Unc_Prob_PSR Sep_Nearest Coverage Patch Flags
    ASSOC ASSOC_Sep ASSOC_Sep_Norm ASSOC_Prob ASSOC_Catalog
""".split()


def test_columns_and_flags_are_those_of_the_contract_in_its_order():
    assert [spec.name for spec in COLUMNS + MATCH_COLUMNS] == CONTRACT
    for spec in COLUMNS[1:5]:
        assert (spec.dtype, spec.unit, spec.required) == ("f8", "deg", True)
    assert [bit for bit, _ in FLAGS.values()] == [2**power for power in range(10)]
    assert np.iinfo("i2").max >= sum(bit for bit, _ in FLAGS.values())


@pytest.mark.parametrize("spec", COLUMNS + MATCH_COLUMNS, ids=lambda spec: spec.name)
def test_column_has_valid_ucd_unit_type_and_description(spec):
    assert check_ucd(spec.ucd, check_controlled_vocabulary=True)
    assert Unit(spec.unit).to_string("fits") is not None
    assert np.dtype(spec.dtype).kind in "Ufi"
    assert 0 < len(spec.description) <= 68  # what one card of a FITS header holds


def test_flags_have_names():
    assert flag_names(0) == []
    assert flag_names(np.int16(3)) == ["edge", "blended"]
    names = flag_names(Column([256, 20, 512]))
    assert names == [["known_extended"], ["wide", "low_latitude"], ["class_prior"]]
    with pytest.raises(InputError, match="flags must be whole numbers; got 'edge'; give the colu"):
        flag_names("edge")


def test_layout_keywords_are_told_from_provenance():
    for keyword in ("NAXIS2", "TTYPE13", "TUCD1", "CHECKSUM", "EXTNAME", "DATE"):
        assert LAYOUT_KEYWORDS.match(keyword)
    for keyword in ("MODEL", "DSTYP1", "DSVAL1", "TELESCOP", "TITLE", "DATE-OBS", "TNAME1"):
        assert not LAYOUT_KEYWORDS.match(keyword)
