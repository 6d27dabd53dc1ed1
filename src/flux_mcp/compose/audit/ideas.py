"""What the commonest ideas of image prompts are called, and how to ask for their absence. Data.

Used for contradictions ("no people" against "a crowd of women"), for forbidden patterns that ask
for related words, and for positive wordings.
"""

from dataclasses import dataclass
from functools import cache

from flux_mcp.compose.audit.inflection import forms, words


@dataclass(frozen=True)
class Idea:
    """An idea: to negate one of its broad names denies all that is named here."""

    name: str
    broad: frozenset[str]
    """Names of the whole idea: "people"."""
    narrow: frozenset[str]
    """Names of a part of it: "no women" does not deny "men"."""
    loose: frozenset[str]
    """Names that often, but not always, mean it: a portrait may be that of a cat."""
    instead: str
    """A positive wording of its absence."""
    quotations: bool = False
    """Whether letters to be drawn are of this idea."""


def _idea(
    name: str, instead: str, broad: str, narrow: str = "", loose: str = "", *, quotes: bool = False
) -> Idea:
    return Idea(name, words(broad), words(narrow), words(loose), instead, quotes)


@cache
def ideas() -> tuple[Idea, ...]:
    """Return every idea."""
    return (
        _idea(
            "people",
            "an empty, deserted scene",
            "people person human humanity someone somebody anyone anybody nobody folk",
            """
            actor adult artist athlete audience baby ballerina barista bishop boy bride brother
            businessman businesswoman chef child clown commuter couple cowboy crowd customer cyclist
            dad dancer daughter diner doctor driver family farmer father fisherman gentleman girl
            girlfriend grandfather grandmother groom guest guy hiker infant kid lady lawyer man
            mechanic mom monk mother mum musician neighbour neighbor nun nurse onlooker
            passenger passer-by passerby pedestrian photographer pilgrim pirate policeman
            policewoman priest pupil runner sailor shopkeeper shopper sister skier soldier son
            spectator student surfer swimmer teacher teenager toddler tourist traveller traveler
            vendor villager visitor waiter waitress walker warrior witch wizard woman worker
            """,
            """
            chorus face figure king knight model orchestra player portrait prince princess queen
            rider selfie silhouette stranger
            """,
        ),
        _idea(
            "text",
            "clean, unmarked surfaces",
            "text writing lettering word typography letter",
            """
            calligraphy caption graffiti handwriting headline inscription slogan subtitle tagline
            wordmark
            """,
            "label sign signage title watermark font newspaper billboard",
            quotes=True,
        ),
        _idea(
            "logos",
            "plain, unbranded surfaces",
            "logo logotype brand trademark",
            "emblem wordmark",
            "badge label",
        ),
        _idea("watermarks", "a clean picture from edge to edge", "watermark signature stamp"),
        _idea(
            "animals",
            "a still scene of plants and objects",
            "animal creature wildlife beast pet",
            """
            bear bird butterfly camel cat chicken cow crab deer dinosaur dog dolphin dragon duck
            eagle elephant fish fox frog giraffe goat goose horse insect kitten lion monkey mouse
            owl panda parrot pig pigeon puppy rabbit rat seagull shark sheep snake spider swan tiger
            turtle whale wolf zebra
            """,
        ),
        _idea(
            "vehicles",
            "a quiet, open road",
            "vehicle traffic",
            """
            ambulance automobile bicycle bike boat bus car lorry minivan moped motorbike motorcycle
            scooter taxi tractor train tram truck van
            """,
        ),
        _idea(
            "buildings",
            "open, natural land to the horizon",
            "building architecture",
            """
            apartment barn cabin castle cathedral church cottage farmhouse hotel house hut mansion
            mosque palace skyscraper temple tower villa
            """,
        ),
        _idea(
            "plants",
            "bare ground and bare surfaces",
            "plant vegetation greenery foliage",
            "bush cactus fern flower grass hedge ivy palm rose shrub tree tulip vine weed",
        ),
        _idea(
            "furniture",
            "an empty room with bare floors",
            "furniture",
            "armchair bed bench bookshelf cabinet chair couch desk drawer dresser shelf sofa stool "
            "table wardrobe",
        ),
        _idea(
            "weapons",
            "open, empty hands",
            "weapon weaponry",
            "axe cannon dagger gun pistol revolver rifle shotgun sword",
            "arrow bow knife",
        ),
        _idea(
            "blood",
            "clean, unharmed skin and clothes",
            "blood gore violence",
            "wound",
        ),
        _idea("nudity", "fully dressed in everyday clothes", "nudity nude naked"),
        _idea("blur", "sharp focus from front to back", "blur blurry bokeh"),
        _idea("noise", "clean, smooth tones", "noise grain artefact artifact"),
        _idea("shadows", "soft, even light from all sides", "shadow"),
        _idea("reflections", "matt surfaces", "reflection glare"),
        _idea("borders", "the picture fills the canvas to its edges", "border frame vignette"),
        _idea("clutter", "a plain, uncluttered setting", "clutter distraction mess"),
        _idea("backgrounds", "a plain, seamless backdrop", "background"),
        _idea("faces", "seen from behind", "face"),
        _idea("hands", "hands out of view, behind the back or in pockets", "hand finger"),
        _idea("smiles", "a calm, serious face", "smile smiling grin"),
        _idea("hats", "bare-headed", "hat cap helmet"),
        _idea("beards", "clean-shaven", "beard moustache mustache"),
        _idea("glasses", "a clear view of the eyes", "glasses sunglasses eyeglasses spectacles"),
        _idea("shoes", "barefoot", "shoe sneaker boot footwear"),
        _idea("clouds", "a clear, even blue sky", "cloud"),
        _idea("rain", "dry weather and dry ground", "rain", "drizzle raindrop", "umbrella puddle"),
        _idea("snow", "bare ground, above freezing", "snow", "snowflake snowman"),
        _idea("colour", "black and white", "color colour"),
        _idea("smoke", "clear air", "smoke fog haze mist"),
        _idea("food", "an empty, clean table", "food", "bread burger cake meal pizza sandwich"),
    )


@cache
def _by_word() -> dict[str, tuple[Idea, ...]]:
    found: dict[str, tuple[Idea, ...]] = {}
    for idea in ideas():
        for word in sorted(idea.broad):
            for form in forms(word):
                found[form] = (*found.get(form, ()), idea)
    return found


def idea_of(word: str) -> Idea | None:
    """Return the idea that a folded word names as a whole."""
    found = _by_word().get(word)
    return found[0] if found else None


@cache
def _sure_words() -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for idea in ideas():
        for word in idea.broad | idea.narrow:
            for form in forms(word):
                found.setdefault(form, set()).add(idea.name)
    return {word: frozenset(names) for word, names in found.items()}


def are_kin(one: str, other: str) -> bool:
    """Return whether two words are of one idea: "cats" and "dogs"."""
    nothing: frozenset[str] = frozenset()
    return not _sure_words().get(one, nothing).isdisjoint(_sure_words().get(other, nothing))


@cache
def words_of(idea: Idea) -> dict[str, bool]:
    """Return every form of every word of an idea, and whether it is sure to mean it."""
    return {
        **{form: False for word in idea.loose for form in forms(word)},
        **{form: True for word in idea.broad | idea.narrow for form in forms(word)},
    }
