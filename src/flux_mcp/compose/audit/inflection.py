"""The inflected forms of an English word: plurals, verb forms, comparatives. Pure.

Forms are made from the forbidden word rather than looked for in the text: the forbidden words are
few and known beforehand. Made by rule, or taken from the irregular nouns and verbs; a form that no
one writes ("carred") does no harm, one that is another word does ("stared" for "star").
"""

import re
from functools import cache, lru_cache

from flux_mcp.compose.audit import inflection as special_forms


def words(text: str) -> frozenset[str]:
    """Return the words of a text as a set."""
    return frozenset(text.split())


PLURALS: dict[str, tuple[str, ...]] = {
    "alumnus": ("alumni",),
    "analysis": ("analyses",),
    "antenna": ("antennas", "antennae"),
    "appendix": ("appendices", "appendixes"),
    "atlas": ("atlases",),
    "axis": ("axes",),
    "bacterium": ("bacteria",),
    "basis": ("bases",),
    "beef": ("beefs", "beeves"),
    "bias": ("biases",),
    "bison": ("bison", "bisons"),
    "bookshelf": ("bookshelves",),
    "buffalo": ("buffaloes", "buffalos", "buffalo"),
    "bureau": ("bureaus", "bureaux"),
    "bus": ("buses", "busses"),
    "cactus": ("cacti", "cactuses"),
    "calf": ("calves",),
    "canvas": ("canvases", "canvasses"),
    "cello": ("cellos", "celli"),
    "chassis": ("chassis",),
    "child": ("children",),
    "codex": ("codices",),
    "corpus": ("corpora",),
    "crisis": ("crises",),
    "criterion": ("criteria",),
    "curriculum": ("curricula",),
    "deer": ("deer", "deers"),
    "die": ("dice", "dies"),
    "dwarf": ("dwarfs", "dwarves"),
    "elf": ("elves",),
    "ellipsis": ("ellipses",),
    "emphasis": ("emphases",),
    "epoch": ("epochs",),
    "fish": ("fish", "fishes"),
    "foot": ("feet",),
    "forefoot": ("forefeet",),
    "formula": ("formulas", "formulae"),
    "fresco": ("frescoes", "frescos"),
    "fungus": ("fungi", "funguses"),
    "gas": ("gases", "gasses"),
    "genus": ("genera",),
    "goose": ("geese",),
    "graffito": ("graffiti",),
    "grandchild": ("grandchildren",),
    "half": ("halves",),
    "hippopotamus": ("hippopotami", "hippopotamuses"),
    "hoof": ("hooves", "hoofs"),
    "housewife": ("housewives",),
    "hypothesis": ("hypotheses",),
    "index": ("indexes", "indices"),
    "iris": ("irises",),
    "jackknife": ("jackknives",),
    "kerchief": ("kerchiefs", "kerchieves"),
    "knife": ("knives",),
    "larva": ("larvae",),
    "leaf": ("leaves",),
    "lens": ("lenses",),
    "life": ("lives",),
    "loaf": ("loaves",),
    "louse": ("lice",),
    "matrix": ("matrices", "matrixes"),
    "medium": ("mediums", "media"),
    "midwife": ("midwives",),
    "monarch": ("monarchs",),
    "moose": ("moose",),
    "mouse": ("mice", "mouses"),
    "nebula": ("nebulae", "nebulas"),
    "nucleus": ("nuclei",),
    "oasis": ("oases",),
    "octopus": ("octopuses", "octopi"),
    "offspring": ("offspring", "offsprings"),
    "ovum": ("ova",),
    "ox": ("oxen",),
    "pancreas": ("pancreases",),
    "parenthesis": ("parentheses",),
    "passerby": ("passersby",),
    "patriarch": ("patriarchs",),
    "penknife": ("penknives",),
    "people": ("people", "peoples", "person", "persons"),
    "person": ("persons", "people", "peoples"),
    "phenomenon": ("phenomena",),
    "pocketknife": ("pocketknives",),
    "prosthesis": ("prostheses",),
    "quiz": ("quizzes",),
    "radius": ("radii", "radiuses"),
    "rhinoceros": ("rhinoceroses", "rhinoceros"),
    "salmon": ("salmon",),
    "scarf": ("scarves", "scarfs"),
    "schoolchild": ("schoolchildren",),
    "self": ("selves",),
    "sheaf": ("sheaves",),
    "sheep": ("sheep",),
    "shelf": ("shelves",),
    "shrimp": ("shrimp", "shrimps"),
    "squid": ("squid", "squids"),
    "stepchild": ("stepchildren",),
    "stimulus": ("stimuli",),
    "stomach": ("stomachs",),
    "stratum": ("strata",),
    "supernova": ("supernovae", "supernovas"),
    "swine": ("swine",),
    "synthesis": ("syntheses",),
    "terminus": ("termini",),
    "thesis": ("theses",),
    "thief": ("thieves",),
    "tooth": ("teeth",),
    "triptych": ("triptychs",),
    "trout": ("trout", "trouts"),
    "vertebra": ("vertebrae",),
    "vertex": ("vertices",),
    "vortex": ("vortices", "vortexes"),
    "werewolf": ("werewolves",),
    "wharf": ("wharves", "wharfs"),
    "wife": ("wives",),
    "wolf": ("wolves",),
}
"""Plurals. Where the singular is a plural of its own, or two are in use, all stand here."""


PAST: dict[str, tuple[str, ...]] = {
    "arise": ("arose", "arisen"),
    "awake": ("awoke", "awoken"),
    "babysit": ("babysat",),
    "bear": ("bore", "borne"),
    "beat": ("beaten",),
    "become": ("became",),
    "begin": ("began", "begun"),
    "bend": ("bent",),
    "bet": ("bet", "betted"),
    "bid": ("bade", "bidden"),
    "bind": ("bound",),
    "bite": ("bit", "bitten"),
    "bleed": ("bled",),
    "blow": ("blew", "blown"),
    "break": ("broke", "broken"),
    "breed": ("bred",),
    "bring": ("brought",),
    "build": ("built",),
    "burn": ("burned", "burnt"),
    "burst": ("burst", "bursted"),
    "buy": ("bought",),
    "cast": ("cast",),
    "catch": ("caught",),
    "choose": ("chose", "chosen"),
    "cling": ("clung",),
    "come": ("came",),
    "cost": ("cost",),
    "creep": ("crept",),
    "cut": ("cut",),
    "deal": ("dealt",),
    "dig": ("dug",),
    "dive": ("dived", "dove"),
    "do": ("did", "does", "done"),
    "draw": ("drew", "drawn"),
    "dream": ("dreamed", "dreamt"),
    "drink": ("drank", "drunk"),
    "drive": ("drove", "driven"),
    "eat": ("ate", "eaten"),
    "fall": ("fell", "fallen"),
    "feed": ("fed",),
    "feel": ("felt",),
    "fight": ("fought",),
    "find": ("found",),
    "fit": ("fit", "fitted"),
    "flee": ("fled",),
    "fling": ("flung",),
    "fly": ("flew", "flown"),
    "forbid": ("forbade", "forbidden"),
    "foresee": ("foresaw", "foreseen"),
    "forget": ("forgot", "forgotten"),
    "forgive": ("forgave", "forgiven"),
    "freeze": ("froze", "frozen"),
    "get": ("got", "gotten"),
    "give": ("gave", "given"),
    "go": ("went", "gone", "goes"),
    "grind": ("ground",),
    "grow": ("grew", "grown"),
    "hang": ("hung", "hanged"),
    "have": ("had", "has"),
    "hear": ("heard",),
    "hide": ("hid", "hidden"),
    "hit": ("hit",),
    "hold": ("held",),
    "hurt": ("hurt",),
    "inlay": ("inlaid",),
    "keep": ("kept",),
    "kneel": ("knelt", "kneeled"),
    "knit": ("knit", "knitted"),
    "know": ("knew", "known"),
    "lay": ("laid",),
    "lead": ("led",),
    "lean": ("leaned", "leant"),
    "leap": ("leaped", "leapt"),
    "learn": ("learned", "learnt"),
    "leave": ("left",),
    "lend": ("lent",),
    "let": ("let",),
    "lie": ("lay", "lain", "lied"),
    "light": ("lit", "lighted"),
    "lose": ("lost",),
    "make": ("made",),
    "mean": ("meant",),
    "meet": ("met",),
    "mislead": ("misled",),
    "misspell": ("misspelled", "misspelt"),
    "mistake": ("mistook", "mistaken"),
    "mow": ("mowed", "mown"),
    "offset": ("offset",),
    "overcome": ("overcame",),
    "overgrow": ("overgrew", "overgrown"),
    "overhang": ("overhung",),
    "overlay": ("overlaid",),
    "override": ("overrode", "overridden"),
    "overtake": ("overtook", "overtaken"),
    "overthrow": ("overthrew", "overthrown"),
    "overwrite": ("overwrote", "overwritten"),
    "pay": ("paid",),
    "plead": ("pleaded", "pled"),
    "prove": ("proved", "proven"),
    "put": ("put",),
    "quit": ("quit", "quitted"),
    "read": ("read",),
    "redraw": ("redrew", "redrawn"),
    "remake": ("remade",),
    "rewrite": ("rewrote", "rewritten"),
    "ride": ("rode", "ridden"),
    "ring": ("rang", "rung"),
    "rise": ("rose", "risen"),
    "run": ("ran",),
    "saw": ("sawed", "sawn"),
    "say": ("said",),
    "see": ("saw", "seen"),
    "seek": ("sought",),
    "sell": ("sold",),
    "send": ("sent",),
    "set": ("set",),
    "sew": ("sewed", "sewn"),
    "shake": ("shook", "shaken"),
    "shave": ("shaved", "shaven"),
    "shear": ("sheared", "shorn"),
    "shed": ("shed",),
    "shine": ("shone", "shined"),
    "shoot": ("shot",),
    "show": ("showed", "shown"),
    "shred": ("shredded",),
    "shrink": ("shrank", "shrunk", "shrunken"),
    "shut": ("shut",),
    "sing": ("sang", "sung"),
    "sink": ("sank", "sunk", "sunken"),
    "sit": ("sat",),
    "slay": ("slew", "slain"),
    "sleep": ("slept",),
    "slide": ("slid",),
    "sling": ("slung",),
    "slit": ("slit",),
    "smell": ("smelled", "smelt"),
    "sow": ("sowed", "sown"),
    "speak": ("spoke", "spoken"),
    "speed": ("sped", "speeded"),
    "spell": ("spelled", "spelt"),
    "spend": ("spent",),
    "spill": ("spilled", "spilt"),
    "spin": ("spun",),
    "spit": ("spat", "spit"),
    "split": ("split",),
    "spoil": ("spoiled", "spoilt"),
    "spread": ("spread",),
    "spring": ("sprang", "sprung"),
    "stand": ("stood",),
    "steal": ("stole", "stolen"),
    "stick": ("stuck",),
    "sting": ("stung",),
    "stink": ("stank", "stunk"),
    "strew": ("strewed", "strewn"),
    "stride": ("strode", "stridden"),
    "strike": ("struck", "stricken"),
    "string": ("strung",),
    "strive": ("strove", "striven"),
    "swear": ("swore", "sworn"),
    "sweep": ("swept",),
    "swell": ("swelled", "swollen"),
    "swim": ("swam", "swum"),
    "swing": ("swung",),
    "take": ("took", "taken"),
    "teach": ("taught",),
    "tear": ("tore", "torn"),
    "tell": ("told",),
    "think": ("thought",),
    "thrive": ("thrived", "throve"),
    "throw": ("threw", "thrown"),
    "thrust": ("thrust",),
    "tread": ("trod", "trodden"),
    "typeset": ("typeset",),
    "undergo": ("underwent", "undergone", "undergoes"),
    "understand": ("understood",),
    "undertake": ("undertook", "undertaken"),
    "undo": ("undid", "undone", "undoes"),
    "unwind": ("unwound",),
    "uphold": ("upheld",),
    "upset": ("upset",),
    "wake": ("woke", "woken", "waked"),
    "wear": ("wore", "worn"),
    "weave": ("wove", "woven"),
    "wed": ("wed", "wedded"),
    "weep": ("wept",),
    "wet": ("wet", "wetted"),
    "win": ("won",),
    "wind": ("wound",),
    "withdraw": ("withdrew", "withdrawn"),
    "withstand": ("withstood",),
    "wring": ("wrung",),
    "write": ("wrote", "written"),
}
"""Past tense and past participle, and -s where that is irregular too."""


_VOWEL_THEN_Y = re.compile(r"[aeiou]y\Z")
_HISSING = re.compile(r"(?:s|x|z|ch|sh)\Z")
_ONE_SYLLABLE_DOUBLES = re.compile(r"(?:[^aeiouy]|qu|y(?=[aeiou]))*[aeiouy][^aeiouwxy]\Z")
_MAY_DOUBLE = re.compile(r"[^aeiou](?:u(?=[aeio]))?[aeiou][^aeiouwxy]\Z")
_ADJECTIVE_IN_Y = re.compile(r"[aeiou].*[^aeiou]y\Z")
_NEVER_PLURAL = re.compile(r"(?:ss|us|is|ous)\Z")
_NO_VERB_ENDING = re.compile(r"(?:[aeiouy].*ing|[^e]ed|man)\Z")
_SHORTEST_PLURAL = 4
_SHORTEST_VERB = 3


@lru_cache(maxsize=2048)
def forms(word: str) -> frozenset[str]:
    """Return every form of a folded word, itself included.

    A plural also gives its singular ("logos": "logo"). Only a base form gives verb forms: "run"
    gives "running" and "ran", but "painting" gives "paintings" and not "painted".
    """
    if word in special_forms.ONLY_PLURAL:
        return frozenset({word, *_irregular_plurals(word)})
    singulars = _singulars(word)
    bases = _family(singulars or {word})
    found = {word}
    for base in bases:
        found |= {base} | _plurals(base)
        if not singulars:
            found |= _verb_forms(base) | _comparatives(base)
    return frozenset(found - special_forms.NOT_A_FORM.get(word, frozenset()))


def _family(bases: set[str]) -> set[str]:
    """Return the words and those derived from them."""
    return bases.union(
        *(family for family in special_forms.FAMILIES if not family.isdisjoint(bases))
    )


def _irregular_plurals(noun: str) -> set[str]:
    return set(PLURALS.get(noun, ()))


def _plurals(noun: str) -> set[str]:
    if noun in PLURALS:
        return _irregular_plurals(noun)
    if noun.endswith("man") and noun not in special_forms.MAN_IS_NO_MAN:
        return {noun[:-3] + "men"}
    return {_with_s(noun)} | ({noun + "es"} if noun.endswith("o") else set())


def _with_s(word: str) -> str:
    if word.endswith("y") and not _VOWEL_THEN_Y.search(word):
        return word[:-1] + "ies"
    return word + ("es" if _HISSING.search(word) else "s")


def _singulars(word: str) -> set[str]:
    """Return what the word may be the plural of; empty if it looks like no plural."""
    irregulars = _irregular_singulars().get(word)
    if irregulars:
        return set(irregulars)
    if word.endswith("men") and word not in special_forms.MEN_ARE_NO_MEN:
        return {word[:-3] + "man"}
    if (
        len(word) < _SHORTEST_PLURAL
        or not word.endswith("s")
        or word in special_forms.ONLY_PLURAL
        or _NEVER_PLURAL.search(word)
    ):
        return set()
    candidates = {word[:-1]}
    if word.endswith("es"):
        candidates.add(word[:-2])
    if word.endswith("ies"):
        candidates.add(word[:-3] + "y")
    return {noun for noun in candidates if word in _plurals(noun)}


@cache
def _irregular_singulars() -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for singular, plurals in PLURALS.items():
        for plural in plurals:
            if plural != singular:
                found.setdefault(plural, set()).add(singular)
    return {plural: frozenset(singulars) for plural, singulars in found.items()}


def _verb_forms(verb: str) -> set[str]:
    if len(verb) < _SHORTEST_VERB or verb in special_forms.NO_VERB or _NO_VERB_ENDING.search(verb):
        return set()
    past = set(PAST.get(verb, ()))
    found = {_with_s(verb)}
    if verb.endswith("ie"):
        return found | (past or {verb + "d"}) | {verb[:-2] + "ying"}
    if verb.endswith("e"):
        kept = verb + "ing" if verb.endswith(("ee", "oe", "ye", "nge")) else verb[:-1] + "ing"
        also = {verb[:-1] + "ing"} if kept.endswith("geing") else set()
        return found | (past or {verb + "d"}) | {kept} | also
    if verb.endswith("y") and not _VOWEL_THEN_Y.search(verb):
        return found | (past or {verb[:-1] + "ied"}) | {verb + "ing"}
    stems = _stems(verb)
    past = past or {stem + "ed" for stem in stems}
    return found | past | {stem + "ing" for stem in stems}


def _stems(verb: str) -> set[str]:
    """Return what -ed and -ing are put to: "run" doubles, "look" does not, "focus" may."""
    if verb.endswith("c"):
        return {verb, verb + "k"}
    if _ONE_SYLLABLE_DOUBLES.fullmatch(verb):
        return {verb + verb[-1]}
    return {verb, verb + verb[-1]} if _MAY_DOUBLE.search(verb) else {verb}


def _comparatives(word: str) -> set[str]:
    if _ADJECTIVE_IN_Y.search(word):
        return {word[:-1] + "ier", word[:-1] + "iest"}
    if word not in special_forms.ADJECTIVES:
        return set()
    if word.endswith("e"):
        return {word + "r", word + "st"}
    return {stem + end for stem in _stems(word) for end in ("er", "est")}


ONLY_PLURAL = words("""
    always arms-race billiards binoculars chaos christmas clothes contents cosmos customs glasses
    goggles goods graphics headquarters jeans leggings lens looks mathematics means news nowadays
    overalls pajamas pants perhaps physics plus politics pyjamas remains scissors series shorts
    species spectacles stairs sunglasses sweepstakes tennis thanks tights trousers tweezers woods
    yes
""")
"""Words in -s with no singular, or with one that means another thing: "glasses" is no "glass"."""

MAN_IS_NO_MAN = words("brahman caiman german human norman ottoman roman shaman talisman")
"""Nouns in -man whose plural is not -men."""

MEN_ARE_NO_MEN = words("abdomen acumen amen omen ramen regimen semen specimen stamen yemen")
"""Nouns in -men that are no plurals."""

NO_VERB = words("""
    arm back ball bar bear bed board book bow bowl box bridge bus can cap car cat chair child
    coat cook cop corner cow crane cross cup dog dress duck face fan fence fire fish foot girl
    ground hair hand hat head host house human ice image iron land leg line man match name note
    number pan park people perch person phone picture plane plate police pot ring road rock room
    scene seal seat ship shop skirt sky snake stage star stone street suit swallow table tie
    tower train tree view wall watch water wave wind woman wood
""")
"""Nouns that also are verbs of another meaning: "facing", "dressed in white", "parked cars"."""

NOT_A_FORM: dict[str, frozenset[str]] = {
    "frame": words("framing"),
    "model": words("modeling modelling"),
    "sign": words("signed signing"),
    "type": words("typing"),
    "leave": words("leaf"),
    "new": words("news"),
    "short": words("shorts"),
    "good": words("goods"),
}
"""Forms the rules give that mean another thing."""

FAMILIES: tuple[frozenset[str], ...] = (
    words("ad advert advertisement"),
    words("blood bloody"),
    words("blur blurry blurriness"),
    words("color colour"),
    words("deform deformity deformation"),
    words("dirt dirty"),
    words("distort distortion"),
    words("fog foggy"),
    words("glare glaring"),
    words("gore gory"),
    words("grain grainy"),
    words("gray grey"),
    words("haze hazy"),
    words("jewelry jewellery"),
    words("logo logotype"),
    words("mist misty"),
    words("mutate mutation mutant"),
    words("naked nakedness"),
    words("noise noisy"),
    words("nude nudity"),
    words("pattern patterned"),
    words("photo photograph"),
    words("pixelate pixelated pixelation"),
    words("saturate saturated saturation oversaturated"),
    words("sign signage"),
    words("smoke smoky"),
    words("tv television"),
    words("typo typographical"),
    words("violence violent"),
    words("weapon weaponry"),
)
"""Derived words that no one would tell apart in a prompt: forbid one, and all are found."""

ADJECTIVES = words("""
    big black blue bright brown cheap cool cute dark deep dense dull fast fat fresh gray green grey
    hard harsh high hot huge large light long loose loud low mean naked nice odd old pale plain poor
    pretty pure quick quiet rare raw red rich rough rude sad safe sharp short sick simple slow small
    smart smooth soft strange strong sweet tall thick thin tight tiny ugly vague warm weak weird
    wet white wide wild young
""")
"""Adjectives that take -er and -est; those in -y do by rule."""
