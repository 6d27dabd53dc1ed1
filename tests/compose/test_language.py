"""Which prompts seem to be written in another language than English, and which do not."""

import pytest

from flux_mcp.compose.language import (
    OTHER,
    audit_notices,
    encoder_notices,
    foreign_language,
    language_of,
)
from tests.compose.audit.tables import CASES, read_table

UNSEEN = CASES.with_name("unseen.jsonl")
FOREIGN = [
    ("German", "Eine alte Frau sitzt auf einer Bank im Park und füttert die Tauben"),
    ("German", "ein roter Kreis auf blauem Grund"),
    ("German", "eine leere Straße ohne Menschen"),
    ("German", "roter Kreis auf dem blauen Hintergrund, sehr groß"),
    ("French", "un chat noir assis sur une chaise dans la cuisine"),
    ("French", "Une femme regarde la mer"),
    ("French", "une rue vide sans personne"),
    ("Spanish", "una calle vacía con muchos árboles y sin gente"),
    ("Spanish", "un perro pequeño junto al fuego en la montaña"),
    ("Italian", "una donna seduta sotto un albero nella piazza del paese"),
    ("Portuguese", "um homem velho com uma bicicleta na praia"),
    ("German", "der Hund im Garten"),
    ("German", "Mache den Himmel blau"),
    ("German", "EINE KATZE AUF DEM DACH"),
    ("French", "le chat sur la table"),
    ("French", "portrait d'une jeune femme"),
    ("French", "Remplace le chien par un chat"),
    ("Spanish", "la casa de la playa"),
    ("Spanish", "cambia el fondo a azul"),
    ("Portuguese", "o gato na mesa"),
    (OTHER, "un cactus"),
    ("Dutch", "een oude man zit op een bank voor het huis"),
    ("Swedish", "en liten flicka står vid fönstret och tittar på snön"),
    ("Danish or Norwegian", "en gammel mand sidder ved vinduet og læser ikke"),
    ("Polish", "stary dom nad rzeką, obok jest mały most"),
    ("Czech", "starý dům u řeky, před ním sedí malý pes"),
    ("Turkish", "evin önünde küçük bir köpek ve büyük bir bisiklet"),
    ("Romanian", "un câine mic lângă o casă veche în pădure"),
    ("Hungarian", "egy kis macska ül az ablak előtt"),
    ("Finnish", "vanha mies istuu talon edessä ja lukee"),
    ("Indonesian", "seekor kucing hitam duduk di atas meja dengan bunga"),
    ("Vietnamese", "một con mèo đen ngồi trên ghế trong vườn"),
    ("a language in Cyrillic letters", "чёрная кошка сидит на окне"),
    ("a language in Cyrillic letters", "кошка"),
    ("Greek", "μια γάτα στο παράθυρο"),
    ("a language in Arabic letters", "قطة سوداء على كرسي"),
    ("Hebrew", "חתול שחור על כיסא"),
    ("a language in Devanagari letters", "एक काली बिल्ली"),
    ("Thai", "แมวดำบนเก้าอี้"),
    ("Korean", "창가에 앉아 있는 검은 고양이"),
    ("Japanese", "窓辺に座っている黒い猫"),
    ("Japanese", "東京の夜景、ネオン, photorealistic"),
    ("Chinese or Japanese", "一只黑猫坐在窗边"),
]

ENGLISH = [
    "Katze",
    "",
    "a star",
    "red circle",
    "blue ring pink background",
    "cat",
    "rouge noir",
    "a portrait of Leonardo da Vinci in the style of Vincent van Gogh",
    "Rio de Janeiro at night, Cristo Redentor above the city",
    "El Greco, Diego de la Vega and Juan de los Santos at a table",
    "Ludwig Mies van der Rohe, Barcelona pavilion",
    "Museo Nacional del Prado, Madrid",
    "Notre-Dame de Paris, Place de la Concorde, Rue de Rivoli",
    "Charles de Gaulle and Ursula von der Leyen",
    "film noir still life, trompe l'oeil, chiaroscuro, art nouveau",
    "crème brûlée and café au lait on a marble counter",
    "crème brûlée, café au lait, crêpes, soufflé",
    "jalapeño piñata, señor in a sombrero",
    "coq au vin, boeuf bourguignon, pommes de terre",
    "carne con chili, pico de gallo",
    "spaghetti al dente, gelato alla fragola",
    'a sign that reads "Bäckerei und Konditorei an der Ecke"',
    "ein",
    'a shop window with the words „Heute ist das Brot und der Kuchen für alle"',
    "a neon sign 「東京の夜」 above a door",
    "The Great Wave off Kanagawa by 葛飾北斎",
    "a bowl of ラーメン on a wooden counter",
    "Müller, Schäfer, Jürgen Großmann and Björn Ångström shaking hands",
    "Zürich, Köln, München, São Paulo, Łódź, İstanbul",
    "Łódź skyline by Wisława Szymborska",
    "sans serif poster, Helvetica, grid",
    "mise en scène, en plein air painting",
    "sumi-e ink, wabi-sabi, ikebana",
    "Der Spiegel magazine cover, die cut sticker",
    "UN headquarters, LA skyline",
    "to me, to you: a duo on stage",
    "a man o war, sea of glass",
    "masterpiece, 8k, ultra detailed, bokeh",
    "die casting, pour over coffee, on air, war art",
    'JSON: {"scene": "a street", "camera": {"lens": "35 mm"}}',
    "Frida Kahlo y Diego Rivera mural, vivid colours",
    "La La Land, Les Misérables, Das Boot",
    "a café in Québec with naïve décor",
    "déjà vu, façade, matinée",
    "la vie en rose poster",
    "Uno cards, a die",
    "Der Spiegel, Die Zauberflöte, Das Auto, Der Blaue Reiter",
    "at 10 am I am on a bench",
    "moody still life w/o flowers, i see a jug w/ milk",
]


@pytest.mark.parametrize(("language", "text"), FOREIGN)
def test_another_language_is_told(language: str, text: str) -> None:
    assert language_of(text) == language


@pytest.mark.parametrize("text", ENGLISH)
def test_english_with_foreign_names_and_words_is_english(text: str) -> None:
    assert language_of(text) is None


def test_none_of_the_audits_english_prompts_is_taken_for_another_language() -> None:
    texts = {case.text for table in (CASES, UNSEEN) for case in read_table(table)}
    assert len(texts) > 1500
    assert [text for text in texts if language_of(text)] == []


def test_words_with_marks_tell_an_unknown_language() -> None:
    assert language_of("mazā māja pie jūras, vecs koks, zaļš žogs") == OTHER


def test_each_part_of_a_prompt_counts_by_itself() -> None:
    english = "A photograph of a white lighthouse on a rocky shore in spring, in natural colours."
    german = "mit einer Katze und vielen Menschen auf der Straße"
    assert foreign_language([english, german]) == "German"
    assert foreign_language([english, english]) is None


def test_a_notice_says_who_reads_english_and_what_to_do() -> None:
    german = ["eine leere Straße ohne Menschen"]
    (said,) = encoder_notices(german, "English", "FLUX.1")
    assert "seems to be German; FLUX.1 reads English best" in said
    assert encoder_notices(german, None, "FLUX.2") == ()
    assert encoder_notices(["an empty street"], "English", "FLUX.1") == ()
    assert "The audit reads English." in audit_notices(german)[0]
    assert audit_notices(["an empty street, a Doppelgänger"]) == ()
