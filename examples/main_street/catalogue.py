"""What the shop sells. It never changes while the server runs, so it is code and no actor."""

from typing import NamedTuple


class Article(NamedTuple):
    """One thing on the shelf; its picture is `templates/pictures/{sku}.svg`."""

    name: str
    text: str
    price_cents: int
    pieces: int | None = None  # all there are, of what is scarce


ARTICLES = {
    "tea": Article("Harbour tea", "Black leaves, a little smoke", 640),
    "bread": Article("Sunday loaf", "Sourdough, baked at six", 480),
    "mug": Article("Blue mug", "Thrown by hand, holds a lot", 1800),
    "book": Article("The Long Tide", "A novel for wet afternoons", 1450),
    "plant": Article("Window fern", "Forgives a missed week", 1290, pieces=3),
    "lamp": Article("Desk lamp", "Warm light, brass neck", 5400),
    "umbrella": Article("Big umbrella", "Room for two, nearly", 2900),
    "candle": Article("Beeswax candle", "Burns for thirty hours", 950),
    "clock": Article("Alarm clock", "Two bells, no mercy", 3200),
    "jam": Article("Quince jam", "Small jar, long memory", 560),
    "kite": Article("Red kite", "Wants wind and a field", 2250),
    "cheese": Article("Hill cheese", "A year in the cellar", 1120),
}


def total_cents(lines: dict[str, int]) -> int:
    """What these lines cost together."""
    return sum(ARTICLES[sku].price_cents * qty for sku, qty in lines.items())
