"""Fonts for the characters that are drawn; matplotlib's own has no Chinese, Japanese, Korean or Devanagari."""

import unicodedata
import warnings
from functools import cache, lru_cache

import matplotlib as mpl
from matplotlib.font_manager import FontProperties, findfont, findSystemFonts, fontManager, get_font

PLACEHOLDERS = ("last resort", "lastresort", "blank", "notdef")
"""In names of fonts that draw every character as a box, or not at all."""
CJK = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "FULLWIDTH", "HALFWIDTH")
"""First words of the Unicode names of Chinese, Japanese and Korean characters."""


def font_families(*texts: str, warn: bool = True) -> list[str]:
    """The value of ``font.family`` that draws these texts: the usual fonts, then installed ones with what those lack.

    Matplotlib takes each character from the first font that has it. Characters that no installed font has are drawn
    as boxes. One warning says so and names a package, in place of matplotlib's own for every character.

    Args:
        warn: of such characters; not needed for SVG, whose reader chooses fonts.
    """
    usual = tuple(mpl.rcParams["font.family"])
    characters = frozenset("".join(texts)) - {"\n"}
    chosen, lacking = cover(characters, usual, len(fontManager.ttflist))
    if lacking:
        warnings.filterwarnings("ignore", r"(Glyph \d+|Matplotlib currently does not support) ")
    for package in sorted({package_of(character) for character in lacking if is_visible(character)}):
        if warn:
            warn_of_boxes(package)
    return [*usual, *chosen]


@lru_cache(maxsize=256)
def cover(characters: frozenset[str], usual: tuple[str, ...], number: int) -> tuple[tuple[str, ...], frozenset[str]]:
    """The fewest families beside the usual ones that have the characters, and the characters that no font has.

    Args:
        number: of fonts known, so that one that is added is seen.
    """
    left = characters
    for family in usual:
        left -= covered(findfont(FontProperties(family=[family])), left)
    found = {family: covered(path, left) for family, path in installed().items()} if left else {}
    chosen: list[str] = []
    while left and found:
        best = min(found, key=lambda family: (-len(found[family] & left), "sans" not in family.lower(), family))
        if not found[best] & left:
            break
        chosen.append(best)
        left -= found[best]
    return tuple(chosen), left


def covered(path: str, characters: frozenset[str]) -> frozenset[str]:
    """Those of the characters that a font file has; none of a file that cannot be read."""
    try:
        font = get_font(path)
    except (OSError, RuntimeError):
        return frozenset()
    return frozenset(character for character in characters if font.get_char_index(ord(character)))


def installed() -> dict[str, str]:
    """A file of each family, upright and of normal weight where there is one."""
    add_new_fonts()
    entries = sorted(fontManager.ttflist, key=lambda font: (font.style != "normal", font.weight not in (400, "normal")))
    paths: dict[str, str] = {}
    for font in entries:
        if not any(word in font.name.lower() for word in PLACEHOLDERS):
            paths.setdefault(font.name, font.fname)
    return paths


@cache
def add_new_fonts() -> None:
    """Fonts that were installed after matplotlib wrote its list of them."""
    known = {font.fname for font in fontManager.ttflist}
    for path in sorted(set(findSystemFonts()) - known):
        try:
            fontManager.addfont(path)
        except Exception:  # whatever matplotlib raises for bitmaps and damaged files
            continue


def is_visible(character: str) -> bool:
    """Whether a font should have a character: no space, control, variation selector or unassigned code."""
    name = unicodedata.name(character, "")
    return unicodedata.category(character)[0] not in "CZ" and "VARIATION SELECTOR" not in name


def package_of(character: str) -> str:
    """The package of Debian with a font that has the character."""
    if unicodedata.name(character, "").partition(" ")[0] in CJK:
        return "fonts-noto-cjk"
    return "fonts-symbola" if unicodedata.category(character)[0] == "S" else "fonts-noto-core"


@cache
def warn_of_boxes(package: str) -> None:
    """Once in a process."""
    scripts = {"fonts-noto-cjk": "Chinese, Japanese or Korean characters", "fonts-symbola": "emoji and symbols"}
    warnings.warn(
        f"No installed font has some of the {scripts.get(package, 'characters')} of the texts that are drawn, so they "
        f"appear as boxes. Install one: apt-get install {package} on Debian and Ubuntu, elsewhere a font of "
        "https://fonts.google.com/noto.",
        stacklevel=4,
    )
