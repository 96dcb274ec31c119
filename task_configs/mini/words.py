"""What the synthetic documents are made of: a reproducible source of chance, invented words, and templates.

Train and validation share no value and no invented word: each belongs to one split by its hash (`split_of`), and what
is drawn for one split is drawn again until it belongs there.

A template is text with slots in braces, of four sorts:

    {small|large}   one of the alternatives
    {@@-###}        letters (@, consonants) and digits (#, no run of them starts with 0)
    {person}        what the function of that name in `SLOTS` draws anew
    {analyst}       any other name: what the document's cast holds under it, the same throughout the document
"""

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Literal, TypeVar

T = TypeVar("T")
Split = Literal["train", "validation"]

MAX_VALUE_CHARACTERS = 44  # the 48 tokens that may be generated hold it even where a token is a byte


def _listed(words: str) -> tuple[str, ...]:
    return tuple(words.split())


STARTS = _listed(
    """
    Abr Adr Aldr Arv Balk Barl Berv Bist Blen Borl Brev Brin Calm Carv Celm Corv Crel Culm Dalv Darn Delm Dorv Drav
    Dreth Elb Elv Erm Esk Falk Farn Fel Ferv Flor Garm Gelb Glev Gorv Gral Grind Hald Harv Helv Hest Holv Ilm Isk
    Jarl Jent Jorv Kald Karv Kelm Kest Kolv Krel Lamv Larn Lev Lind Lorv Lunt Mald Marv Melk Morv Mulv Nald Narv
    Nelm Norv Nust Obr Orm Ostr Palv Parn Pell Plov Pord Pral Quel Quist Rald Ravn Rev Rost Rund Sald Sarv Selk Skel
    Sorv Strel Sulv Tald Tarn Telm Thal Thren Torv Trel Tulv Uld Urv Vald Vask Velm Vest Vorl Wald Warn Welm Wist
    Yarl Yelv Zald Zarn Zelm Zorv
    """
)
MIDDLES = _listed(
    """
    ab ad af ag al am an and ant ar arn ash av eb ed eft eg el em en end ent er erd et ev ib id if il im in ind ir
    ith iv ob od og ol om on ond or orn oth ov ub ud ul um un und ur uv
    """
)
ENDINGS = {
    "first name": _listed("a en is o ia el ine ar eth ey or une a in us ora ette elle io"),
    "surname": _listed(
        "wick strand more by well croft gard lund nell veld hurst kin ric mond bane dale thorn sley brook quist"
    ),
    "place": _listed(
        "ford holt mere combe stead haven march wold minster beck ness thorpe garth leigh moor cliff quay fell"
    ),
    "company": _listed("ex ane ix ora ium eon ax ique yne olis avo era onic elle une iva"),
    "product": _listed("ex is on ara ix ent ova ium ega ista or elle ode uma ite"),
    "analyte": _listed("ase in ol ide ate agen ulin one ose amine idin erol ene otin"),
    "river": _listed("a e ow en ess ane ume ore isk ay in elt"),
}
LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
# Adjectives, creatures and things start with a consonant: they follow "a" in the prose.
ADJECTIVES = _listed(
    """
    bright calm coastal cold curved dark deep distant dry faded flat folded frozen gentle green grey heavy hidden
    hollow late light little long mild narrow new northern pale patient plain quiet rapid rough round sandy sharp
    shallow short silver slow small soft southern steep still striped tall thin twisted warm western white wide
    winter wooden woven yellow
    """
)
MATERIALS = _listed(
    """
    alder ash beech birch bone brass bronze cedar cherry chestnut copper cork elm felt flax fir glass hazel hemp
    hornbeam iron larch leather linen lime maple nickel oak pear pewter pine plum poplar slate spruce steel tin
    walnut willow yew
    """
)
CREATURES = _listed(
    """
    badger bream bunting crane curlew dace ferret finch grayling hare heron jackdaw kestrel lapwing lark loach
    magpie marten minnow moth newt nightjar perch pike plover raven roach sandpiper shrew starling stoat swift teal
    tench thrush trout vole wagtail weasel wren
    """
)
THINGS = _listed(
    """
    basket bell bridge candle chain chimney column compass crown door drum ferry field fountain garden gate hammer
    harbour hill kettle key ladder lamp lantern lighthouse mill mirror needle piano plough quarry ribbon road sail
    shield staircase star table tower tunnel wagon wall wheel window
    """
)
MONTHS = _listed(
    """
    January February March April May June July August September October November December
    """
)


class Draw:
    """Chance that is the same in every Python version: of `random.Random` only `random()` is sure to stay as it is."""

    def __init__(self, seed: str) -> None:
        self.random = Random(seed).random

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.random() * len(options))]

    def integer(self, low: int, high: int) -> int:
        """From low to high, both included."""
        return low + int(self.random() * (high - low + 1))

    def shuffled(self, items: Sequence[T]) -> list[T]:
        mixed = list(items)
        for last in range(len(mixed) - 1, 0, -1):
            other = int(self.random() * (last + 1))
            mixed[last], mixed[other] = mixed[other], mixed[last]
        return mixed


def split_of(text: str) -> Split:
    """The split that an invented word or a value belongs to, whatever its case: one in eight is kept to validate."""
    return "validation" if zlib.crc32(f"mini {text.lower()}".encode()) % 8 == 0 else "train"


class Writer(Draw):
    """Fills templates for one document of a split."""

    def __init__(self, seed: str, split: Split) -> None:
        super().__init__(seed)
        self.split = split
        self.cast: dict[str, str] = {}

    def word(self, kind: str) -> str:
        """An invented word of this split, with a capital."""
        endings = ENDINGS[kind]
        while True:
            word = self.pick(STARTS) + self.pick(MIDDLES) + self.pick(endings)
            if split_of(word) == self.split:
                return word

    def fill(self, template: "Template") -> str:
        return "".join([part if isinstance(part, str) else part(self) for part in template])

    def value(self, template: "Template") -> str:
        """A filled template that is short enough and as a whole belongs to this split."""
        while True:
            value = self.fill(template)
            if len(value) <= MAX_VALUE_CHARACTERS and split_of(value) == self.split:
                return value


Part = str | Callable[[Writer], str]
Template = tuple[Part, ...]


def _person(writer: Writer) -> str:
    return f"{writer.word('first name')} {writer.word('surname')}"


def _place(writer: Writer) -> str:
    return writer.word("place") + writer.pick(("", "", "", " Cross", " Green", " Head", " Vale", " Bridge"))


def _company(writer: Writer) -> str:
    kinds = ("Works", "Group", "Partners", "Industries", "Brothers", "Systems", "Trading", "Laboratories", "Holdings")
    return f"{writer.word('company')} {writer.pick(kinds)}"


def _date(writer: Writer) -> str:
    return f"{writer.integer(1, 28)} {writer.pick(MONTHS)} {writer.integer(1841, 2019)}"


SLOTS: dict[str, Callable[[Writer], str]] = {
    "person": _person,
    "surname": lambda writer: writer.word("surname"),
    "place": _place,
    "company": _company,
    "date": _date,
    "product": lambda writer: writer.word("product"),
    "analyte": lambda writer: writer.word("analyte"),
    "river": lambda writer: writer.word("river"),
    "domain": lambda writer: writer.word("company").lower(),
    "adjective": lambda writer: writer.pick(ADJECTIVES),
    "material": lambda writer: writer.pick(MATERIALS),
    "creature": lambda writer: writer.pick(CREATURES),
    "thing": lambda writer: writer.pick(THINGS),
    "Adjective": lambda writer: writer.pick(ADJECTIVES).capitalize(),
    "Material": lambda writer: writer.pick(MATERIALS).capitalize(),
    "Creature": lambda writer: writer.pick(CREATURES).capitalize(),
    "Thing": lambda writer: writer.pick(THINGS).capitalize(),
    "month": lambda writer: writer.pick(MONTHS),
    "year": lambda writer: str(writer.integer(1871, 2019)),
    "few": lambda writer: writer.pick(("three", "four", "five", "six", "seven", "nine", "ten", "twelve")),
}


def compiled(template: str) -> Template:
    """The template's literal parts and, for its slots, functions that draw their text."""
    parts: list[Part] = []
    for literal, slot in re.findall(r"([^{]*)(?:{([^}]*)})?", template):
        parts += [literal] if literal else []
        if "|" in slot:
            parts.append(_alternatives(tuple(slot.split("|"))))
        elif slot.startswith(("#", "@")):
            parts.append(_pattern(slot))
        elif slot:
            parts.append(SLOTS.get(slot) or _from_cast(slot))
    return tuple(parts)


def compiled_all(templates: Mapping[str, str]) -> dict[str, Template]:
    return {name: compiled(template) for name, template in templates.items()}


def compiled_lines(lines: str) -> tuple[Template, ...]:
    """One template a line."""
    return tuple(compiled(" ".join(line.split())) for line in lines.strip().splitlines())


def _alternatives(options: tuple[str, ...]) -> Callable[[Writer], str]:
    return lambda writer: writer.pick(options)


def _pattern(pattern: str) -> Callable[[Writer], str]:
    runs = re.findall(r"#+|@+|[^#@]+", pattern)

    def draw(writer: Writer) -> str:
        drawn = ""
        for run in runs:
            if run[0] == "#":
                drawn += str(writer.integer(10 ** (len(run) - 1), 10 ** len(run) - 1))
            elif run[0] == "@":
                drawn += "".join([writer.pick(LETTERS) for _ in run])
            else:
                drawn += run
        return drawn

    return draw


def _from_cast(name: str) -> Callable[[Writer], str]:
    return lambda writer: writer.cast[name]


class Prose:
    """The sentences of one document, none of them twice, by theme."""

    def __init__(self, writer: Writer, themes: Mapping[str, Sequence[Template]]) -> None:
        self.writer = writer
        self.left = {theme: writer.shuffled(templates) for theme, templates in themes.items()}

    def sentence(self, theme: str) -> str:
        """One about the theme, or about the theme with most to say when that one has no more."""
        left = self.left[theme] or max(self.left.values(), key=len)
        return self.writer.fill(left.pop())
