"""Which language a text is in: enough languages, none guessed, and quickly enough for every day."""

from __future__ import annotations

import pytest

from review_optimizer_dagster.monitors.language import (
    LOOKED_AT,
    UNKNOWN,
    language_of,
    words_of,
)

SENTENCES = {
    "en": ["This works just as it should, and I am very happy with it.", "Great product!"],
    "es": ["Muy buen producto, llegó rápido y funciona bien.", "No lo recomiendo para nada."],
    "fr": ["Très bon produit, je suis content de mon achat.", "Ce n'est pas ce que je voulais."],
    "de": ["Das Produkt ist sehr gut, aber leider nicht für mich.", "Sehr schnell geliefert."],
    "it": ["Ottimo prodotto, lo consiglio.", "Non funziona più dopo due giorni, sono deluso."],
    "pt": ["Produto muito bom, chegou antes do prazo.", "Não gostei, veio com defeito."],
    "nl": ["Heel goed product, maar het is niet goedkoop.", "Ik ben er zeer tevreden mee."],
    "pl": ["Bardzo dobry produkt, polecam.", "Nie jest to, co było na zdjęciu."],
    "tr": ["Çok güzel bir ürün, tavsiye ederim.", "Bu ürün iyi ama çok büyük."],
    "id": ["Barang bagus dan sesuai pesanan.", "Pengiriman sangat cepat, saya puas."],
    "vi": ["Hàng rất đẹp và giao nhanh.", "Sản phẩm không tốt như mình nghĩ."],
    "sv": ["Mycket bra produkt, jag är väldigt nöjd.", "Det var inte som på bilden."],
    "ru": ["Очень хорошо, всем советую.", "Сломалось через два дня."],
    "uk": ["Дуже гарна річ, її люблю."],
    "ar": ["منتج جيد جدا وسعره ممتاز"],
    "ur": ["یہ بہت اچھا ہے"],
    "hi": ["यह बहुत अच्छा है"],
    "bn": ["এটা খুব ভালো"],
    "zh": ["质量很好"],
    "ja": ["とても良い商品です。", "品質が良い"],
    "ko": ["아주 좋아요"],
    "el": ["Πολύ καλό προϊόν"],
    "he": ["מוצר טוב מאוד"],
    "th": ["สินค้าดีมาก"],
}


@pytest.mark.parametrize(
    ("language", "text"), [(name, text) for name, own in SENTENCES.items() for text in own]
)
def test_short_reviews_are_told(language: str, text: str) -> None:
    """A review is a sentence or two; what needs a page is of no use."""
    assert language_of(text) == language


@pytest.mark.parametrize("text", ["", "XJ-9000", "12345", "!!!", "Sonos Zyxel Kärcher", "👍"])
def test_what_has_no_frequent_word_is_unknown(text: str) -> None:
    """A guess would make the mix of languages move with the products."""
    assert language_of(text) == UNKNOWN


@pytest.mark.parametrize("text", ["no", "a la", "de"])
def test_a_tie_is_unknown(text: str) -> None:
    """Words that several languages have decide nothing, in whatever order they are looked up."""
    assert language_of(text) == UNKNOWN


def test_a_foreign_name_changes_nothing() -> None:
    """Brands are written in their own script in every language."""
    assert language_of("I love my 小米 phone, and it is great") == "en"
    assert language_of("Мой iPhone очень хороший") == "ru"


def test_both_ways_to_the_words_agree() -> None:
    """Plain texts take a short cut; the same words must come of it."""
    text = "It's 5 o'clock_now, isn't it? (Yes/no)"
    assert words_of(text) == words_of(text + " é")[:-1]


def test_only_the_beginning_counts() -> None:
    """A text of 20,000 characters must cost no more than another."""
    text = "x" * LOOKED_AT + " der die das und ich"
    assert words_of(text) == ["x" * LOOKED_AT]
    assert language_of(text) == UNKNOWN
