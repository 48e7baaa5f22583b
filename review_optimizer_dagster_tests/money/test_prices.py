"""Prices: by model, tier, day and size of the prompt."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from review_optimizer_dagster.errors import ConfigError
from review_optimizer_dagster.exchange.reply import Usage
from review_optimizer_dagster.money.prices import (
    ModelEnded,
    PriceTable,
    UnknownPrice,
    load_prices,
    request_cost,
    worst_case,
)

TODAY = date(2026, 11, 22)
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def _home(folder: Path, text: str) -> Path:
    path = folder / "prices.toml"
    path.write_text(text, encoding="utf-8")
    return path


# --- prices -----------------------------------------------------------------------------------

ROW = """
[[prices]]
model = "{model}"
valid_from = {valid_from}
input = {input}
output = 2.00
{more}
"""


@pytest.mark.parametrize(
    ("model", "tier", "usage", "dollars"),
    [
        ("gpt-6-luna", "default", Usage(1_000_000, 0, 0), "0.10"),
        ("gpt-6-luna", "default", Usage(1_000_000, 1_000_000, 0), "0.01"),
        ("gpt-6-luna", "default", Usage(1_000_000, 0, 0, 1_000_000), "0.125"),
        ("gpt-6-luna", "default", Usage(0, 0, 1_000_000), "0.50"),
        ("gpt-6-luna", "batch", Usage(1_000_000, 0, 1_000_000), "0.30"),
        ("gpt-6-luna", "flex", Usage(1_000_000, 0, 1_000_000), "0.30"),
        ("gpt-5.6-luna", "default", Usage(1_000_000, 500_000, 1_000_000), "1.31"),
        ("gpt-5.4-nano", "default", Usage(1_000_000, 0, 1_000_000), "1.45"),
        ("gpt-5.4-mini", "default", Usage(1_000_000, 1_000_000, 0), "0.075"),
        ("gpt-4o-mini", "default", Usage(2_000_000, 1_000_000, 1_000_000), "0.825"),
        ("gpt-4o", "default", Usage(1_000_000, 0, 1_000_000), "12.5"),
    ],
)
def test_the_shipped_prices_bill_what_the_price_page_says(
    model: str, tier: str, usage: Usage, dollars: str
) -> None:
    """The page is in dollars a million tokens; a slip of a factor would bill every tenant wrong."""
    cost = request_cost(load_prices().price(model, tier, TODAY), usage)
    assert cost == round(float(dollars) * 1e9)


def test_a_request_is_rounded_once_half_up(tmp_path: Path) -> None:
    """Rounding each part by itself would give 0 or 2 here; a token costs half a nano-dollar."""
    home = _home(tmp_path, ROW.format(model="m", valid_from="2026-01-01", input="0.0005", more=""))
    price = load_prices(home).price("m", "default", TODAY)
    assert [request_cost(price, Usage(tokens, 0, 0)) for tokens in (0, 1, 2, 3)] == [0, 1, 1, 2]


def test_the_worst_case_assumes_that_all_input_is_written_to_the_cache() -> None:
    """A cache write is dearer than plain input; a reservation without it could be overspent."""
    price = load_prices().price("gpt-6-luna", "default", TODAY)
    assert worst_case(price, 1_000, 100) == request_cost(price, Usage(1_000, 0, 100, 1_000))
    assert worst_case(price, 1, 0) == 125


def test_a_dated_model_goes_by_the_price_of_its_name() -> None:
    """Responses name the snapshot that answered, not the alias that was asked."""
    prices = load_prices()
    assert prices.price("gpt-6-luna-2026-08-01", "default", TODAY) == prices.price(
        "gpt-6-luna", "default", TODAY
    )
    assert prices.price("gpt-4o-mini-2024-07-18", "default", TODAY).model == "gpt-4o-mini"


@pytest.mark.parametrize(
    ("model", "tier", "day"),
    [
        ("gpt-9", "default", TODAY),
        ("gpt-4o-audio-preview", "default", TODAY),  # another model, not a date of gpt-4o
        ("gpt-6-luna", "scale", TODAY),
        ("gpt-6-luna", "default", date(2025, 12, 31)),
    ],
)
def test_what_has_no_price_is_refused_by_name(model: str, tier: str, day: date) -> None:
    """Guessing a price from a similar name would book a wrong amount without a word."""
    home = Path("/home/somebody/prices.toml")
    with pytest.raises(UnknownPrice) as refused:
        load_prices(home).price(model, tier, day)
    for part in (model, tier, str(day), str(home)):
        assert part in str(refused.value)


def test_a_model_is_refused_after_its_last_day_but_its_old_requests_keep_their_price() -> None:
    """Asking an ended model fails request by request; what it was paid must still be booked."""
    prices = load_prices()
    assert prices.check_model("gpt-4.1-nano", date(2026, 10, 23)).ends == date(2026, 10, 23)
    with pytest.raises(ModelEnded, match=r"'gpt-4\.1-nano' ended on 2026-10-23"):
        prices.check_model("gpt-4.1-nano", date(2026, 10, 24))
    assert prices.price("gpt-4.1-nano", "default", date(2026, 10, 24)).output == 400_000_000


def test_a_home_adds_models_and_closes_a_shipped_row_from_its_day_on(tmp_path: Path) -> None:
    """Providers change prices between two releases of this project."""
    home = _home(
        tmp_path,
        ROW.format(model="mine", valid_from="2026-01-01", input="0", more="")
        + ROW.format(model="gpt-6-luna", valid_from="2026-12-01", input="0.08", more=""),
    )
    prices = load_prices(home)
    assert prices.price("mine", "default", TODAY).cached_input == 0
    assert prices.price("gpt-6-luna", "default", date(2026, 11, 30)).input == 100_000_000
    assert prices.price("gpt-6-luna", "default", date(2026, 12, 1)).input == 80_000_000
    assert prices.price("gpt-6-luna", "batch", date(2026, 12, 1)).input == 50_000_000


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            ROW.format(model="m", valid_from="2026-01-01", input="1", more="")
            + ROW.format(model="m", valid_from="2026-06-01", input="2", more=""),
            "prices row 2 has the same model 'm'.* as row 1 of prices.toml",
        ),
        (
            ROW.format(model="m", valid_from="2026-06-01", input="1", more="valid_to = 2026-06-30")
            + ROW.format(
                model="m", valid_from="2026-01-01", input="2", more="valid_to = 2026-06-01"
            ),
            "prices row 2 has the same model",
        ),
        (
            ROW.format(model="gpt-4o", valid_from="2026-01-01", input="1", more=""),
            r"prices row 1 has the same model 'gpt-4o'.* as row \d+ of prices.toml",
        ),
        (
            ROW.format(model="m", valid_from="2026-02-01", input="1", more="valid_to=2026-01-01"),
            "prices row 1 is not valid: .*valid_to is before valid_from",
        ),
        (
            ROW.format(model="m", valid_from="2026-02-01", input="-1", more=""),
            "prices row 1.input is not valid",
        ),
        (
            ROW.format(model="m", valid_from="2026-02-01", input="1", more="price = 3"),
            "prices row 1.price is not valid",
        ),
        ("[[price]]\nmodel = 'm'\n", r"must hold \[\[prices\]\] rows"),
        ("prices = 3\n", r"must hold \[\[prices\]\] rows"),
        ("[[prices]\n", "is not valid TOML"),
    ],
)
def test_a_wrong_price_file_is_refused_with_file_and_row(
    tmp_path: Path, text: str, problem: str
) -> None:
    """Two prices for one day would make the bill depend on the order of rows."""
    home = _home(tmp_path, text)
    with pytest.raises(ConfigError, match=problem) as refused:
        load_prices(home)
    assert str(home) in str(refused.value)


def test_prices_that_follow_each_other_are_not_an_overlap(tmp_path: Path) -> None:
    """valid_to is the last day, inside."""
    home = _home(
        tmp_path,
        ROW.format(model="m", valid_from="2026-01-01", input="1", more="valid_to = 2026-05-31")
        + ROW.format(model="m", valid_from="2026-06-01", input="2", more=""),
    )
    prices: PriceTable = load_prices(home)
    assert prices.price("m", "default", date(2026, 5, 31)).input == 1_000_000_000
    assert prices.price("m", "default", date(2026, 6, 1)).input == 2_000_000_000


@pytest.mark.parametrize("counts", [(-1, 0, 0, 0), (10, 11, 0, 0), (10, 6, 0, 5), (10, 0, -1, 0)])
def test_token_counts_that_cannot_be_are_refused(counts: tuple[int, int, int, int]) -> None:
    """More cached tokens than the prompt has would bill a negative amount."""
    with pytest.raises(ValueError, match="token"):
        Usage(*counts)


def test_a_large_prompt_makes_the_whole_request_dearer() -> None:
    """One token over the limit reprices all of them, cached ones and the answer included."""
    prices = load_prices()
    small = prices.price("gpt-6-luna", "default", TODAY, 272_000)
    large = prices.price("gpt-6-luna", "default", TODAY, 272_001)
    assert (small.context_above, large.context_above) == (0, 272_000)
    assert (large.input, large.output) == (2 * small.input, small.output * 3 // 2)
    assert request_cost(small, Usage(272_000, 0, 1_000)) == 27_700_000
    assert request_cost(large, Usage(272_001, 1, 1_000)) == 55_150_020


def test_the_worst_case_knows_that_a_smaller_prompt_may_be_dearer(tmp_path: Path) -> None:
    """The bound is of the input tokens; the true number may fall in any band below it."""
    small, large = (
        ROW.format(model="m", valid_from="2026-01-01", input=price, more=band)
        for price, band in (("3.0", ""), ("1.0", "context_above = 1000"))
    )
    prices = load_prices(_home(tmp_path, small + large))
    assert prices.worst_case("m", "default", TODAY, 2_000, 0) == 6_000_000
    assert prices.worst_case("m", "default", TODAY, 900, 0) == 2_700_000


def test_a_price_for_large_prompts_alone_is_none(tmp_path: Path) -> None:
    """A small request would have no price, which must be known before it is sent."""
    band = "context_above = 1000"
    row = ROW.format(model="m", valid_from="2026-01-01", input="1.0", more=band)
    prices = load_prices(_home(tmp_path, row))
    with pytest.raises(UnknownPrice, match="'m'"):
        prices.price("m", "default", TODAY, 2_000)


def test_the_day_of_a_price_cut_has_the_new_price() -> None:
    """gpt-5.6-luna became five times cheaper on 2026-07-30."""
    prices = load_prices()
    before, after = (
        prices.price("gpt-5.6-luna", "default", date(2026, 7, day)).input for day in (29, 30)
    )
    assert (before, after) == (1_000_000_000, 200_000_000)
