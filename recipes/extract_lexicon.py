"""Draw the name pools of the `extract` task and write them as its lexicon.

Faker knows names of many countries but is slow and large, so it is needed here and never at run
time. The draw is seeded: the same faker release writes the same file.

    python recipes/extract_lexicon.py [--out src/gesso/tasks/extract/lexicon.json]
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Callable
from pathlib import Path

from faker import Faker

SEED = 20260314

# Languages whose addresses put the house number before the street ("12 Hill Road").
NUMBER_FIRST = ("en_US", "en_GB", "en_AU", "en_IE", "en_CA", "en_IN", "en_NZ", "fil_PH", "fr_FR")
NUMBER_AFTER = (
    "de_DE", "es_ES", "es_MX", "it_IT", "pt_BR", "pt_PT", "nl_NL", "pl_PL", "sv_SE", "da_DK",
    "fi_FI", "no_NO", "cs_CZ", "tr_TR", "ro_RO", "hu_HU", "hr_HR", "sk_SK", "sl_SI", "lt_LT",
)  # fmt: skip
NAMES_ONLY = ("yo_NG", "ig_NG", "ha_NG", "zu_ZA", "id_ID", "vi_VN", "et_EE", "en_KE")

LATIN = re.compile(r"[A-Za-zÀ-ÖØ-öø-ɏḀ-ỿ][A-Za-zÀ-ÖØ-öø-ɏḀ-ỿ '.&,\-]+")
# Names that a careful reader could take for a date, a title or another word of a sentence.
CONFUSING = """April May June August Summer Autumn Tuesday Friday Will Mark Miss Prince Sunday
Monday"""
LIMITS = {"first": 12, "last": 15, "cities": 17, "streets": 22, "streets_after": 22, "firms": 26}

STREET_WORDS = """Elm Oak Hill King Queen Mill Church Station Park Bridge High Market River Garden
Orchard Chapel Castle Spring School Maple Cedar Birch Willow Chestnut Victoria
Albert Green North South West East Lake Meadow Forest Rose Abbey Harbour Quarry
Windmill Cherry Walnut Union Liberty Washington Lincoln Franklin Jubilee Priory
Manor Grange Baker Cooper Tanner Fisher Weaver"""
STREET_TYPES = """Street Road Lane Avenue Drive Close Way Court Place St Rd Ave Crescent Terrace
Square"""
BIG_CITIES = """\
London,Leeds,Bristol,Glasgow,Cardiff,Dublin,Cork,Oxford,York,Bath,Manchester,
Liverpool,Edinburgh,Paris,Lyon,Nantes,Berlin,Hamburg,Munich,Cologne,Vienna,Zurich,
Geneva,Basel,Madrid,Seville,Valencia,Lisbon,Porto,Rome,Milan,Turin,Naples,
Amsterdam,Utrecht,Rotterdam,Brussels,Ghent,Antwerp,Copenhagen,Oslo,Bergen,Stockholm,
Malmö,Helsinki,Tampere,Warsaw,Prague,Brno,Budapest,Bucharest,Athens,Istanbul,Ankara,
Cairo,Lagos,Accra,Nairobi,Cape Town,Durban,Mumbai,Delhi,Pune,Chennai,Singapore,
Manila,Bangkok,Hanoi,Jakarta,Tokyo,Osaka,Seoul,Taipei,Sydney,Perth,Brisbane,
Auckland,Wellington,Toronto,Ottawa,Montreal,Calgary,Boston,New York,Brooklyn,Chicago,
Denver,Austin,Dallas,Houston,Seattle,Portland,San Francisco,San Diego,Oakland,
Phoenix,Miami,Atlanta,Tampa,Memphis,Detroit,Cleveland,Springfield,Mexico City,Bogotá,
Lima,Quito,Santiago,Buenos Aires,São Paulo,Recife,Rio de Janeiro,Kyiv,Riga,Tallinn,
Vilnius,Zagreb,Ljubljana,Sofia,Belgrade,Reykjavik,Galway,Belfast,Dundee,Norwich,
Reading,Brighton,Exeter,Plymouth,Nottingham,Sheffield,Derby,Leicester,Coventry,
Cambridge,Preston"""
ITALIAN_TOWNS = """Bologna,Genova,Verona,Padova,Trieste,Siena,Lucca,Pisa,Perugia,Ancona,Pescara,
Bari,Lecce,Matera,Catania,Palermo,Ragusa,Cagliari,Sassari,Bergamo,Brescia,Como,Mantova,Cremona,Parma,
Modena,Ferrara,Ravenna,Rimini,Arezzo,Orvieto,Viterbo,Latina,Salerno,Amalfi,Treviso,Udine,Aosta"""
FIRM_HEADS = """\
Blue Heron,Red Door,Northgate,Brightwater,Silver Birch,Old Mill,Green Leaf,Ironbridge,
Lighthouse,Evergreen,Summit,Harbour,Acme,Initech,Globex,Umbra,Vertex,Nimbus,Orchard,
Redwood,Falcon,Pinnacle,Sunrise,Bluebird,Stonefield,Riverside,Copper Kettle,
Golden Gate,Two Rivers,High Street,Kingfisher,Meridian,Atlas,Polaris,Zenith,Quantum,
Cobalt,Juniper,Saffron,Marigold,Foxglove,Hawthorn,Westfield,Eastbrook,Clearview,
Brookside,Oakwood,Maple Leaf,Granite,Keystone,Beacon,Compass,Anchor,Delta,Omega,
Helix,Pixel,Lumen,Vector,Tandem,Origin,Canopy,Sparrow,Magpie,Badger,Otter,Wren"""
FIRM_TAILS = """\
Bakery,Logistics,Dental,Dental Care,Plumbing,Ltd,Inc,Inc.,LLC,GmbH,Studio,Studios,
Design,Foods,Catering,Motors,Electrical,Consulting,Partners,Group,Labs,Systems,
Software,Coffee,Cafe,Books,Hardware,Hotel,Clinic,Physiotherapy,Vets,Optics,
Interiors,Flowers,Print,Media,Energy,Legal,Accounting,Insurance,Bank,Construction,
Roofing,Landscaping,Cleaning,Security,Travel,Primary School,High School,Gym,Salon,
Pharmacy,Brewery,Bikes,Tech,Textiles,Furniture,Robotics,Co.,& Co,Pty Ltd,plc"""


def fits(text: str, pool: str) -> bool:
    """Latin letters only, not too long for a short answer, and not a confusing word."""
    if not (LATIN.fullmatch(text) and 2 < len(text) <= LIMITS[pool]):
        return False
    confusing = set(CONFUSING.split()).intersection(text.replace(",", " ").split())
    return not confusing and (pool == "firms" or "&" not in text)


def draw(locale: str, method: str, pool: str, count: int) -> set[str]:
    """Up to `count` distinct names of one locale; nothing where the locale lacks the method."""
    faker = Faker(locale)
    faker.seed_instance(f"{SEED}:{locale}:{method}")
    make: Callable[[], str] | None = getattr(faker, method, None)
    names: set[str] = set()
    for _ in range(count * 4):
        if make is None or len(names) == count:
            break
        try:
            text = " ".join(make().split())
        except Exception:  # a locale may declare a provider whose parts are missing
            break
        if fits(text, pool):
            names.add(text[0].upper() + text[1:] if pool != "streets" else text)
    return names


def made_firms(rng: random.Random, count: int) -> set[str]:
    """English firm names of two halves: faker's own are nearly all surnames."""
    heads = [h.strip() for h in FIRM_HEADS.replace("\n", "").split(",")]
    tails = [t.strip() for t in FIRM_TAILS.replace("\n", "").split(",")]
    pairs = [f"{head} {tail}" for head in heads for tail in tails]
    bare = [h for h in heads if " " not in h and h not in STREET_WORDS.split()]
    return {name for name in rng.sample(pairs, count) + bare if fits(name, "firms")}


def made_streets(rng: random.Random, count: int) -> set[str]:
    """English street names of ordinary words."""
    pairs = [f"{word} {kind}" for word in STREET_WORDS.split() for kind in STREET_TYPES.split()]
    return set(rng.sample(pairs, count))


def lexicon() -> dict[str, list[str]]:
    """All pools, sorted."""
    rng = random.Random(SEED)
    pools: dict[str, set[str]] = {name: set() for name in LIMITS}
    for locale in (*NUMBER_FIRST, *NUMBER_AFTER, *NAMES_ONLY):
        pools["first"] |= draw(locale, "first_name", "first", 70)
        pools["last"] |= draw(locale, "last_name", "last", 95)
        if locale in NAMES_ONLY:
            continue
        if locale != "it_IT":  # its towns are a set: another order, and draw, in each process
            pools["cities"] |= draw(locale, "city", "cities", 45)
        pools["firms"] |= draw(locale, "company", "firms", 40)
        streets = "streets" if locale in NUMBER_FIRST else "streets_after"
        pools[streets] |= draw(locale, "street_name", streets, 45)
    pools["cities"] |= {c.strip() for c in BIG_CITIES.replace("\n", "").split(",")}
    pools["firms"] |= made_firms(rng, 700)
    pools["streets"] |= made_streets(rng, 450)
    pools["cities"] |= {c.strip() for c in ITALIAN_TOWNS.split(",")}
    # A firm or a town that could as well be a person would make a sentence ambiguous.
    people = pools["first"] | pools["last"]
    pools["cities"] -= people
    bare = {head.strip() for head in FIRM_HEADS.replace("\n", "").split(",")}
    pools["firms"] = {
        firm
        for firm in pools["firms"]
        if firm in bare or (" " in firm and not people.issuperset(firm.split()))
    }
    return {name: sorted(entries) for name, entries in pools.items()}


def main() -> None:
    """Write the lexicon, one pool per line so that a diff stays readable."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path("src/gesso/tasks/extract/lexicon.json")
    parser.add_argument("--out", type=Path, default=default)
    out: Path = parser.parse_args().out
    pools = lexicon()
    lines = [f'"{k}": {json.dumps(v, ensure_ascii=False)}' for k, v in pools.items()]
    out.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(", ".join(f"{len(v)} {k}" for k, v in pools.items()), f"-> {out}")


if __name__ == "__main__":
    main()
