"""`mini_swde`: pages about invented towns, companies, athletes and so on, as one line of text taken off a web page.

Groups of fields, each a key and its value with nothing or a colon between them, stand among prose about the subject,
with names and numbers that are nobody's answer.
"""

from dataclasses import dataclass

from .pages_prose import COMMON, TOPICS
from .words import Prose, Template, Writer, compiled, compiled_all

# Of every topic.
COMMON_FIELDS = {
    "Website": "www.{domain}-{material}.example",
    "Archive code": "{@@@}-{####}",
    "Page editor": "{person}",
    "Last revised": "{date}",
}


@dataclass(frozen=True)
class Topic:
    """A kind of subject: its invented name, the page's title around that name, the article it takes within prose."""

    name: Template
    title: Template
    the: str
    fields: dict[str, Template]
    prose: tuple[Template, ...]


def _topic(topic: str, name: str, title: str, the: str, fields: dict[str, str]) -> Topic:
    return Topic(compiled(name), compiled(title), the, compiled_all({**fields, **COMMON_FIELDS}), TOPICS[topic])


TOPIC_LIST = (
    _topic(
        "town",
        "{place}",
        "{name} {town profile|local guide|town and district|parish pages}",
        "",
        {
            "Founded": "{date}",
            "Mayor": "{person}",
            "Area": "{###.##} km2",
            "Population": "{##},{###}",
            "Elevation": "{###.#} m",
            "Postal code": "{@@#} {#@@}",
            "Dialling code": "0{##} {####}",
            "Twin town": "{place}",
            "Main river": "{river}",
            "Newspaper": "The {place} {Courier|Gazette|Herald|Messenger|Observer}",
            "Railway station": "{surname} {Junction|Halt|Road|Street}",
            "Town hall architect": "{person}",
            "Coat of arms": "{silver|golden|black|red|blue} {creature} below {adjective} {thing}",
            "Local dish": "{smoked|baked|pickled|stewed} {creature} with {material} {buds|bark|honey|seeds|sap}",
        },
    ),
    _topic(
        "company",
        "{company}",
        "{name} {company profile|business register|corporate information}",
        "",
        {
            "Established": "{date}",
            "Founder": "{person}",
            "Headquarters": "{place}",
            "Chief executive": "{person}",
            "Revenue": "{###.##} million crowns",
            "Employees": "{##},{###}",
            "Parent company": "{company}",
            "Main product": "{adjective} {material} {thing} {fittings|covers|frames|handles|linings}",
            "Stock symbol": "{@@@@@}",
            "Auditor": "{company}",
            "Company number": "{##-####-##}",
            "Slogan": "{Adjective} {thing}s for {adjective} {creature}s",
            "Leading brand": "{product}",
            "Largest plant": "{place}",
        },
    ),
    _topic(
        "athlete",
        "{person}",
        "{name} {runner profile|athlete biography|career overview}",
        "",
        {
            "Born": "{date}",
            "Birthplace": "{place}",
            "Coach": "{person}",
            "Training base": "{place}",
            "Debut": "{date}",
            "Marathon best": "2 h {0|1|2|3|4|5}{#} min {1|2|3|4|5}{#.#} s",
            "Career points": "{##},{###}",
            "Licence number": "{@@######}",
            "Nickname": "The {Adjective} {Material} {Creature}",
            "Sponsor": "{company}",
            "Greatest rival": "{person}",
            "Agent": "{person}",
            "Home ground": "{surname} {Park|Road|Field|Lane|Arena}",
            "Prize money": "{###,###} crowns",
        },
    ),
    _topic(
        "film",
        "The {Adjective} {Thing} of {place}",
        "{name} {film information|cast and crew|cinema database}",
        "",
        {
            "Directed by": "{person}",
            "Produced by": "{person}",
            "Written by": "{person}",
            "Music by": "{person}",
            "Starring": "{person}",
            "Release date": "{date}",
            "Running length": "{####.#} metres",
            "Budget": "{#.###} million crowns",
            "Box office": "{##.##} million crowns",
            "Distributor": "{company}",
            "Filmed in": "{place}",
            "Working title": "{Adjective} {Material} {Creature}",
            "Certificate": "{@#####}",
            "Based on": "{adjective} {thing} poem by {surname}",
        },
    ),
    _topic(
        "river",
        "{river}",
        "River {name} {course and data|water survey|river guide}",
        "the ",
        {
            "Source": "Mount {surname}",
            "Mouth": "{surname} {Bay|Sound|Lagoon|Inlet|Delta}",
            "Length": "{###.##} km",
            "Basin size": "{##},{###} km2",
            "Discharge": "{###.##} m3/s",
            "Left tributary": "{river}",
            "Right tributary": "{river}",
            "Largest lake": "Lake {surname}",
            "First surveyed": "{date}",
            "Surveyed by": "{person}",
            "Gauge station": "{@@-####}",
            "Longest bridge": "{surname} {Bridge|Viaduct|Crossing|Causeway}",
            "Ferry operator": "{company}",
            "Protected species": "{adjective} {material} {creature}",
        },
    ),
    _topic(
        "club",
        "{place} {Rovers|Wanderers|Athletic|Rangers|Albion}",
        "{name} {club profile|fixtures and facts|members' page}",
        "",
        {
            "Formed": "{date}",
            "Ground": "{surname} {Park|Road|Field|Lane|Arena}",
            "Capacity": "{##},{###}",
            "Chairman": "{person}",
            "Manager": "{person}",
            "Captain": "{person}",
            "League": "{place} {Premier|Northern|Southern|Combined} Division",
            "Record attendance": "{##},{###}",
            "Kit maker": "{company}",
            "Colours": "{amber|slate|crimson|lilac|ivory} and {navy|olive|rust|cream} with {adjective} {thing}",
            "Mascot": "{Adjective} {creature} with {material} {thing}",
            "Record scorer": "{person}",
            "Youth academy": "{place}",
            "Supporters' magazine": "The {Adjective} {Material} {Thing}",
        },
    ),
    _topic(
        "instrument",
        "{river} {cello|lute|viol|harp|zither|mandolin}",
        "{name} {museum catalogue|instrument record|collection entry}",
        "the ",
        {
            "Maker": "{person}",
            "Completed": "{date}",
            "Workshop": "{place}",
            "Soundboard": "{adjective} {steamed|oiled|waxed|smoked|carved} {material} with {material} inlay",
            "Serial number": "{##-#####}",
            "Owner": "{company}",
            "Tuning": "{###.##} Hz",
            "Weight": "{#.###} kg",
            "Body length": "{###.#} mm",
            "Restored by": "{person}",
            "First player": "{person}",
            "Purchase price": "{###,###} crowns",
            "Case": "{adjective} {material} with {adjective} {material} clasps",
            "Carved head": "{adjective} {creature} holding {adjective} {thing}",
        },
    ),
    _topic(
        "ship",
        "{river} {Star|Rose|Queen|Pride|Spirit}",
        "{name} {ship register|vessel details|fleet list}",
        "the ",
        {
            "Builder": "{company}",
            "Launched": "{date}",
            "Master": "{person}",
            "Home port": "{place}",
            "Tonnage": "{##},{###} tons",
            "Length overall": "{###.##} m",
            "Engine": "{product} {###}",
            "Call sign": "{@@@@#}",
            "Operator": "{company}",
            "Usual cargo": "{adjective} {material} {thing}s",
            "Top speed": "{##.###} knots",
            "Insurer": "{company}",
            "Sister ship": "{river} {Star|Rose|Queen|Pride|Spirit}",
            "Yard number": "{@-####}",
        },
    ),
)


def draft(writer: Writer) -> tuple[str, str, list[tuple[str, str]]]:
    """Title, text (which begins with the title) and (key, value) pairs in their order of a new page."""
    topic = writer.pick(TOPIC_LIST)
    name = writer.fill(topic.name)
    writer.cast = {
        "name": name,
        "it": topic.the + name,
        "It": topic.the.capitalize() + name,
        "scholar": f"{writer.word('first name')} {writer.word('surname')}",
        "scholar2": f"{writer.word('first name')} {writer.word('surname')}",
        "writer": writer.word("surname"),
        "town": writer.word("place"),
        "town2": writer.word("place"),
        "firm": writer.word("company"),
    }
    title = writer.fill(topic.title)
    keys = writer.shuffled(list(topic.fields))[: writer.integer(12, 16)]
    colon, most = writer.pick(("", "", ":")), writer.integer(2, 4)
    prose = Prose(writer, {"topic": topic.prose, "common": COMMON})
    length, text, facts = writer.integer(3200, 6200), title, list[tuple[str, str]]()
    while len(facts) < len(keys):
        for key in keys[len(facts) : len(facts) + writer.integer(1, most)]:
            value = writer.value(topic.fields[key])
            facts.append((key, value))
            text += f" {key}{colon} {value}"
        # So long that the groups' middles stand evenly over the page, more or less.
        until = length * min(1, (len(facts) + 0.3 * most * writer.random()) / len(keys))
        while len(text) < until:
            text += f" {prose.sentence('topic' if writer.random() < 0.3 else 'common')}"
    return title, text, facts
