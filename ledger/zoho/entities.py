"""What each kind of Zoho record is: its fields, where Zoho keeps them, what it needs.

One declaration makes an entity: mapping, fold, endpoints and lists follow from it.
Zoho's field names are from the module metadata of a college in production and from
payloads seen in public integrations; a tenant may override them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec


class Field(msgspec.Struct, frozen=True):
    """One canonical field.

    `number` names the field in stored events and never changes or returns.
    `names`: Zoho's names, the first that is present and not empty counts.
    `fallback`: names that count only while the record has no value of its own.
    `kind`: `text`, `code` (text that machines compare), `lookup`, `price`, `date` or
    `moodle_id`.
    `refers`: the entity of a lookup; with `needs` the record waits until it is there.
    `personal`: tells of a person, or names one; never kept where no key of that person seals.
    """

    name: str
    number: int
    names: tuple[str, ...]
    kind: str = "text"
    fallback: tuple[str, ...] = ()
    required: bool = False
    fingerprint: bool = True
    refers: str | None = None
    needs: bool = False
    personal: bool = False


class Entity(msgspec.Struct, frozen=True):
    """One kind of record. `sealed_by` is `zoho_id` or the lookup that names the person
    whose key seals its payloads; None for records that speak of no person.
    """

    name: str
    plural: str
    fields: tuple[Field, ...]
    sealed_by: str | None = None

    @property
    def is_person(self) -> bool:
        """Whether its records are persons: each is sealed under its own key."""
        return self.sealed_by == "zoho_id"

    @property
    def zoho_names(self) -> frozenset[str]:
        """Every Zoho name that a canonical field is read from."""
        return frozenset(name for field in self.fields for name in (*field.names, *field.fallback))

    @property
    def title(self) -> str:
        """The word that messages begin with: `Program`."""
        return self.name.capitalize()

    @property
    def id_key(self) -> str:
        """The key of the record's id in answers: `zoho_program_id`."""
        return f"zoho_{self.name}_id"

    def with_names(self, names: Mapping[str, tuple[str, ...]]) -> Entity:
        """The same entity, some fields under other Zoho names. Raises `KeyError`."""
        known = {field.name for field in self.fields}
        if unknown := set(names) - known:
            raise KeyError(unknown.pop())
        fields = tuple(
            msgspec.structs.replace(f, names=names[f.name], fallback=()) if f.name in names else f
            for f in self.fields
        )
        return msgspec.structs.replace(self, fields=fields)


STUDENT = Entity(
    "student",
    "students",
    (
        Field("first_name", 1, ("First_Name",), personal=True),
        Field("last_name", 2, ("Last_Name",), personal=True),
        Field("email", 3, ("Academic_Email", "Email"), "code", personal=True),
        Field("student_number", 4, ("Name", "Student_ID"), "code", personal=True),
        Field("status", 5, ("Status", "status"), "code"),
        Field("program_zoho_id", 6, ("Program", "BTEC_Program"), "lookup", refers="program"),
    ),
    sealed_by="zoho_id",
)

PROGRAM = Entity(
    "program",
    "programs",
    (
        Field("name", 1, ("Product_Name",), required=True),
        Field("price", 2, ("Price", "Program_Price", "Unit_Price"), "price"),
        Field(
            "moodle_id",
            3,
            ("Moodle_ID", "MoodleID", "moodle_id", "crmnmoodle__Moodle_ID"),
            "moodle_id",
        ),
        Field("status", 4, ("status", "Status", "Product_Active"), "code"),
    ),
)

CLASS = Entity(
    "class",
    "classes",
    (
        Field(
            "name",
            1,
            ("BTEC_Class_Name", "Class_Name"),
            fallback=("Short_Name", "Class_Short_Name", "Name"),
            required=True,
        ),
        Field("short_name", 2, ("Short_Name", "Class_Short_Name")),
        Field("start_date", 3, ("Start_Date",), "date"),
        Field("end_date", 4, ("End_Date",), "date"),
        Field("status", 5, ("status", "Status", "Class_Status"), "code"),
        Field("program_zoho_id", 6, ("BTEC_Program", "Program"), "lookup", refers="program"),
        Field("teacher_zoho_id", 7, ("Teacher",), "lookup", fingerprint=False, personal=True),
        Field("unit_zoho_id", 8, ("Unit",), "lookup", fingerprint=False),
        Field("moodle_id", 9, ("Moodle_Class_ID",), "moodle_id", fingerprint=False),
    ),
)

ENROLLMENT = Entity(
    "enrollment",
    "enrollments",
    (
        Field(
            "student_zoho_id",
            1,
            ("Student", "Enrolled_Students"),
            "lookup",
            required=True,
            refers="student",
            needs=True,
            personal=True,
        ),
        Field(
            "class_zoho_id",
            2,
            ("BTEC_Class", "Classes", "Class"),
            "lookup",
            required=True,
            refers="class",
            needs=True,
        ),
        Field("program_zoho_id", 3, ("BTEC_Program", "Program"), "lookup", refers="program"),
        Field("status", 4, ("status", "Status"), "code"),
        Field("start_date", 5, ("Start_Date",), "date"),
        Field("end_date", 6, ("End_Date",), "date", fingerprint=False),
    ),
    sealed_by="student_zoho_id",
)


class Entities:
    """The registry: entities by name and by plural, and who needs whom."""

    def __init__(self, entities: Sequence[Entity]) -> None:
        self._by_name = {entity.name: entity for entity in entities}
        self.by_plural = {entity.plural: entity for entity in entities}
        self.needed = frozenset(
            field.refers for entity in entities for field in entity.fields if field.needs and field.refers
        )

    def __iter__(self) -> Iterator[Entity]:
        return iter(self._by_name.values())

    def __getitem__(self, name: str) -> Entity:
        return self._by_name[name]

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def names(self) -> list[str]:
        """Every entity's name, in the order of declaration."""
        return list(self._by_name)


ENTITIES = Entities((STUDENT, PROGRAM, CLASS, ENROLLMENT))
"""The four kinds of records that Zoho sends today."""
