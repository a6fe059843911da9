"""The sentences of an explanation by their codes, which never change their meaning.

A code names its sentence, so that it can be shown in another language. What stands in
braces is filled in: ids, statuses and days, never a value of a person.
"""

from __future__ import annotations

_UNUSED = {
    "unusable": "What Zoho sent cannot be used ({problems}).",
    "not_applied": "It was recorded, but could not be applied.",
    "not_approved": "It is a draft or not approved in Zoho.",
    "stale": "It is older than what the ledger already had.",
    "not_newer_than_deletion": "It is not newer than the deletion of the record.",
    "led_to_nothing": "It led to nothing.",
}
"""Why a version of a record does not count."""

SENTENCES = {
    # record
    "came": "Zoho sent this enrollment {times}.",
    "deleted": "{title} was deleted in Zoho.",
    "deleted_and_sent_again": "{title} was deleted in Zoho. A version that came afterwards is not newer "
    "than that, so it does not count.",
    # valid
    "valid": "The newest version that counts is complete and approved.",
    **_UNUSED,
    **{
        f"earlier_counts_{code}": "An earlier version counts; that of position {newest} does not. " + sentence
        for code, sentence in _UNUSED.items()
    },
    "takes_no_seat": "{title} has the status {status} in Zoho, which takes no seat in a course.",
    "not_looked_at_deleted": "A deleted enrollment is not looked at further.",
    # student, class, program
    "none_named": "No usable version of the enrollment names a {entity}.",
    "known": "{title} is known and active.",
    "not_come": "{title} has not come from Zoho yet.",
    "waits": "{title} waits itself for {named}.",
    **{f"cannot_count_{code}": "{title} cannot count. " + sentence for code, sentence in _UNUSED.items()},
    "no_program": "The enrollment names no program; none is needed.",
    "program_deleted": "{title} was deleted in Zoho; that keeps nobody out of a course.",
    "program_not_come": "{title} has not come from Zoho yet; that keeps nobody out of a course.",
    # period
    "no_dates": "The enrollment has no dates that limit it.",
    "within_dates": "Today is {today} in {zone}, within the enrollment's dates ({dates}).",
    "not_begun": "The enrollment's first day is {start}, and today is {today} in {zone}.",
    "ended": "The enrollment's last day was {end}, and today is {today} in {zone}.",
    "end_before_start": "The end of the enrollment, {end}, is before its start, {start}.",
    "no_usable_version": "No usable version of the enrollment tells its dates.",
    # moodle_user, moodle_course
    "no_seat_asked": "Not looked at: the enrollment does not ask for a seat.",
    "no_moodle": "No Moodle is connected for this college.",
    "in_moodle": "{what} in Moodle has the id {moodle_id}.",
    "in_moodle_change_refused": "{what} in Moodle has the id {moodle_id}. Its newest change was not made: {said}.",
    "not_in_moodle": "{what} is not in Moodle: {said}.",
    "queued": "{what} is queued: Moodle has not reported on it yet.",
    "not_reported": "{what}: Moodle has not reported on it, and no Moodle is connected here.",
    "report_outdated": "{what}: what is asked for now is newer than Moodle's last report on it, and no "
    "Moodle is connected here.",
    # moodle_enrolment
    "seat_confirmed": "Moodle confirmed the seat {moodle_id} (course and user).",
    "seat_queued": "The seat is queued: Moodle has not confirmed it yet.",
    "seat_refused": "Moodle does not give the seat: {said}.",
    "seat_blocked": "Moodle does not give the seat: its account or its course is not there.",
    "seat_given_up": "No seat is asked for. Moodle acknowledged that for {moodle_id} (course and user), "
    "which stays only where another enrollment asks for it.",
    "seat_still_there": "The seat {moodle_id} is still to be taken back in Moodle.",
    "seat_not_known": "Zoho's records ask for a seat, but no Moodle is connected for this college, so the "
    "ledger cannot tell who sits in the course.",
}
