"""Fonts for drawn texts: matplotlib's default font has no Chinese, Japanese, Korean or Devanagari characters."""

import unicodedata
import warnings
from functools import cache, lru_cache

import matplotlib as mpl
from matplotlib.font_manager import FontProperties, findfont, findSystemFonts, fontManager, get_font

PLACEHOLDERS = ("last resort", "lastresort", "blank", "notdef")
"""Parts of the names of fonts that draw every character as a box, or not at all."""
CJK = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "FULLWIDTH", "HALFWIDTH")
"""First words of the Unicode names of Chinese, Japanese and Korean characters."""


def font_families(*texts: str, warn: bool = True) -> list[str]:
    """Value of ``font.family`` for these texts: the default fonts, then installed fonts with the missing characters.

    Matplotlib takes each character from the first font that has it. Characters that no installed font has are drawn
    as boxes. One warning names a package to install and replaces matplotlib's warnings for every character.

    Args:
        warn: whether to warn; not needed for SVG, where the viewer chooses fonts.
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
    """Families to add to the default ones, chosen greedily, and the characters that no font has.

    Args:
        number: number of known fonts; a new font invalidates the cache.
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
    """The characters that a font file has; none if it cannot be read."""
    try:
        font = get_font(path)
    except (OSError, RuntimeError):
        return frozenset()
    return frozenset(character for character in characters if font.get_char_index(ord(character)))


def installed() -> dict[str, str]:
    """Family → font file, upright and of normal weight if available."""
    add_new_fonts()
    entries = sorted(fontManager.ttflist, key=lambda font: (font.style != "normal", font.weight not in (400, "normal")))
    paths: dict[str, str] = {}
    for font in entries:
        if not any(word in font.name.lower() for word in PLACEHOLDERS):
            paths.setdefault(font.name, font.fname)
    return paths


@cache
def add_new_fonts() -> None:
    """Register fonts that were installed after matplotlib cached its list of fonts."""
    known = {font.fname for font in fontManager.ttflist}
    for path in sorted(set(findSystemFonts()) - known):
        try:
            fontManager.addfont(path)
        except Exception:  # matplotlib raises different errors for bitmap fonts and damaged files
            continue


def is_visible(character: str) -> bool:
    """Whether a character has a glyph: not a space, control character, variation selector or unassigned code."""
    name = unicodedata.name(character, "")
    return unicodedata.category(character)[0] not in "CZ" and "VARIATION SELECTOR" not in name


def package_of(character: str) -> str:
    """Debian package of a font with the character."""
    if unicodedata.name(character, "").partition(" ")[0] in CJK:
        return "fonts-noto-cjk"
    return "fonts-symbola" if unicodedata.category(character)[0] == "S" else "fonts-noto-core"


@cache
def warn_of_boxes(package: str) -> None:
    """Warn about characters that are drawn as boxes, once for each package."""
    scripts = {"fonts-noto-cjk": "Chinese, Japanese or Korean characters", "fonts-symbola": "emoji and symbols"}
    warnings.warn(
        f"Some {scripts.get(package, 'characters')} are drawn as boxes, because no installed font has them. Install a "
        f"font: apt-get install {package} on Debian and Ubuntu, https://fonts.google.com/noto elsewhere.",
        stacklevel=4,
    )
