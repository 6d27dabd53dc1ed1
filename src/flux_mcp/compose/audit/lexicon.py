"""Classes of words that say where the reach of a negation ends. Data only."""

from functools import cache

from flux_mcp.compose.audit.inflection import forms
from flux_mcp.compose.audit.wordlists import words

BOUNDARIES = words("""
    although as because but how however if instead just merely only rather simply since so then
    though unless until what when whenever where whereas wherever while whilst why yet
""")
"""They begin another clause: "no cars but people"."""

RELATIVES = words("that which who whom whose")
"""They begin a clause about the word before: "no people who look at the camera"."""

PRONOUNS = words("he i she they we you")
"""They begin a clause of their own; "it" may be an object."""

PREPOSITIONS = words("""
    above across against along alongside amid amidst among amongst around at atop before behind
    below beneath beside between by during for from in inside into near on onto opposite outside
    over past per through throughout toward towards under underneath upon via within after about
    than
""")
"""What follows is a place or a circumstance, and is there: "no people in the street"."""

TRANSPARENT_BEFORE_FOR = words("need needs place reason room space use")
"""With "for" behind them they hand the negation on: "no room for people"."""

DEFINITE = words("her his its my our that the their these this those your")
"""What they name is known, so it is there: "no people watching the parade"."""

DETERMINERS = DEFINITE | words("a all an any both every")
"""Where a list began with one, they begin its items too: "remove the people, the cars"."""

ARTICLES = words("a an another each every one that the this")
"""Before "no" they make it part of a name: "a no smoking sign"."""

AFFIRMING = words("""
    a all also an another are both bunch bunches couple countless crowds dozens eight each every
    few five four groups he heaps here his her hundreds i instead is it its just lots loads many
    maybe more most much my nine numerous one only our perhaps piles plenty rather row rows
    seven several she simply six some stacks ten tens that the their there these they this those
    thousands three tons two various was we were while with you your
""")
"""First words of an item that begins something new: "no cars, a crowd of people"."""

COMMANDS = words("""
    add allow create depict display draw feature fill focus give have include insert keep let
    make place paint please portray put render show use
""")
"""First words of a new instruction: "no cars, show people"."""

SHOWING = words("""
    add contain create depict display draw feature generate have illustrate include insert paint
    place portray put render see show want
""")
"""Behind "not", these govern all of their object: "do not show streets with people"."""

PRESENCE = SHOWING | words("""
    accept allow bear carry conceive get hold imagine keep leave let need permit picture present
    print reveal think type use wear write
""")
"""Behind "not", these deny even a known thing: "do not use the logo"."""

CHANGING = words("""
    affect alter blur change cover crop damage darken deform disturb distort edit enlarge harm
    modify move obscure overlap recolor recolour reshape resize rotate shrink touch warp
""")
"""Behind a negation, these keep their object: "do not change the text"."""

FULL = words("""
    bustling covered crammed crowded filled full lined overflowing packed populated surrounded
    swarming teeming
""")
"""Behind a negated thing they begin what is said of the rest: "no cars, full of people"."""

QUANTITIES = words("lot lots many much")
"""Behind a negation they leave some: "without many people"."""

FILLING = words("""
    adorn brand clutter cover cram crowd decorate fill label line litter mark mix overlay pack
    populate print stamp surround team
""")
"""They take their object through "with" or "by": "not filled with people"."""

CONTAINERS = words("""
    anything area clip composition depiction design distraction drawing element evidence glimpse
    graphic hint illustration image item material nothing object painting photo photograph
    picture piece portrait product render rendering scene shot sign sort subject thing trace
    type version view
""")
"""Of them, what is in them matters: "no images with people", "no pictures showing text"."""

CONTAINING = words("bearing carrying containing depicting displaying featuring including showing")
"""As "with", behind a container."""

UNIVERSALS = words("all any anybody anyone anything every everybody everyone everything whole")
"""Before an exception they make it a negation: "everything except people"."""

APPROXIMATORS = words("""
    almost barely fairly hardly largely mostly nearly partially partly practically rarely
    relatively scarcely seldom somewhat virtually
""")
"""Before a negation they leave something over: "almost no people"."""

ANY = words("any anybody anyone anything ever")
"""They are negated wherever they stand behind a negation: "do not put in any people"."""

NEUTRAL = words("""
    a about absolutely actual actually additional all allowed an any anyone anything appear
    appearing are at be being big clear clearly detectable discernible distracting displayed
    either ever extra extraneous further identifiable in included is kind large legible more of
    obvious other present prominent readable real recognisable recognizable shown single small
    some sort the there this to unwanted unnecessary visible whatever whatsoever
""")
"""Words in a negated phrase that do not narrow what is negated: "no visible people"."""

NARROWING = words("additional another else extra further more other")
"""They leave one that is not negated: "no other people"."""

BAN_WORDS = words("""
    camping diving dumping entry fishing hunting littering loitering parking phone photography
    smoking standing stopping swimming trespassing
""")
SIGN_WORDS = words("""
    notice notices placard placards poster posters sign signs signage sticker stickers symbol
    symbols zone zones
""")
"""A ban word and a sign word after "no" name a sign: "no parking sign"."""

NOUNS_IN_ING = words("""
    advertising awning blessing branding building carving ceiling clothing coating covering
    drawing earring etching evening feeling flooring greeting handwriting heading icing king
    landing lettering lighting lightning lining living marking meeting morning nothing offering
    opening outing packaging painting piping plaything printing railing ring saying setting
    shading sibling sling something spelling spring stamping stitching string styling swing
    thing tubing viking watermarking wedding wing wording writing
""")
"""Words in -ing that name things: in "no text, drawings" nothing is being done."""

_DOINGS = words("""
    appear arrive attend bathe browse carry chat cheer clap climb come cook cycle dance dine
    drink drive eat enjoy enter fight float fly follow gather gaze go hang hold hug hurry jog
    jump kneel laugh lean leave lie linger listen live march meet mingle move pass pause play
    pose queue read relax ride run rush sell shop shout sing sit sleep smile stand stare stroll
    swim talk vanish wait walk wander watch wave wear work
""")
_NOT_AS_VERBS = words("cooks drives drinks dances fights flies plays poses watches waves works")

COPULAS = words("am are be been being is was were")
AUXILIARIES = COPULAS | words(
    "can could did do does had has have may might must shall should will would"
)

HEADER_WORDS = words("""
    add allowed any be contain depict do draw elements following have include included items
    list must never of please prompt prompts render should show shown strictly subjects the
    these things use visible want wanted
""")
HEADER_NEGATIONS = words("""
    absent missing avoid banned disallowed don'ts donts exclude excluded exclusions forbidden
    negative negatives no not omit prohibited remove undesired unwanted without
""")
"""Words in front of a colon that negate the list behind it: "Not allowed: people, text"."""

COMMONLY_EXCLUDED: tuple[frozenset[str], ...] = (
    words("""
        border brand branding caption copyright emblem frame graphic headline icon label
        letter lettering logo mark number overlay sign signage signature stamp subtitle
        symbol text title trademark typography url username watermark word writing
    """),
    words("""
        animal child crowd face figure hand human man pedestrian people person pet passer-by
        tourist woman worker
    """),
    words("bicycle bike bus car motorcycle scooter traffic train truck van vehicle"),
    words("""
        artefact artifact banding blur clutter deformity distortion error glare glitch grain
        limb noise overexposure reflection shadow
    """),
    words("blood gore gun knife nudity violence weapon"),
)
"""What prompts exclude, by family: in "no text, logos, sunny sky" the logos are excluded too."""


@cache
def family_of() -> dict[str, int]:
    """Return the number of its family for every form of a commonly excluded word."""
    return {
        form: number
        for number, family in enumerate(COMMONLY_EXCLUDED)
        for word in family
        for form in forms(word)
    }


@cache
def doings() -> frozenset[str]:
    """Return forms that make a clause of a noun before them: "people walk", "people gathered"."""
    return frozenset().union(*(forms(verb) for verb in _DOINGS)) - _NOT_AS_VERBS


@cache
def filling() -> frozenset[str]:
    """Return every form of the verbs of filling."""
    return frozenset().union(*(forms(verb) for verb in FILLING))


@cache
def presence() -> frozenset[str]:
    """Return every form of the verbs of presence."""
    return frozenset().union(*(forms(verb) for verb in PRESENCE))


@cache
def changing() -> frozenset[str]:
    """Return the verbs of change as they stand before an object: "change", "changing"."""
    return CHANGING | {form for verb in CHANGING for form in forms(verb) if form.endswith("ing")}


@cache
def containers() -> frozenset[str]:
    """Return the containers, one and many."""
    return frozenset().union(*(forms(noun) for noun in CONTAINERS))


def is_doing(word: str) -> bool:
    """Return whether a word behind a noun says what the thing does."""
    if word.endswith("ing"):
        return word not in NOUNS_IN_ING
    return word in doings()
