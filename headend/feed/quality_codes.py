"""Our words for quality, and the codes of IEC 61968-9 ReadingQualityType: "SYSTEM.CATEGORY.INDEX". Pure.

System 1 is the meter, 2 a metering system (us), 3 meter data management. Categories and indices as public implementations have
them: Connexo QualityCodeCategory and QualityCodeIndex (github.com/chandangeek/Connexo_Code, package com.elster.jupiter.cbo), and
the published list of a meter data hub that maps 2.5.259 "Not Acquired", 1.4.9 "Time Shift", 2.8.0 "Estimated", 2.6.0 "Invalid".

CIM has no code for "late" and "back-filled": how a value came says nothing against it, so both are written as valid data, and the
way back gives "measured".
"""

from collections.abc import Iterable

from headend.model import Quality

__all__ = ["MARK_CODES", "QUALITY_CODES", "RULE_CODES", "code_of", "codes_of", "quality_of"]

_VALID = "2.0.0"

QUALITY_CODES: dict[Quality, str] = {
    Quality.MEASURED: _VALID,
    Quality.LATE: _VALID,
    Quality.BACK_FILLED: _VALID,
    Quality.MISSING: "2.5.259",  # reasonability: known missing read
    Quality.SUSPECT: "2.5.258",  # reasonability: suspect
    Quality.ESTIMATED_BY_UPSTREAM: "3.8.0",  # estimated, by meter data management
}

# What happened inside an interval whose amount is right all the same (`headend.intervals.model.Mark`).
MARK_CODES: dict[str, str] = {
    "rolled-over": "2.4.1",  # data collection: overflow condition detected
    "clock-corrected": "2.4.9",  # clock changed
    "meter-exchanged": "2.4.6",  # configuration changed
    "ratio-changed": "2.4.6",
}

# Truth checks with a code that says more than "suspect". Rules without one stay at that.
RULE_CODES: dict[str, str] = {
    "spike-history": "2.5.256",  # reasonability: data outside expected range
    "spike-physical": "2.5.256",
    "busy-as-number": "2.5.257",  # error code
    "tariff-sum": "2.6.9",  # validation: time-of-use sum check
    "clock-off": "2.1.9",  # diagnostics: clock error
}

# A foreign code's way back, whichever system says it. What is not here has no word of ours.
_WORDS: dict[tuple[int, int], Quality] = {
    (0, 0): Quality.MEASURED,  # valid
    (0, 1): Quality.MEASURED,  # validated
    (5, 258): Quality.SUSPECT,
    (5, 259): Quality.MISSING,
    (8, 0): Quality.ESTIMATED_BY_UPSTREAM,
}


def codes_of(quality: Iterable[str], marks: Iterable[str] = (), rules: Iterable[str] = ()) -> tuple[str, ...]:
    """The codes of one value, each once. What is doubted or absent is not called valid as well.

    quality: our words, as in events. A word of a later version has no code here and is left out.
    """
    codes = [code_of(word) for word in quality]
    found = [code for code in codes if code is not None]
    if any(code != _VALID for code in found):
        found = [code for code in found if code != _VALID]
    found += [MARK_CODES[mark] for mark in marks if mark in MARK_CODES]
    found += [RULE_CODES[rule] for rule in rules if rule in RULE_CODES]
    return tuple(dict.fromkeys(found))


def code_of(word: str) -> str | None:
    """None for a word that is not ours."""
    try:
        return QUALITY_CODES[Quality(word)]
    except ValueError:
        return None


def quality_of(code: str) -> Quality | None:
    """Our word for a code, of any system; None where we have none, and for text that is no code."""
    parts = code.split(".")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() and len(part) <= 5 for part in parts):
        return None
    return _WORDS.get((int(parts[1]), int(parts[2])))
