"""Reading reviews: layouts, values, content, redaction."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from review_optimizer_dagster.core.reviews import (
    QUARANTINE,
    REVIEWS,
    Chunk,
    Source,
    TenantRules,
    read_reviews,
)
from review_optimizer_dagster.errors import ConfigError
from review_optimizer_dagster.formats import INPUT_SUFFIXES
from review_optimizer_dagster.settings import InputSettings
from review_optimizer_dagster.taxonomies import Taxonomy, load_taxonomy
from review_optimizer_dagster.text import content_key, normalise, redact

REVIEWS_TAXONOMY = load_taxonomy("reviews")


def read(
    path: Path,
    *,
    columns: dict[str, str] | None = None,
    tenant: str | None = "acme",
    taxonomy: Taxonomy = REVIEWS_TAXONOMY,
) -> Chunk:
    """The one chunk of a small file."""
    rules = TenantRules(taxonomy, columns or {})
    [chunk] = read_reviews(Source(path, path.name, tenant), lambda _: rules, InputSettings())
    assert chunk.reviews.schema == REVIEWS
    assert chunk.quarantined.schema == QUARANTINE
    return chunk


def write_jsonl(path: Path, *rows: Mapping[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


AMAZON_2018 = {
    "reviewText": "Good sound.",
    "overall": 5.0,
    "asin": "B01",
    "reviewerID": "A1",
    "unixReviewTime": 1_514_764_800,
    "summary": "Fine",
}
AMAZON_2023 = {
    "text": "Good sound.",
    "rating": 5.0,
    "parent_asin": "B01",
    "asin": "B02",
    "user_id": "A1",
    "timestamp": 1_514_764_800_000,
    "title": "Fine",
}
PLAIN = {
    "review_id": "r1",
    "category": "Audio",
    "text": "Good sound.",
    "title": "Fine",
    "product_id": "B01",
    "rating": "5",
    "ts": "2018-01-01",
}


@pytest.mark.parametrize("row", [AMAZON_2018, AMAZON_2023, PLAIN])
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".jsonl.gz", ".csv", ".csv.gz", ".parquet"])
def test_layouts_are_recognised_in_every_format(
    row: dict[str, object], suffix: str, tmp_path: Path
) -> None:
    """A downloaded data set must work without configuration, however it was packed."""
    path = tmp_path / f"a{suffix}"
    frame = pl.DataFrame([row])
    if suffix == ".parquet":
        frame.write_parquet(path)
    else:
        text = frame.write_csv() if "csv" in suffix else json.dumps(row)
        data = text.encode()
        path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
    [review] = read(path).reviews.to_dicts()
    assert path.name.endswith(INPUT_SUFFIXES)
    assert review == {
        "tenant": "acme",
        "taxonomy": "reviews",
        "review_id": row.get("review_id"),
        "content_key": content_key("fine\ngood sound."),
        "category": row.get("category", "unknown"),
        "product_id": "B01",
        "title": "Fine",
        "text": "Good sound.",
        "rating": 5.0,
        "ts": datetime(2018, 1, 1, tzinfo=UTC),
        "truth": "{}",
        "synthetic": False,
        "file": path.name,
        "line": 2 if "csv" in suffix else 1,
    }


def test_snap_blocks_are_read(tmp_path: Path) -> None:
    """The SNAP files are blocks of keys, partly in ISO 8859-1, and a text may go on a new line."""
    path = tmp_path / "a.txt.gz"
    blocks = (
        "product/productId: B01\nproduct/title: Lamp\nreview/score: 4.0\nreview/time: 1514764800\n"
        "review/summary: Caf\xe9 lamp\nreview/text: Bright.\nAnd warm.\n\n"
        "product/productId: B02\nreview/text: Dim.\n"
    )
    path.write_bytes(gzip.compress(blocks.encode("latin-1")))
    chunk = read(path)
    assert chunk.reviews["title"].to_list() == ["Caf\xe9 lamp", None]
    assert chunk.reviews["text"].to_list() == ["Bright.\nAnd warm.", "Dim."]
    assert chunk.reviews["product_id"].to_list() == ["B01", "B02"]
    assert chunk.reviews["rating"].to_list() == [4.0, None]
    assert chunk.reviews["line"].to_list() == [1, 9]


def test_a_row_without_the_text_of_its_layout_is_quarantined(tmp_path: Path) -> None:
    """Real 2018 files leave `reviewText` out of some rows: the row's fault, not the file's."""
    short = {key: value for key, value in AMAZON_2018.items() if key != "reviewText"}
    chunk = read(write_jsonl(tmp_path / "a.jsonl", short, AMAZON_2018))
    assert chunk.quarantined["reason"].to_list() == ["empty_text"]
    assert chunk.reviews["line"].to_list() == [2]


def test_a_column_map_wins_over_the_layout(tmp_path: Path) -> None:
    """A tenant's own export is read by its map, and what the map leaves out by its own name."""
    path = write_jsonl(tmp_path / "a.jsonl", {"id": 7, "body": "Good.", "text": "x", "rating": 4})
    [review] = read(path, columns={"text": "body", "review_id": "id"}).reviews.to_dicts()
    assert (review["review_id"], review["text"], review["rating"]) == ("7", "Good.", 4.0)


def test_an_unknown_layout_names_its_columns_and_the_remedy(tmp_path: Path) -> None:
    """The user must learn from the one row what to write where."""
    path = write_jsonl(tmp_path / "a.jsonl", {"body": "Good."}, {"body": "Bad."})
    [row] = read(path).quarantined.to_dicts()
    assert row["line"] is None
    assert "'body'" in row["detail"]
    assert "[tenants.NAME.columns]" in row["detail"]


def truths(chunk: Chunk) -> list[str | None]:
    return [json.loads(truth).get("sentiment") for truth in chunk.reviews["truth"]]


def polarity(*labels: object) -> list[dict[str, object]]:
    return [{"title": "t", "content": "Good.", "label": label} for label in labels]


POSITIVE, NEUTRAL, NEGATIVE, _ = REVIEWS_TAXONOMY.main.labels


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ((0, 1), [NEGATIVE, POSITIVE]),
        ((1, 2), [NEGATIVE, POSITIVE]),
        ((1, 1), [POSITIVE, POSITIVE]),  # integers: the published 0/1 form
        (("1", "1"), [None, None]),  # text: may be either
        (("1", "2"), [NEGATIVE, POSITIVE]),
        ((0, 1, 2), [None, None, None]),
        ((1, 2, 3, 4, 5), [None] * 5),  # stars are no polarity
        ((0.0, 1.0), [NEGATIVE, POSITIVE]),
        ((None, 1, 0), [None, POSITIVE, NEGATIVE]),
    ],
)
def test_digit_labels_are_read_by_the_numbering_of_their_file(
    labels: tuple[object, ...], expected: list[str | None], tmp_path: Path
) -> None:
    """A 1 is the good class in one published form and the bad one in the other."""
    assert truths(read(write_jsonl(tmp_path / "a.jsonl", *polarity(*labels)))) == expected


def test_truth_of_every_field_is_read_and_unknown_values_are_counted(tmp_path: Path) -> None:
    """A truth outside the label set must not cost the review, and must not go unseen."""
    rows: list[dict[str, object]] = [
        {"text": "Good.", "label": " POS ", "product_quality": "good"},
        {"text": "Bad.", "label": "awful", "product_quality": None},
        {"text": "Ugly.", "label": ["awful"], "product_quality": ""},
    ]
    chunk = read(write_jsonl(tmp_path / "a.jsonl", *rows))
    assert [json.loads(truth) for truth in chunk.reviews["truth"]] == [
        {"sentiment": POSITIVE, "product_quality": "good"},
        {},
        {},
    ]
    assert chunk.unknown_truth == {"sentiment=awful": 1, "sentiment=['awful']": 1}


def test_a_mixed_file_gives_each_row_its_tenant_and_taxonomy(tmp_path: Path) -> None:
    """One export may hold several tenants, which label different kinds of documents."""
    rows = [{"tenant": t, "text": "Fine.", "label": "mortgage"} for t in ("acme", "bank")]
    source = Source(write_jsonl(tmp_path / "a.jsonl", *rows), "a.jsonl", None)
    kinds = {"acme": REVIEWS_TAXONOMY, "bank": load_taxonomy("complaints")}
    [chunk] = read_reviews(source, lambda name: TenantRules(kinds[name], {}), InputSettings())
    assert chunk.reviews["tenant"].to_list() == ["acme", "bank"]
    assert chunk.reviews["taxonomy"].to_list() == ["reviews", "complaints"]
    assert chunk.reviews["truth"].to_list() == ["{}", '{"product": "mortgage"}']


def test_a_broken_configuration_stops_the_run(tmp_path: Path) -> None:
    """A taxonomy that cannot be loaded is no fault of the rows: quarantining them would hide it."""

    def rules(_: str) -> TenantRules:
        raise ConfigError(tmp_path, "taxonomy", "is broken")

    source = Source(write_jsonl(tmp_path / "a.jsonl", PLAIN), "a.jsonl", "acme")
    with pytest.raises(ConfigError):
        list(read_reviews(source, rules, InputSettings()))


@pytest.mark.parametrize(
    "ts",
    [
        1_514_764_800,
        1_514_764_800.0,
        1_514_764_800_000,
        "1514764800",
        "1514764800000",
        "2018-01-01",
        "2018-01-01T00:00:00",
        "2018-01-01T00:00:00Z",
        "2018-01-01 02:00:00+02:00",
        "2018-01-01 00:00:00 UTC",
        "20180101",
        20180101,
    ],
)
def test_times_of_every_kind_become_utc(ts: object, tmp_path: Path) -> None:
    """Sources write times as seconds, milliseconds or ISO text; without a zone they mean UTC."""
    chunk = read(write_jsonl(tmp_path / "a.jsonl", PLAIN | {"ts": ts}))
    assert chunk.reviews["ts"].to_list() == [datetime(2018, 1, 1, tzinfo=UTC)]


@pytest.mark.parametrize(
    "ts", [date(2018, 1, 1), datetime(2018, 1, 1), datetime(2018, 1, 1, tzinfo=UTC)]
)
def test_times_in_parquet_become_utc(ts: date, tmp_path: Path) -> None:
    """Parquet has real types for times."""
    pl.DataFrame({"text": ["Good."], "ts": [ts]}).write_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet").reviews["ts"].to_list() == [
        datetime(2018, 1, 1, tzinfo=UTC)
    ]


def test_odd_values_that_mean_something_are_kept(tmp_path: Path) -> None:
    """Integers as ids, missing values and control characters are no reason to lose a review."""
    chunk = read(
        write_jsonl(
            tmp_path / "a.jsonl",
            {
                "review_id": 17,
                "text": " a\0b \ud83d cut ",
                "category": "",
                "rating": "",
                "ts": None,
            },
            {"review_id": 17.0, "text": "c\r\nd", "product_id": 3, "synthetic": 1},
            {"review_id": " ", "text": "e", "title": "  ", "synthetic": "false"},
        )
    )
    rows = chunk.reviews.to_dicts()
    assert [row["review_id"] for row in rows] == ["17", "17", None]
    assert [row["text"] for row in rows] == ["ab \ufffd cut", "c\r\nd", "e"]
    assert [row["category"] for row in rows] == ["unknown"] * 3
    assert [row["synthetic"] for row in rows] == [False, True, False]
    assert rows[2]["title"] is None


def test_gzip_is_known_by_its_content_and_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    """Downloads lose or gain `.gz`, and editors write byte order marks."""
    path = tmp_path / "a.csv"
    path.write_bytes(gzip.compress("\ufefftext;label\nGood.;pos\n".encode()))
    assert truths(read(path)) == [POSITIVE]


def test_a_long_file_comes_in_chunks_and_loses_nothing(tmp_path: Path) -> None:
    """A file larger than memory must be readable, and a layout learned once holds to its end."""
    path = tmp_path / "a.csv"
    path.write_text(
        "content,title,label\n" + "".join(f"Text {n}.,t,{n % 2}\n" for n in range(25_000))
    )
    rules = TenantRules(REVIEWS_TAXONOMY, {})
    chunks = list(read_reviews(Source(path, "a.csv", "acme"), lambda _: rules, InputSettings()))
    assert [chunk.reviews.height for chunk in chunks] == [10_000, 10_000, 5_000]
    assert chunks[2].reviews["line"].to_list() == list(range(20_002, 25_002))
    assert truths(chunks[2])[:2] == [NEGATIVE, POSITIVE]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Good SOUND", "good sound"),
        ("caf\u00e9", "cafe\u0301"),
        ("\uff27ood", "Good"),
        ("a<br />b", "a b"),
        ("<p>a <b>good</b> one</p>", "a good one"),
        ("rock &amp; roll", "rock & roll"),
        ("a&lt;br&gt;b", "a b"),
        ("R&amp;amp;B", "R&B"),
        ("a \t\n\u00a0 b", "a b"),
        ("so good!!!!", "so good!"),
        ("well\u2026", "well..."),
        ("don\u2019t", "don't"),
        ("\u201cgood\u201d", '"good"'),
        ("good \u2014 not great", "good -- not great"),
        ("love \u2764\ufe0f it", "love \u2764 it"),
        ("Kindle\u2122 is good", "Kindle is good"),
        ("soooooo good", "sooo good"),
        ("2\u00bd stars", "2 1/2 stars"),
    ],
)
def test_harmless_differences_are_one_content(one: str, other: str) -> None:
    """Every difference that says nothing would cost a request of its own."""
    assert normalise(None, one) == normalise(None, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("it works", "it does not work"),
        ("AA batteries", "AAA batteries"),
        ("Part II", "Part III"),
        ("size XXL", "size XXXL"),
        ("10\u00b2", "102"),
        ("2\u00bd", "21/2"),
        ("1000", "10000"),
        ("Great!", "Great?"),
        ("***", "*****"),
        ("\u2605", "\u2605\u2605\u2605"),
        ("5'", "5''"),
        ("god", "goood"),
        ("so", "soo"),
        ("5 < 6 and 7 > 2", "5 2"),
        ("I <3 it", "I it"),
        ("works <not> well", "works well"),
        ("good &not bad", "good bad"),
        ("\u4e8c\u3007\u3007\u3007", "\u4e8c\u3007\u3007"),
        ("Ma\u00dfe", "Masse"),
        ("-5", "5"),
        ("C++", "C"),
        ("not able", "notable"),
    ],
)
def test_differences_of_meaning_stay(one: str, other: str) -> None:
    """A wrong merge serves one review's answer to another, and nothing later would notice."""
    assert normalise(None, one) != normalise(None, other)


def test_title_and_text_are_both_content_and_do_not_mix() -> None:
    """The same words mean something else as a title, so they must not meet in one key."""
    assert normalise("Good", "Bad") == "good\nbad"
    assert normalise(" ", "Bad") == normalise(None, "Bad") == "bad"
    assert len({normalise("a b", "c"), normalise("a", "b c"), normalise(None, "a b c")}) == 3
    assert len(content_key("good\nbad")) == 32


def test_nested_markup_ends() -> None:
    """A hostile text must not make normalising take as many rounds as it has brackets."""
    for text in ("<" * 5_000 + "b>" * 5_000, "&" + "amp;" * 5_000 + "lt;b&gt;"):
        folded = normalise(None, text)
        assert normalise(None, folded) == folded


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mail Bob.Doe+x@mail.example.org!", "mail [email]!"),
        ("card 4111 1111 1111 1111 12/25", "card [card] 12/25"),
        ("2 4111-1111-1111-1111", "2 [card]"),
        ("amex 378282246310005", "amex [card]"),
        ("ring (555) 234-5678 now", "ring [phone] now"),
        ("ring 1-800-555-2345.", "ring [phone]."),
        ("+49 30 1234567, +1 (555) 234-5678", "[phone], [phone]"),
        ("020 7946 0958 or 07700 900123", "[phone] or [phone]"),
        ("06 12 34 56 78", "[phone]"),
        ("win! call 09061701461 today", "win! call [phone] today"),
        ("txt 80086 or call me on 5552345678", "txt 80086 or call me on [phone]"),
    ],
)
def test_personal_numbers_and_addresses_are_masked(text: str, expected: str) -> None:
    """These must not leave the machine."""
    assert redact(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "costs $1,299.99, was 1.499,00",
        "since 2019, on 2019-01-15 or 01-15-2019 10:30",
        "WH-1000XM4, i7-12700K, SN 12345678901234",
        "rated 10/10, 4.5 stars, 5-5-5",
        "ISBN 978-0-306-40615-7 or 0306406152",
        "192.168.100.100, 1920 x 1080, 12345678 units",
        "1234 5678 9012 3456",
        "4111 1111 1111 1112",
        "follow @bob, 5 @ $3.50",
    ],
)
def test_other_numbers_stay(text: str) -> None:
    """Prices, years and models are what a review is about."""
    assert redact(text) == text
