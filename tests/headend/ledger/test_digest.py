"""Canonical JSON against the examples of RFC 8785, against a JavaScript engine, and both of our writers against each other."""

import json
import random
import shutil
import struct
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headend.ledger.digest import RecordsHash, canonical, digest_of, read_digest, record_text
from tests.headend.ledger.verifier import verify_feed

# RFC 8785, appendix B: the bits of a double, and its text.
NUMBERS = {
    "0000000000000000": "0",
    "8000000000000000": "0",
    "0000000000000001": "5e-324",
    "8000000000000001": "-5e-324",
    "7fefffffffffffff": "1.7976931348623157e+308",
    "4340000000000000": "9007199254740992",
    "4430000000000000": "295147905179352830000",
    "44b52d02c7e14af5": "9.999999999999997e+22",
    "44b52d02c7e14af6": "1e+23",
    "444b1ae4d6e2ef4e": "999999999999999700000",
    "444b1ae4d6e2ef50": "1e+21",
    "3eb0c6f7a0b5ed8c": "9.999999999999997e-7",
    "3eb0c6f7a0b5ed8d": "0.000001",
    "41b3de4355555555": "333333333.3333333",
    "becbf647612f3696": "-0.0000033333333333333333",
    "43143ff3c1cb0959": "1424953923781206.2",
}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(("bits", "text"), NUMBERS.items())
def test_numbers_are_written_as_in_rfc_8785(bits: str, text: str) -> None:
    (value,) = struct.unpack(">d", bytes.fromhex(bits))
    assert canonical(value).decode() == verify_feed.number(value) == text


def test_the_example_of_rfc_8785_3_2_is_written_as_there() -> None:
    document = json.loads(
        r"""{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
             "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]}"""
    )
    expected = (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    assert canonical(document).decode() == verify_feed.canonical(document) == expected


def test_names_are_sorted_by_their_utf_16_units_as_in_rfc_8785_3_2_3() -> None:
    names = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    assert list(json.loads(canonical(dict.fromkeys(names, 0)))) == [
        "\r",
        "1",
        "\u0080",
        "\u00f6",
        "\u20ac",
        "\U0001f600",
        "\ufb33",
    ]


@given(JSON)
def test_two_writers_that_share_no_code_agree(value: object) -> None:
    assert canonical(value).decode("utf-8") == verify_feed.canonical(value)
    assert canonical(json.loads(canonical(value))) == canonical(value)


def test_a_javascript_engine_writes_the_same_numbers() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node to compare with")
    dice = random.Random(8)
    drawn = [struct.unpack(">d", dice.randbytes(8))[0] for _ in range(3000)]
    drawn += [dice.randrange(10 ** dice.randrange(1, 18)) / 10 ** dice.randrange(0, 9) for _ in range(3000)]
    values = [value for value in drawn if abs(value) < float("inf")]
    script = "process.stdout.write(JSON.stringify(JSON.parse(require('fs').readFileSync(0,'utf8'))))"
    written = subprocess.run([node, "-e", script], input=json.dumps(values), capture_output=True, text=True, check=True)
    assert written.stdout == canonical(values).decode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": {1, 2}}])
def test_what_json_cannot_say_has_no_digest(value: object) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical(value)


def test_hashes_are_what_the_definition_says() -> None:
    data = {"value": "1.0", "meter": "M1", "quality": ["measured"], "revision": 0, "read_at": None}
    digest = digest_of(data)
    # echo -n '{"meter":"M1","quality":["measured"],"read_at":null,"revision":0,"value":"1.0"}' | sha256sum
    assert digest == read_digest(data) == "adbfea8a54e50455b9d39d34f1927ea851b34f99006b57c71a1d631107dbf0f1"
    records = RecordsHash()
    records.add(7, record_text("read:a", digest))
    assert (records.count, records.first, records.last) == (1, 7, 7)
    # printf '%s  read:a\n' DIGEST | sha256sum
    assert records.sha256 == "8883d45014dcae85187e590b935ebc3f70f33fc83736a29543efc295cdf00980"
