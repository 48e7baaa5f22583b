"""The steps of a run in plain words, for people who watch one."""

from __future__ import annotations

TITLES = {
    "deliveries": "reading the inbox",
    "cache_resolution": "looking up what was answered before",
    "batch_plan": "packing batches",
    "batch_classifications": "asking the model",
    "review_results": "putting the day's results together",
    "tenant_ledger": "booking what it cost",
    "cost_rollups": "adding up the money",
    "gate": "judging the day (the gate)",
    "published_results": "publishing",
    "review_archive": "archiving answers",
    "category_patterns": "training patterns",
    "service_levels": "checking service levels",
    "operations_dashboard": "drawing the dashboard",
    "text_embeddings": "embedding texts",
}


def title(name: str) -> str:
    """What a step does; its own name, readable, where nobody has described it.

    >>> title("gate"), title("some_new_step")
    ('judging the day (the gate)', 'some new step')
    """
    return TITLES.get(name, name.replace("_", " "))


def duration(seconds: float) -> str:
    """A time that people read at a glance.

    >>> duration(4.2), duration(75), duration(7_260)
    ('4 s', '1 min 15 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3_600} h {whole % 3_600 // 60} min"
