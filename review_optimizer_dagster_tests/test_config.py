"""tenants.toml: what is refused and by which name, what the written one says, what stays secret."""

from __future__ import annotations

import re
import tomllib

import pytest

from review_optimizer_dagster.config import Home
from review_optimizer_dagster.errors import ConfigError, UserError
from review_optimizer_dagster.monitors.settings import ServiceLevels
from review_optimizer_dagster.settings import INPUT_FIELDS, EngineSettings, Settings, TenantSettings
from review_optimizer_dagster.taxonomies import load_taxonomy
from review_optimizer_dagster.template import commented_settings

SECRET = "sk-0123456789abcdef-never-shown"


def write(home: Home, text: str) -> None:
    home.folder.mkdir(parents=True, exist_ok=True)
    home.tenants_file.write_text(text, encoding="utf-8")


def problem(home: Home, text: str) -> str:
    """What the user reads about a tenants.toml that is refused."""
    write(home, text)
    with pytest.raises(ConfigError) as refused:
        _ = home.settings
    return str(refused.value)


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        # A slip of the editor: the line is what helps to find it.
        pytest.param("[engine\n", "", "is not valid TOML: .*line 1", id="bad TOML"),
        # A misspelled key that was ignored would leave its default in force, unseen.
        pytest.param("[cache]\nl1_entrys = 5\n", "cache.l1_entrys", "not permitted", id="unknown"),
        # The file has many numbers: the message must say which of them.
        pytest.param(
            '[batches]\nmax_reviews = "many"\n', "batches.max_reviews", "integer", id="wrong type"
        ),
        # A tenant of no taxonomy could not be asked about; the names to choose from are given.
        pytest.param(
            '[tenants.acme]\ntaxonomy = "revews"\n',
            "tenants.acme.taxonomy",
            "cannot be used: .*complaints, reviews",
            id="unknown taxonomy",
        ),
        # A pool of a tenant's name would share that tenant's private answers.
        pytest.param(
            '[tenants.acme]\n[tenants.bolt]\npool = "acme"\n',
            "",
            r"tenants\.bolt\.pool: 'acme' is the name of a tenant",
            id="pool named like a tenant",
        ),
        # Alerts are raised in this order, each once: a lower one after a higher never comes.
        pytest.param(
            "[tenants.acme]\nalert_at = [75, 50]\n",
            "tenants.acme",
            "alert_at must ascend",
            id="alert_at not ascending",
        ),
        # Without a secret nobody could tell our alerts from anybody's.
        pytest.param(
            '[[alerts.channels]]\nname = "h"\nkind = "webhook"\nurl_env = "U"\n',
            "alerts.channels.0",
            "secret_env: a channel of kind 'webhook' needs it",
            id="unsigned webhook",
        ),
        # An address is a secret, so there is no key for it.
        pytest.param(
            '[[alerts.channels]]\nname = "h"\nkind = "slack"\nurl = "https://h.test"\n',
            "alerts.channels.0.url",
            "not permitted",
            id="address of a channel",
        ),
        # A misspelt tenant would be told of nothing.
        pytest.param(
            '[[alerts.channels]]\nname = "l"\nkind = "log"\ntenants = ["acm"]\n[tenants.acme]\n',
            "",
            r"alerts\.channels\.0\.tenants: 'acm' is no tenant",
            id="channel of no tenant",
        ),
        # Deliveries are kept by name.
        pytest.param(
            '[alerts]\nchannels = [{ name = "l", kind = "log" }, { name = "l", kind = "log" }]\n',
            "alerts",
            "two have the same name",
            id="channels of one name",
        ),
    ],
)
def test_what_is_wrong_is_named(home: Home, text: str, key: str, words: str) -> None:
    """The user mends a file by its name and the key in it."""
    said = problem(home, text)
    assert said.startswith(f"{home.tenants_file}: {key} " if key else f"{home.tenants_file} ")
    assert re.search(words, said)


def test_mistyped_column_is_named(home: Home) -> None:
    """A map of a column we do not have would be ignored, and its values silently lost."""
    said = problem(home, '[tenants.acme.columns]\ntext = "body"\nraiting = "stars"\n')
    assert said.startswith(f"{home.tenants_file}: tenants.acme.columns.raiting is not valid: ")
    known = (*INPUT_FIELDS, *load_taxonomy("reviews").truth_columns())
    assert said.endswith(f"the names are: {', '.join(known)}")


def test_every_column_can_be_mapped(home: Home) -> None:
    """The check must know the truth columns of the tenant's own taxonomy, not of the shipped."""
    write(
        home,
        '[tenants.acme]\ntaxonomy = "own"\n[tenants.acme.columns]\nverdict = "their verdict"\n'
        + "".join(f'{name} = "their {name}"\n' for name in INPUT_FIELDS),
    )
    (home.folder / "taxonomies").mkdir()
    (home.folder / "taxonomies" / "own.toml").write_text(
        'name = "own"\nversion = 1\ndocument = "note"\ninstructions = "Read."\n'
        '[[fields]]\nname = "mood"\nquestion = "Which?"\nlabels = ["up", "down"]\n'
        'truth_column = "verdict"\n',
        encoding="utf-8",
    )
    assert set(home.tenant("acme").columns) == {*INPUT_FIELDS, "verdict"}


def test_credentials_in_the_address_are_refused_unseen(home: Home) -> None:
    """The address is logged and shown: a password in it must not even reach the message."""
    said = problem(home, f'[engine]\nbase_url = "https://me:{SECRET}@example.com/v1"\n')
    assert "engine.base_url" in said
    assert "must hold no credentials" in said
    assert SECRET not in said


def test_the_key_is_read_and_never_held(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings are logged by people: the key's value stays in the environment."""
    monkeypatch.setenv("SHOP_KEY", SECRET)
    write(home, '[engine]\napi_key_env = "SHOP_KEY"\n')
    settings = home.settings
    assert settings.engine.api_key() == SECRET
    shown = (repr(settings), str(settings), repr(settings.engine), repr(home), repr(vars(home)))
    assert not [text for text in shown if SECRET in text]
    assert SECRET not in settings.model_dump_json()


def test_missing_key_names_its_variable(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable of blanks is no key: found before a request, not by a refusal of the endpoint."""
    monkeypatch.setenv("SHOP_KEY", "  ")
    write(home, '[engine]\napi_key_env = "SHOP_KEY"\n')
    with pytest.raises(UserError, match="SHOP_KEY is not set"):
        home.settings.engine.api_key()


def test_written_settings_are_the_defaults(home: Home) -> None:
    """A new tenants.toml must work as it is, and change nothing."""
    write(home, commented_settings())
    assert home.settings == Settings(tenants={"acme": TenantSettings()})


def test_every_commented_key_holds_its_default() -> None:
    """Removing a # must change nothing either; a key left out of the file is not explained."""
    lines = [line for line in commented_settings().splitlines() if not line.endswith("(none)")]
    data = tomllib.loads(re.sub(r"(?m)^# (\w+ = )", r"\1", "\n".join(lines)))
    defaults = Settings(tenants={"acme": TenantSettings()})
    assert Settings.model_validate(data) == defaults
    assert data.keys() == Settings.model_fields.keys()
    # No value of theirs means none.
    unset = {"pool", "embedding_key_env", "metrics_url", "reference_model"}
    acme = data["tenants"]["acme"]
    assert acme.keys() == TenantSettings.model_fields.keys() - unset
    elsewhere = {"run_seconds", "hit_rate", "accuracy"}  # their defaults stand in other keys
    assert acme["service"].keys() == ServiceLevels.model_fields.keys() - elsewhere
    for name in data.keys() - {"tenants", "first_day"}:
        assert data[name].keys() == type(getattr(defaults, name)).model_fields.keys() - unset


def test_demo_home_takes_no_real_tenants(home: Home) -> None:
    """Simulated answers beside paid ones could be published as real."""
    home.claim()
    home.claim()  # the second run of a demo
    write(home, "")
    with pytest.raises(UserError, match="holds demo data and must not be mixed"):
        Home(home.folder).claim()


def test_real_home_is_no_demo_without_its_tenants(home: Home) -> None:
    """A lost tenants.toml must not let the simulator answer for real tenants."""
    write(home, "")
    home.claim()
    home.claim()
    home.tenants_file.unlink()
    with pytest.raises(UserError, match=r"has lost its tenants\.toml: put it back"):
        Home(home.folder).claim()


def test_a_key_never_goes_to_another_host(home: Home) -> None:
    """The engine's key belongs to the engine's vendor; embeddings elsewhere need their own."""
    elsewhere = '[patterns]\nsemantic = "endpoint"\nembedding_base_url = "https://other.test/v1"\n'
    write(home, elsewhere)
    with pytest.raises(ConfigError, match="embedding_key_env"):
        _ = home.settings
    write(home, elsewhere + 'embedding_key_env = "OTHER_KEY"\n')
    assert Home(home.folder).settings.patterns.embedding_key_env == "OTHER_KEY"


def test_a_setup_that_cannot_pass_its_own_gate_is_refused(home: Home) -> None:
    """Patterns that may be wrong as often as the gate forbids would fail every day."""
    write(home, "[tenants.acme]\nmax_error = 0.04\n")
    with pytest.raises(ConfigError, match="lower max_error"):
        _ = home.settings


@pytest.mark.parametrize(
    ("wanted", "model", "sent"),
    [
        ("auto", "gpt-6-luna", "none"),
        ("auto", "gpt-6-luna-2026-08-01", "none"),
        ("auto", "gpt-5-nano", "minimal"),
        ("auto", "gpt-4o-mini", None),  # it knows no such parameter, and would refuse the request
        ("auto", "my-own-model", None),
        ("default", "gpt-6-luna", None),
        ("high", "my-own-model", "high"),
    ],
)
def test_the_least_reasoning_that_a_model_takes_is_asked_for(
    wanted: str, model: str, sent: str | None
) -> None:
    """Labels need no reasoning, and it is billed as output."""
    assert EngineSettings.model_validate({"reasoning_effort": wanted}).effort(model) == sent


def test_the_goal_is_no_lower_than_what_is_asked_for(home: Home) -> None:
    """One that is written must fit; one that is not follows, so that no old file is refused."""
    said = problem(home, "[tenants.acme]\nmin_accuracy = 0.95\ngoal_accuracy = 0.94\n")
    assert "goal_accuracy 0.94 is less than min_accuracy 0.95" in said
    strict = TenantSettings(min_accuracy=0.995, max_error=0.003, model_error=0.002)
    assert strict.goal == 0.995
    assert TenantSettings().goal == 0.99
