"""Where the rules of `inflection` would be wrong or would not reach far enough. Data only."""

from flux_mcp.compose.audit.wordlists import words

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
