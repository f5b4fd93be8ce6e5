"""YAML and JSON as people write them: one reading for everyone, or one line that says how to write it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kinemic.config import SplitConfig, TrialConfig
from kinemic.documents import LARGEST, dump_yaml, parse_json, parse_yaml
from kinemic.errors import ConfigError
from kinemic.reading import load_experiment, load_yaml, override, parse

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        (".5e1", 5.0),
        ("-1.5E+3", -1500.0),
        ("1.", 1.0),
        ("-12", -12),
        ("0", 0),
        ("true", True),
        ("False", False),
        ("~", None),
        ("2024-01-01", "2024-01-01"),
        ("2024-13-45", "2024-13-45"),
        ("10.0.0.1:6379", "10.0.0.1:6379"),
        ('"010"', "010"),
        ("'no'", "no"),
        ("|\n  0x10", "0x10"),
        ("{1: x, no: y}", {"1": "x", "no": "y"}),
        ("[walk, =, null]", ["walk", "=", None]),
        ("", None),
    ],
)
def test_a_value_is_what_everyone_takes_it_for(text: str, value: object) -> None:
    found = parse_yaml(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 010", 'line 1: 010 is octal to some; write 10, or "010" for text'),
        ("a: -08", 'write -8, or "-08"'),
        ("a: 0x10", "number to some"),
        ("a: 0o17", "number to some"),
        ("a: 0b11", "number to some"),
        ("a: 1_000", '"1_000" for text'),
        ("a: 1_0.5", "number to some"),
        ("\na: 1:30", 'line 2: 1:30 is a number to some; write it in digits, or "1:30" for text'),
        ("a: [walk, no]", 'line 1: no is text to some and false to others; write "no", or false'),
        ("a: NO", 'write "NO", or false'),
        ("a: On", 'write "On", or true'),
        ("a: 99999999999999999999", "too large"),
        ("x: 1\ny: 2\nx: 3", "line 3: the key 'x' was there before, in line 1; keep one"),
        ("{x: 1, 'x': 2}", "the key 'x' was there before"),
        ("1: a\n'1': b", "the key '1' was there before"),
        ("a: !!int abc", r"line 1: tags \(tag:yaml.org,2002:int\) are not read"),
        ("a: !!timestamp x", "tags"),
        ("!!python/object/apply:os.system [ls]", "tags"),
        ("a: {<<: {b: 1}}", "merge keys"),
        ("? [a]\n: b", "expected a name as key"),
        ("a: &x 1", "anchors"),
        ("a: *x", "aliases"),
        ("a: " + "[" * 500 + "]" * 500, "levels deep"),
        ("a: " + "[" * 100_000, "not valid YAML"),
        ("a: 1\n---\nb: 2", "line 2: a second document"),
        ('a: "\\0"', "characters that no text has"),
        ("a: \ud800", "characters that no text has"),
        ("a: b: c", "not valid YAML"),
    ],
)
def test_a_surprise_is_one_line_that_says_how_to_write_it(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)


def test_a_file_and_a_setting_are_read_alike(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("name: x\nname: y\n")
    with pytest.raises(ConfigError, match=r"a\.yaml: line 2: the key 'name' was there before, in line 1"):
        load_yaml(file)
    with pytest.raises(ConfigError, match="--set seed=010: line 1: 010 is octal to some"):
        override({}, ["seed=010"])
    assert override({}, ["rate=1e-4"]) == {"rate": 1e-4}


def test_an_alias_bomb_and_a_huge_file_end_before_they_grow(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    assert len(BOMB) < 420
    file.write_text(BOMB)
    with pytest.raises(ConfigError, match="anchors"):
        load_experiment(file)
    with pytest.raises(ConfigError, match="anchors"):
        override({}, [f"a={BOMB[3:]}"])
    file.write_bytes(b"#" * (LARGEST + 1))
    with pytest.raises(ConfigError, match="larger than"):
        load_yaml(file)
    with pytest.raises(ConfigError, match="levels deep"):
        override({}, [".".join("a" * 5000) + "=1"])


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a: \xe9", b"\x00"])
def test_a_file_that_is_no_text_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"a\.yaml: not valid YAML"):
        load_yaml(tmp_path / "a.yaml")


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfname: x\n")
    assert load_yaml(tmp_path / "a.yaml") == {"name": "x"}


def test_what_the_program_writes_it_reads_back() -> None:
    texts = ["010", "no", "1:30", "2024-01-01", "null", "~", "1e-4", "0x10", "1_000", "<<", "=", "", "a: b", "é"]
    shared = [1e-5, 1e22, 3, True, None]
    data = {text: [text, shared] for text in texts}
    assert parse_yaml(dump_yaml(data)) == data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mining": {"top_k": True}}, "mining: top_k: expected a number, got true"),
        ({"adapt": {"learning_rate": False}}, "adapt: learning_rate: expected a number, got false"),
        ({"adapt": {"rungs": [True, 4]}}, "adapt: rungs: expected a number"),
        ({"adapt": {"lora": {"rank": True}}}, "adapt.lora: rank: expected a number"),
    ],
)
def test_a_switch_is_no_number(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(TrialConfig, change, "trial")
    assert parse(TrialConfig, {"judge": {"augment": True}}, "trial").judge.augment is True


@pytest.mark.parametrize(("value", "shown"), [(None, "null"), (7, "7"), (True, "true")])
def test_a_name_that_is_read_as_something_else_is_told_to_go_in_quotes(value: object, shown: str) -> None:
    with pytest.raises(ConfigError, match=rf"classes\.1: expected text, got {shown}; to mean text, put it in quotes"):
        parse(SplitConfig, {"classes": ["walk", value]}, "split")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "b": {"x": 1, "x": 2}}', "the key 'x' comes twice"),
        ("[NaN]", "NaN is no JSON number"),
        ("[-Infinity]", "Infinity is no JSON number"),
        ("[" * 100_000, "nested too deeply"),
        ('["\\ud800"]', "characters that no text has"),
        (b"\xff{}", "can't decode"),
        ("{", "Expecting"),
        ("1" * 5000, "digits"),
    ],
)
def test_json_is_read_as_strictly(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_json(text)
    assert "\n" not in str(caught.value)
    assert parse_json(b'\xef\xbb\xbf{"a": [1.5, "\\u00e9"]}') == {"a": [1.5, "é"]}
