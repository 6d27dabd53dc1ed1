"""Classes of words that say where the reach of a negation ends. Data only."""

from enum import Enum
from functools import cache

from flux_mcp.compose.audit.inflection import forms, words

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


HEDGES: tuple[str, ...] = (
    "not only",
    "not just",
    "not merely",
    "not simply",
    "not solely",
    "not exclusively",
    "not purely",
    "not limited to",
    "not to mention",
    "not least",
    "not necessarily",
    "not always",
    "not all",
    "not every",
    "not everyone",
    "not everybody",
    "not many",
    "not much",
    "not too many",
    "not too much",
    "not so many",
    "not that many",
    "not very many",
    "not a lot of",
    "not lots of",
    "not a few",
    "not few",
    "not more than",
    "not less than",
    "not fewer than",
    "not far",
    "not quite",
    "not exactly",
    "not unlike",
    "not until",
    "not enough",
    "not so much",
    "not afraid of",
    "not afraid to",
    "not get enough of",
    "not help but",
    "not no",
    "not hide",
    "not mind",
    "not stop",
    "never stop",
    "never stops",
    "not conceal",
    "not obscure",
    "if not",
    "or not",
    "why not",
    "never mind",
    "never enough",
    "no lack of",
    "no shortage of",
    "no dearth of",
    "no scarcity of",
    "no end of",
    "no end to",
    "no limit to",
    "no few",
    "no fewer",
    "no less",
    "no fewer than",
    "no less than",
    "no more than",
    "no other than",
    "none other than",
    "no matter",
    "no doubt",
    "no question",
    "no wonder",
    "no problem with",
    "no sooner",
    "no ordinary",
    "no mere",
    "no small",
    "no stranger to",
    "no time",
    "no two",
    "no nonsense",
    "no frills",
    "nothing but",
    "nothing short of",
    "nothing less than",
    "nothing more than",
    "without a doubt",
    "without doubt",
    "without question",
    "without fail",
    "without exception",
    "without warning",
    "without hesitation",
    "without limit",
    "without limits",
    "without end",
    "with or without",
    "sans serif",
    "little or no",
    "little to no",
    "few or no",
    "next to no",
    "few to no",
    "no or few",
    "no or little",
    "zero to",
    "zero or",
    "no change to",
    "no changes to",
    "hard to avoid",
    "difficult to avoid",
)


class Sort(Enum):
    """What a cue does to the words behind it."""

    DETERMINER = "determiner"
    """Negates the things named next: "no", "zero"."""
    LEXICAL = "lexical"
    """The same, and an outer negation turns it over: "not without" affirms."""
    VERB = "verb"
    """As lexical, and it governs whole lists: "avoid text, people, logos"."""
    PREDICATE = "predicate"
    """Negates what is said in the rest of the clause: "not", "never"."""
    EXCEPTION = "exception"
    """Names what is left after a negation, or missing after an "everything"."""
    HEDGE = "hedge"
    """Looks like a negation and is none: "not only", "no shortage of", "hardly any"."""
    ASIDE = "aside"
    """Changes nothing and is no thing in the picture: "at all", "in sight"."""
    PLACE = "place"
    """The same, but it leaves other places: "in the background"."""
    EXAMPLE = "example"
    """Carries on with what is being said: "such as", "not even"."""
    AND = "and"
    OR = "or"


Phrase = list[str]

_ROWS: dict[Sort, tuple[str, ...]] = {
    Sort.DETERMINER: (
        "no",
        "no more",
        "no to",
        "zero",
        "0",
        "non",
        "nary a",
        "none of",
        "is not no",
        "not a",
        "not an",
        "not any",
        "not one",
        "not a single",
        "neither",
        "nothing",
        "nobody",
        "nonexistent",
        "non existent",
    ),
    Sort.LEXICAL: (
        "without",
        "sans",
        "minus",
        "free of",
        "free from",
        "devoid of",
        "void of",
        "empty of",
        "emptied of",
        "vacant of",
        "bare of",
        "barren of",
        "bereft of",
        "clean of",
        "clear of",
        "cleared of",
        "stripped of",
        "purged of",
        "drained of",
        "rid of",
        "lack",
        "lacks",
        "lacking",
        "lacking in",
        "lack of",
        "absence of",
        "absent of",
        "absent any",
        "absent the",
        "exclusion of",
        "removal of",
        "elimination of",
        "omission of",
        "ban on",
        "blank of",
        "exempt from",
        "instead of",
        "rather than",
        "in place of",
        "in lieu of",
        "as opposed to",
        "anything but",
        "everything but",
        "uninhabited by",
        "unoccupied by",
        "unpopulated by",
        "untouched by",
        "undisturbed by",
        "unspoiled by",
        "unspoilt by",
        "unmarked by",
        "unmarred by",
        "uncluttered by",
        "unobstructed by",
        "unadorned by",
        "unadorned with",
    ),
    Sort.VERB: (
        "avoid",
        "exclude",
        "omit",
        "remove",
        "eliminate",
        "erase",
        "delete",
        "leave out",
        "leave off",
        "crop out",
        "edit out",
        "filter out",
        "rule out",
        "keep out",
        "keep away",
        "get rid of",
        "do away with",
        "dispense with",
        "stay away from",
        "stay clear of",
        "steer clear of",
        "refrain from",
        "abstain from",
        "shy away from",
        "fail to",
        "refuse to",
        "hesitate to",
        "forget",
        "prevent",
        "prohibit",
        "forbid",
        "disallow",
        "eschew",
        "shun",
        "suppress",
        "hide all",
        "hide any",
        "hide the",
        "replace",
        "escape",
    ),
    Sort.PREDICATE: (
        "not",
        "never",
        "nowhere",
        "no longer",
        "impossible to",
        "unable to",
        "by no means",
        "in no way",
        "under no circumstances",
        "at no point",
        "at no time",
        "on no account",
    ),
    Sort.EXCEPTION: (
        "except",
        "except for",
        "excepting",
        "with the exception of",
        "other than",
        "apart from",
        "aside from",
        "save for",
        "besides",
        "but for",
        "beyond",
        "outside of",
    ),
    Sort.HEDGE: HEDGES,
    Sort.ASIDE: (
        "at all",
        "so much as",
        "whatsoever",
        "anywhere",
        "of any kind",
        "of any sort",
        "of any type",
        "of any form",
        "in any form",
        "in any way",
        "under any circumstances",
        "in particular",
        "in sight",
        "in view",
        "in frame",
        "in shot",
        "in it",
        "on it",
        "in them",
        "on them",
        "to be seen",
        "to be found",
        "in the composition",
        "in the frame",
        "in the image",
        "in the photo",
        "in the picture",
        "in the scene",
        "in the shot",
    ),
    Sort.PLACE: (
        "nearby",
        "in the background",
        "in the foreground",
        "in the distance",
    ),
    Sort.EXAMPLE: (
        "such as",
        "for example",
        "for instance",
        "eg",
        "ie",
        "like",
        "including",
        "especially",
        "particularly",
        "specifically",
        "namely",
        "even",
        "not even",
        "let alone",
        "much less",
    ),
    Sort.AND: ("and", "plus", "as well as", "along with", "together with"),
    Sort.OR: ("or", "nor"),
}


LONGEST = 6
"""Words in the longest row, and some more."""


@cache
def table() -> dict[str, tuple[tuple[Phrase, Sort], ...]]:
    """Return every cue by its first word, longest first; verbs in their active forms."""
    found: dict[str, list[tuple[Phrase, Sort]]] = {}
    for sort, phrases in _ROWS.items():
        for phrase in phrases:
            first, *rest = phrase.split()
            for one in _active(first) if sort is Sort.VERB else (first,):
                found.setdefault(one, []).append(([one, *rest], sort))
    return {
        first: tuple(sorted(found_here, key=lambda row: -len(row[0])))
        for first, found_here in found.items()
    }


def _active(verb: str) -> set[str]:
    """Return the forms that take an object: "omitted text" and "the forbidden city" do not."""
    return {form for form in forms(verb) if form == verb or form.endswith(("s", "ing"))}


def rows(sort: Sort) -> tuple[str, ...]:
    """Return the rows of a sort, as they are written above."""
    return _ROWS[sort]
