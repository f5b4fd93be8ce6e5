"""Values that readers of YAML and JSON stumble over, and bytes that readers of anything do."""

from __future__ import annotations

DEEP, LONG = 20_000, 100_000  # levels, characters
# Two blanks part the values.
_JSON = r"""
null  true  false  0  -1  1  2  0.5  1e400  -1e400  NaN  -Infinity  1e308  1e-320  1000000  2147483648  16777217  0.1
1000000000000000000000000000000  9223372036854775808  ""  "a"  "\ud800"  "\u0000"  "\u001b[2J"  " wave "  "../../out"
"/"  "²"  "nan"  "1"  "😀"  "\u202e"  "\r\n"  []  {}  [null]  {"a": 1}  [[1]]  ["a", "a"]  [0, 0]  [1, 2, 3, 4, 5]
["wave", null]  [[]]  [1e400]  [""]  {"": {}}
"""
_YAML = r"""
~  yes  off  010  0x1F  0b11  0o17  1:30  1_000  .inf  -.INF  .nan  1e3  1e999  =  <<  '~'  ''  'auto'  'default'
2026-02-30  2026-13-01  2026-01-01  2026-01-01T25:00:00Z  0000-00-00  9999-12-31T23:59:59+99:99  12:99
!!int abc  !!float x  !!bool maybe  !!timestamp x  !!null x  !!binary '*'  !!binary aGk=  !!set {a, b}  !!int ''
!!omap [a: 1]  !!pairs [a: 1]  !!map [a]  !!seq {a: 1}  !!str {a: 1}  !!str [a]  !x y  !!x y  !<x> y  !!float ''
!!int 1__  !!int 0b2  !!int '-'  !!float '+'  !!int 0x  !!float 1:99  !!timestamp ''  !!bool [a]  !!merge x  !!value x
!!python/object/apply:os.system ['touch ../PWNED']  !!python/name:os.system  !!python/tuple [1]  !<tag:yaml.org,2002:x>
&a [*a]  &a {b: *a}  *nowhere  &a x  {<<: x}  {<<: [x]}  {<<: {a: 1}}  {<<: &a {b: *a}}  {? [a]: b}  {? {a: b}: c}
{a: 1, a: 2}  {1: 2}  {null: 1}  {true: 1}  {2026-01-01: 1}  {.nan: 1}  "\ud800"  "\x00"  "\U00110000"  "\xZZ"
'  "  |  >  - a  ?  %  @a  `a  a: b: c  '../../out'  '/'  '$(touch ../PWNED)'  'a\'  "\uFEFF"  "\uFFFE"  "\x85"
'sqlite:///x'  'sqlite:////'  'mysql://x'  'x://y'  'http://['  'http://127.0.0.1:1'  'file:///x'  '${HOME}'  '${'
'postgresql+psycopg://u:p@127.0.0.1:1/x'
"""


def _values(text: str) -> tuple[str, ...]:
    return tuple(value for line in text.splitlines() for value in line.split("  ") if value)


class Named(str):
    """A text that goes by a name where it is printed."""

    name: str

    def __new__(cls, name: str, text: str) -> Named:
        self = super().__new__(cls, text)
        self.name = name
        return self

    def __repr__(self) -> str:
        return self.name


JSON = (
    *_values(_JSON),
    Named("5000 digits", "9" * 5000),
    Named("a long text", f'"{"x" * LONG}"'),
    Named("deep lists", "[" * DEEP + "]" * DEEP),
    Named("deep mappings", '{"a":' * DEEP + "1" + "}" * DEEP),
)
# Nine to the power of eleven, in few bytes.
_NINE = [", ".join([f"*a{i}"] * 9) for i in range(11)]
BOMB = Named("an alias bomb", "[&a0 [x], " + ", ".join(f"&a{i} [{nine}]" for i, nine in enumerate(_NINE, 1)) + "]")
YAML = (*_values(_YAML), *JSON, BOMB)
YAML_HEADS = ("\ufeff", "--- {}\n---\n", "%YAML 9.9\n---\n", "%TAG ! tag:x,2000:\n---\n", "x: &x\n", "\t", "# \x07\n")

ODD_BYTES = (
    *(b"\xef\xbb\xbf", b"\x00", b"\xff", b"\r", b"\n", b"\x1b[2J", b"#", b"\t", b"\x85", b"\xe2\x80\xa8", b"{", b"]"),
    *("²".encode(), b"inf", b"-1", b"1e999", b"9" * 5000, b"\xed\xa0\x80", b"PK\x03\x04", b"\x93NUMPY", b"\x80\x04."),
)
