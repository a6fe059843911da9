"""The fold: given these records, when this one arrives, then this state and this answer."""

from __future__ import annotations

from typing import Any

import pytest

from ledger import clock
from ledger.events import Event
from ledger.seal import Known, Origin, seal
from ledger.settings import TenantSettings
from ledger.zoho.entities import ENTITIES, Entities
from ledger.zoho.records import Reader
from projections.fold import CurrentState, Outcome
from projections.inline import InlineState
from projections.state import Row, UndeclaredError, View, WholeView

T0 = clock.from_datetime(__import__("datetime").datetime(2026, 1, 1, tzinfo=__import__("datetime").UTC))


class Story:
    """Folds records one after the other. Each fold sees only what it declared."""

    def __init__(self, entities: Entities = ENTITIES) -> None:
        self.inline = InlineState(entities)
        self.fold = CurrentState(entities)
        self.entities = entities
        self.reader = Reader(entities, TenantSettings())
        self.rows: dict[Any, Row | None] = {}
        self.dependents: dict[Any, set[Any]] = {}
        self.position = 0
        self.events: list[Event] = []
        self.payloads: list[Any] = []
        self.whole = WholeView()

    def when(self, entity: str, raw: Any, at: int | None = None) -> Outcome:
        """Folds one record twice: into a view of declared rows, and into a whole one."""
        record = self.reader.read(entity, raw)
        view = View()
        while wanted := self.inline.wanted(view, [record], ()):
            for name in wanted.records:
                view.rows[name] = self.rows.get(name)
            for name in wanted.dependents:
                view.dependents[name] = set(self.dependents.get(name, ()))
                for dependent in view.dependents[name]:
                    view.rows[dependent] = self.rows.get(dependent)
        self.position += 1
        event = seal(
            record, self.entities[entity], Origin("t", "sync", "d"), None,
            self.inline.known(view, record) if record.zoho_id else Known(),
            stream=f"{entity}-{record.zoho_id}",
            version=self.inline.next_version(view, record) if record.zoho_id else 1,
            position=self.position, recorded_at=at or T0 + self.position * clock.SECOND,
        )  # fmt: skip
        from ledger.codec import decode

        payload = decode(event.topic, event.payload)
        outcome = self.fold.apply(view, event, payload)
        assert self.fold.apply(self.whole, event, payload) == outcome
        for name in view.changed:
            self.rows[name] = view.rows[name]
            assert view.rows[name] == self.whole.row(name)
        for needed, dependent in view.linked:
            self.dependents.setdefault(needed, set()).add(dependent)
        for needed, dependent in view.unlinked:
            self.dependents.setdefault(needed, set()).discard(dependent)
        return outcome

    def row(self, entity: str, zoho_id: str) -> Row:
        """A record's row."""
        row = self.rows[entity, zoho_id]
        assert row is not None
        return row


def enrolled() -> Story:
    """Given a student, a class and an enrollment of one in the other."""
    story = Story()
    story.when("student", {"id": "S", "Last_Name": "N"})
    story.when("class", {"id": "C", "Class_Name": "A"})
    assert story.when("enrollment", {"id": "E", "Student": "S", "Class": "C"}).status == "NEW"
    return story


def test_nothing_undeclared() -> None:
    """A view raises on what was not declared, so a handler cannot look at it."""
    view = View()
    with pytest.raises(UndeclaredError):
        view.row(("student", "S"))
    with pytest.raises(UndeclaredError):
        view.dependents_of(("student", "S"))


def test_waits_and_is_released() -> None:
    """Student named first; released once both are there, as NEW."""
    story = Story()
    waiting = story.when("enrollment", {"id": "E", "Student": "S", "Class": "C"})
    assert (waiting.status, waiting.reason) == ("SKIPPED", "student_not_synced_yet")
    assert waiting.waiting_for == (("student", "S"), ("class", "C"))
    assert story.when("class", {"id": "C", "Class_Name": "A"}).effects == []
    assert story.row("enrollment", "E").waiting_for == (("student", "S"),)
    [effect] = story.when("student", {"id": "S"}).effects
    assert (effect.zoho_id, effect.status, effect.own_position) == ("E", "NEW", 1)
    assert story.row("enrollment", "E").state == "active"


def test_waiting_holds_the_newest_version() -> None:
    """What is released is what came last, and an older record does not replace it."""
    story = Story()
    base = {"id": "E", "Student": "S", "Class": "C"}
    story.when("enrollment", {**base, "status": "a", "Modified_Time": "2025-01-01T00:00:00Z"})
    story.when("enrollment", {**base, "status": "b", "Modified_Time": "2025-01-02T00:00:00Z"})
    stale = story.when("enrollment", {**base, "status": "c", "Modified_Time": "2025-01-01T00:00:00Z"})
    assert stale.reason == "stale"
    story.when("student", {"id": "S"})
    [effect] = story.when("class", {"id": "C", "Class_Name": "A"}).effects
    assert effect.own_position == 2
    assert story.row("enrollment", "E").fields["status"] == "b"


@pytest.mark.parametrize("gone", ["student", "class"])
def test_deletion_makes_wait_again(gone: str) -> None:
    """Deleting student or class suspends the enrollment; its return frees it unchanged."""
    story = enrolled()
    zoho_id = gone[0].upper()
    [effect] = story.when(gone, {"id": zoho_id, "Record_Status__s": "Trash"}).effects
    assert (effect.status, effect.reason) == ("SKIPPED", f"{gone}_not_synced_yet")
    assert story.row("enrollment", "E").state == "waiting"
    [effect] = story.when(gone, {"id": zoho_id, "Class_Name": "A"}).effects
    assert effect.status == "UNCHANGED"


def test_back_to_what_it_was_is_an_update() -> None:
    """An enrollment that waited for another class and comes back differs from what was known."""
    story = enrolled()
    story.when("enrollment", {"id": "E", "Class": "C2"})
    outcome = story.when("enrollment", {"id": "E", "Class": "C"})
    assert (outcome.status, outcome.changes) == ("UPDATED", {"class_zoho_id": ("C2", "C")})


def test_the_epoch_is_an_instant() -> None:
    """An instant of 0 is older than anything, not missing."""
    story = Story()
    story.when("program", {"id": "P", "Product_Name": "x", "Modified_Time": "2024-01-01T00:00:00Z"})
    old = {"id": "P", "Product_Name": "old", "Modified_Time": "1970-01-01T00:00:00Z"}
    assert story.when("program", old).reason == "stale"
    assert story.when("program", {**old, "operation": "delete"}).reason == "stale"


def test_a_stand_in_follows_a_stand_in() -> None:
    """A class named by its short name keeps following it, until it has a name of its own."""
    story = Story()
    story.when("class", {"id": "C", "Short_Name": "A"})
    assert set(story.when("class", {"id": "C", "Short_Name": "B"}).changes) == {"name", "short_name"}
    story.when("class", {"id": "C", "Class_Name": "Maths"})
    assert set(story.when("class", {"id": "C", "Short_Name": "D"}).changes) == {"short_name"}
    assert story.row("class", "C").fields["name"] == "Maths"


def test_change_while_waiting_is_an_update_on_release() -> None:
    """UPDATED compares with the content that was active last."""
    story = enrolled()
    story.when("class", {"id": "C", "Record_Status__s": "Trash"})
    assert story.when("enrollment", {"id": "E", "status": "x"}).status == "SKIPPED"
    [effect] = story.when("class", {"id": "C", "Class_Name": "A"}).effects
    assert effect.status == "UPDATED"


def test_deleted_enrollment_starts_anew() -> None:
    """After a deletion a release is NEW again, and a deleted one is not released."""
    story = enrolled()
    story.when("enrollment", {"id": "E", "Record_Status__s": "Trash"})
    assert story.when("class", {"id": "C", "Record_Status__s": "Trash"}).effects == []
    assert story.when("class", {"id": "C", "Class_Name": "A"}).effects == []
    assert story.when("enrollment", {"id": "E", "status": "x"}).status == "NEW"


def test_tombstones() -> None:
    """A second deletion is UNCHANGED, an older one stale; equal is not newer than one."""
    story = Story()
    new, old = {"Modified_Time": "2025-02-01T00:00:00Z"}, {"Modified_Time": "2025-01-01T00:00:00Z"}
    trash = {"id": "P", "operation": "delete"}
    story.when("program", {"id": "P", "Product_Name": "x", **new})
    assert story.when("program", {**trash, **old}).reason == "stale"
    assert story.when("program", {**trash, **new}).status == "DELETED"
    assert story.when("program", {**trash, **old}).status == "UNCHANGED"
    assert story.when("program", {"id": "P", "Product_Name": "x", **new}).reason == "deleted"
    back = story.when("program", {"id": "P", "Modified_Time": "2025-02-01T00:00:01Z"})
    assert back.status == "NEW"
    assert story.when("program", {"id": "Q", "operation": "delete"}).status == "DELETED"


def test_order_of_rules() -> None:
    """INVALID before stale before not approved."""
    story = Story()
    story.when("program", {"id": "P", "Product_Name": "x", "Modified_Time": "2025-02-01T00:00:00Z"})
    old = "2025-01-01T00:00:00Z"
    both = {"id": "P", "Modified_Time": old, "$approved": False}
    assert story.when("program", {**both, "Product_Name": None}).status == "INVALID"
    assert story.when("program", both).reason == "stale"
    assert story.when("program", {"id": "P", "$approved": False}).reason == "not_approved"
    assert story.row("program", "P").fields["name"] == "x"
    assert story.row("program", "P").version == 4
    assert story.row("program", "P").state_version == 1


def test_unreadable_required_field() -> None:
    """A lookup without an id makes an enrollment invalid, and the error says why."""
    outcome = Story().when("enrollment", {"id": "E", "Student": "Layla Nasser", "Class": "C"})
    assert outcome.status == "INVALID"
    said = "unreadable, Student looks like a display name or an address, not like an id"
    assert outcome.errors == [("student_zoho_id", said)]


UNREADABLE = [
    ("class", {"End_Date": "2026-12-31"}, {"End_Date": "2026-12-32"}, "end_date"),
    ("class", {"Start_Date": "2026-12-31"}, {"Start_Date": "31/12/2026 or later"}, "start_date"),
    ("class", {"Teacher": "T1"}, {"Teacher": "Mr Smith"}, "teacher_zoho_id"),
    ("class", {"Status": "Active"}, {"Status": ["a", "b"]}, "status"),
    ("class", {"Status": "Active"}, {"Status": "${!Class.Status}d"}, "status"),
    ("program", {"Price": 5}, {"Price": "on request"}, "price"),
    ("program", {"Moodle_ID": 5}, {"Moodle_ID": {"a": 1}}, "moodle_id"),
    ("student", {"Email": "a@b.c"}, {"Email": {"a": 1}}, "email"),
    ("student", {"Program": "P"}, {"Program": [{"id": "P"}, {"id": "Q"}]}, "program_zoho_id"),
]  # fmt: skip


@pytest.mark.parametrize(("entity", "good", "bad", "field"), UNREADABLE)
def test_what_cannot_be_read_does_not_wipe_what_is_known(
    entity: str, good: dict[str, Any], bad: dict[str, Any], field: str
) -> None:
    """It counts as absent, with a warning; an unknown record gets no value."""
    required = {"Product_Name": "x", "Class_Name": "x", "Last_Name": "x"}
    story = Story()
    story.when(entity, {"id": "1", **required, **good})
    known = story.row(entity, "1").fields[field]
    outcome = story.when(entity, {"id": "1", **bad})
    assert (outcome.status, [f for f, _ in outcome.warnings]) == ("UNCHANGED", [field])
    assert story.row(entity, "1").fields[field] == known is not None
    outcome = story.when(entity, {"id": "2", **required, **bad})
    assert (outcome.status, [f for f, _ in outcome.warnings]) == ("NEW", [field])
    assert story.row(entity, "2").fields.get(field) is None


@pytest.mark.parametrize(
    ("entity", "good", "bad", "field"),
    [
        ("program", {"Product_Name": "x"}, {"Product_Name": {"a": 1}}, "name"),
        ("class", {"Class_Name": "x"}, {"Class_Name": ["a", "b"]}, "name"),
        ("enrollment", {"Student": "S", "Class": "C"}, {"Student": "Mr Smith"}, "student_zoho_id"),
        ("enrollment", {"Student": "S", "Class": "C"}, {"Class": [{"id": 1}, {"id": 2}]}, "class_zoho_id"),
    ],
)
def test_a_required_value_that_cannot_be_read(
    entity: str, good: dict[str, Any], bad: dict[str, Any], field: str
) -> None:
    """The record is INVALID, known or not, and the state stays."""
    story = enrolled()
    story.when(entity, {"id": "1", **good})
    before = story.row(entity, "1").fields
    for zoho_id in ("1", "2"):
        outcome = story.when(entity, {"id": zoho_id, **bad})
        assert outcome.status == "INVALID"
        assert [(f, said.startswith("unreadable, ")) for f, said in outcome.errors if f == field] == [
            (field, True)
        ]
    assert story.row(entity, "1").fields == before


def test_an_unreadable_name_of_a_class_yields_to_its_stand_in() -> None:
    """A stand-in then, so that it never replaces a real name."""
    story = Story()
    bad = {"id": "C", "Class_Name": ["a", "b"], "Short_Name": "A1"}
    outcome = story.when("class", bad)
    assert (outcome.status, [f for f, _ in outcome.warnings]) == ("NEW", ["name"])
    assert story.row("class", "C").fields["name"] == "A1"
    story.when("class", {"id": "C", "Class_Name": "Algebra"})
    story.when("class", {**bad, "Short_Name": "A2"})
    assert story.row("class", "C").fields["name"] == "Algebra"


def test_a_record_that_states_no_instant_does_not_move_the_clock() -> None:
    """A full version stated earlier than a thin push arrived is still newer than the state."""
    story = Story()
    day = "2025-06-01T{}:00:00Z".format
    story.when("program", {"id": "P", "Product_Name": "a", "Modified_Time": day("10")})
    assert story.when("program", {"id": "P", "Price": 5}).status == "UPDATED"
    assert (
        story.when("program", {"id": "P", "Product_Name": "b", "Modified_Time": day("11")}).status
        == "UPDATED"
    )
    assert (
        story.when("program", {"id": "P", "Product_Name": "c", "Modified_Time": day("10")}).reason == "stale"
    )
    assert story.when("program", {"id": "P", "Status": "x", "Modified_Time": "soon"}).status == "UPDATED"
    assert (
        story.when("program", {"id": "P", "Product_Name": "d", "Modified_Time": day("12")}).status
        == "UPDATED"
    )


def test_a_tombstone_has_the_time_of_receipt() -> None:
    """Where it states none; a record without an instant is applied on arrival all the same."""
    story = Story()
    story.when("program", {"id": "P", "Product_Name": "a"})
    assert story.when("program", {"id": "P", "operation": "delete"}, at=T0 + clock.DAY).status == "DELETED"
    late = {"id": "P", "Product_Name": "b", "Modified_Time": "2026-01-01T12:00:00Z"}
    assert story.when("program", late, at=T0 + 2 * clock.DAY).reason == "deleted"
    assert story.when("program", {"id": "P", "Product_Name": "c"}).status == "NEW"
    assert story.when("program", late, at=T0 + 3 * clock.DAY).reason == "stale"


def test_provisional_name() -> None:
    """A thin record with the autonumber alone does not rename a class that has a name."""
    story = Story()
    assert story.when("class", {"id": "C", "Name": "C26-1"}).status == "NEW"
    assert story.row("class", "C").fields["name"] == "C26-1"
    assert story.when("class", {"id": "C", "Class_Name": "Maths"}).status == "UPDATED"
    assert story.when("class", {"id": "C", "Name": "C26-1", "status": "x"}).changes == {"status": (None, "x")}


def test_fingerprint_does_not_concatenate() -> None:
    """Moving a character from one field to the next is a change."""
    story = Story()
    story.when("student", {"id": "S", "First_Name": "ab", "Last_Name": "c"})
    assert story.when("student", {"id": "S", "First_Name": "a", "Last_Name": "bc"}).status == "UPDATED"
    assert story.when("student", {"id": "S", "First_Name": None, "Last_Name": "abc"}).status == "UPDATED"


def test_a_future_modified_time_states_nothing() -> None:
    """A clock that is ahead does not lock later records out."""
    story = Story()
    ahead = {"id": "P", "Product_Name": "x", "Modified_Time": "2099-01-01T00:00:00Z"}
    outcome = story.when("program", ahead)
    assert outcome.warnings == [("modified_time", "is in the future: the record is applied on arrival")]
    past = {"id": "P", "Product_Name": "y", "Modified_Time": "2020-01-01T00:00:00Z"}
    assert story.when("program", past).status == "UPDATED"


def test_a_failing_handler_leaves_no_trace() -> None:
    """Undo takes back rows, links and dependents."""
    story = enrolled()
    view = story.whole
    before = (dict(view.rows), {k: set(v) for k, v in view.dependents.items()})
    linked, changed = set(view.linked), set(view.changed)
    view.begin()
    view.edit(("enrollment", "E")).state = "deleted"
    view.edit(("student", "NEW")).version = 9
    view.unlink(("student", "S"), ("enrollment", "E"))
    view.link(("student", "T"), ("enrollment", "E"))
    view.undo()
    after = {k: set(v) for k, v in view.dependents.items() if v}
    assert {k: v for k, v in view.rows.items() if v is not None} == before[0]
    assert after == before[1]
    assert (view.linked, view.changed) == (linked, changed)
