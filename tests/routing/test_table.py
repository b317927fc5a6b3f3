"""Which sinks a header leads to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cdp_ray_sinks.batch.batch import NO_PRODUCER, BatchHeader
from cdp_ray_sinks.batch.enums import EventType, SchemaType
from cdp_ray_sinks.routing import table as table_module
from cdp_ray_sinks.routing.table import Match, RoutingTable, Rule, event_type_mask


def header(
    source: str = "tcp",
    schema: int = SchemaType.EVENT,
    workspace: int = 1,
    event_types: int = 1 << EventType.TRACK,
) -> BatchHeader:
    return BatchHeader(NO_PRODUCER, 0, 0, schema, event_types, workspace, source, 0, 1, 1, 1, 0)


def test_without_rules_everything_goes_to_the_default() -> None:
    """A table of a default alone names it for any batch."""
    table = RoutingTable(["a", "b"])
    assert table.route(header()) == ("a", "b")
    assert table.route(header(schema=SchemaType.LOG, event_types=0)) == ("a", "b")


def test_first_match_wins() -> None:
    """When two rules match, the one written first decides."""
    table = RoutingTable(
        ["default"],
        [
            Rule(Match(sources=frozenset({"tcp"})), ("first",)),
            Rule(Match(sources=frozenset({"tcp"})), ("second",)),
        ],
    )
    assert table.route(header("tcp")) == ("first",)
    assert table.route(header("other")) == ("default",)


def test_all_conditions_must_hold() -> None:
    """A rule with two conditions does not match on one of them."""
    match = Match(sources=frozenset({"tcp"}), workspaces=frozenset({7, 8}))
    table = RoutingTable(["default"], [Rule(match, ("both",))])
    assert table.route(header("tcp", workspace=7)) == ("both",)
    assert table.route(header("tcp", workspace=8)) == ("both",)
    assert table.route(header("tcp", workspace=9)) == ("default",)
    assert table.route(header("other", workspace=7)) == ("default",)


def test_an_event_type_matches_if_any_such_event_is_in_the_batch() -> None:
    """One IDENTIFY among many TRACK events is enough, and the batch goes whole."""
    identify = event_type_mask([EventType.IDENTIFY])
    table = RoutingTable(["default"], [Rule(Match(event_types=identify), ("people",))])
    mixed = event_type_mask([EventType.TRACK, EventType.IDENTIFY])
    assert table.route(header(event_types=mixed)) == ("people",)
    assert table.route(header(event_types=event_type_mask([EventType.TRACK]))) == ("default",)
    assert table.route(header(schema=SchemaType.LOG, event_types=0)) == ("default",)


def test_an_empty_match_is_everything() -> None:
    """A rule without conditions takes all that earlier rules left."""
    table = RoutingTable(["default"], [Rule(Match(), ("all",))])
    assert Match().is_everything
    assert table.route(header()) == ("all",)


def test_reached_names_every_sink_that_can_get_something() -> None:
    """The default's sinks and those of all rules, each once."""
    table = RoutingTable(["a"], [Rule(Match(), ("b", "a")), Rule(Match(), ("c",))])
    assert table.reached() == {"a", "b", "c"}


def test_remembered_routes_are_bounded() -> None:
    """More workspaces than may be remembered leave no more than that."""
    table = RoutingTable(["a"])
    for workspace in range(table_module.ROUTES_MAX + 100):
        table.route(header(workspace=workspace))
    assert len(table._routes) <= table_module.ROUTES_MAX


@given(
    st.lists(
        st.builds(
            Match,
            st.frozensets(st.sampled_from(["a", "b"])),
            st.frozensets(st.integers(0, 2)),
            st.frozensets(st.integers(1, 3)),
            st.integers(0, 7),
        ),
        max_size=5,
    ),
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b"]), st.integers(0, 2), st.integers(1, 3), st.integers(0, 7)
        ),
        max_size=20,
    ),
)
def test_remembering_changes_no_answer(
    matches: list[Match], batches: list[tuple[str, int, int, int]]
) -> None:
    """A table that has routed other batches answers as a fresh one does."""
    rules = [Rule(match, (str(place),)) for place, match in enumerate(matches)]
    used = RoutingTable(["default"], rules)
    for batch in batches + batches:
        assert used.route(header(*batch)) == RoutingTable(["default"], rules).route(header(*batch))
