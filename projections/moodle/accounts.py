"""Whose account is whose: by the student's Zoho id, else by username or e-mail address, else a new one.

An account is taken over only where it is surely the student's; what might be somebody
else's is left for a person.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from ledger.pace import in_turns
from projections.moodle.draft import Draft
from projections.moodle.plan import AccountChange
from projections.moodle.rules import Reason
from projections.moodle.site import GUEST, Account
from projections.moodle.wanted import FAILED, User, values_of
from projections.state import Name

Load = Callable[[Iterable[Name]], Awaitable[None]]
"""Reads more records into the wanted state, with those that they depend on."""

ID_OF_ANOTHER: Reason = (
    "id_of_another",
    (
        "the account with this e-mail address or username has another idnumber: "
        "correct the address in Zoho, or the account in Moodle"
    ),
)
AMBIGUOUS: Reason = (
    "ambiguous",
    "more than one account in Moodle may be this student's: put the Zoho id into the idnumber of the right one",
)
EMAIL_TAKEN: Reason = (
    "email_taken",
    "another account in Moodle has this e-mail address: correct it in Zoho, or the account in Moodle",
)
_USERNAME_TAKEN: Reason = ("username_taken", "another student has the same username: see MOODLE_USERNAME")
_RESERVED: Reason = (
    "reserved",
    "the account with this e-mail address or username is the guest's or the ledger's own",
)
OF_OTHERS = frozenset(reason[0] for reason in (ID_OF_ANOTHER, AMBIGUOUS, EMAIL_TAKEN, _USERNAME_TAKEN))
"""What somebody else's account is in the way of; it may leave."""


class Accounts:
    """Plans students' accounts. `own_id`: the token's own user. Everything raises as `Site` does.

    `misses`: whether somebody has no account that an idnumber names.
    """

    def __init__(self, draft: Draft, load: Load, own_id: int) -> None:
        self._draft = draft
        self._site = draft.site
        self._wanted = draft.wanted
        self._plan = draft.plan
        self._load = load
        self._reserved = {GUEST, own_id}
        self._done: set[str] = set()
        self.misses = False

    async def make(self, students: Iterable[str]) -> None:
        """Plans some students; where another one's account is in the way, that one, too."""
        pending = [s for s in sorted(students) if s not in self._done]
        self._done.update(pending)
        users = [user async for s in in_turns(pending) if (user := self._wanted.user(s)) is not None]
        found = await self._by_idnumber(user.zoho_id for user in users)
        missing: list[User] = []
        moved: list[AccountChange] = []
        async for user in in_turns(users):
            accounts = found.get(user.zoho_id, [])
            name = ("student", user.zoho_id)
            if len(accounts) > 1:
                self._draft.block(name, AMBIGUOUS, user.asked)
            elif accounts:
                self.take(user, accounts[0], moved)
            elif not user.active:
                self._draft.settle(name, None, user.asked)
            elif reason := user.problem or user.lacking or self._draft.refused_before(name, user.asked):
                self._draft.block(name, reason, user.asked)
            else:
                missing.append(user)
        await self._missing(await self._renumbered(missing, moved), moved)
        await self._moved(moved)

    async def find(self, students: Iterable[str]) -> None:
        """Accounts of students of whom nothing is wanted but that they leave a seat."""
        found = await self._by_idnumber(s for s in sorted(students) if s not in self._done)
        self._draft.users.update({s: accounts[0].id for s, accounts in found.items() if len(accounts) == 1})

    async def _by_idnumber(self, students: Iterable[str]) -> dict[str, list[Account]]:
        sought = set(students)
        found: dict[str, list[Account]] = {}
        for account in await self._site.users_by("idnumber", sorted(sought)):
            found.setdefault(account.idnumber, []).append(account)
        self.misses = self.misses or not sought <= found.keys()
        return found

    def take(self, user: User, account: Account, moved: list[AccountChange] | None = None) -> None:
        """An account is this student's: what of it differs. Changes of the e-mail address go into
        `moved`, all others into the plan.
        """
        name, moodle_id = ("student", user.zoho_id), str(account.id)
        self._draft.users[user.zoho_id] = account.id
        changes: dict[str, tuple[Any, Any]] = {}
        if account.suspended == user.active:
            changes["suspended"] = (account.suspended, not user.active)
        if user.active:
            if reason := user.problem or self._draft.refused_before(name, user.asked):
                if changes and user.problem:  # the rest is not to wait for it
                    self._plan.update_users.append(AccountChange(user, account.id, changes, reason))
                else:
                    self._draft.block(name, reason, user.asked, moodle_id)
                return
            for field, has, wanted in (
                ("idnumber", account.idnumber, user.zoho_id),
                ("email", account.email, user.values["email"]),
                ("firstname", account.first_name, user.values["first_name"]),
                ("lastname", account.last_name, user.values["last_name"]),
            ):
                if wanted and wanted != has:
                    changes[field] = (has, wanted)
        if not changes:
            self._draft.settle(name, moodle_id, user.asked)
            return
        into = self._plan.update_users if moved is None or "email" not in changes else moved
        into.append(AccountChange(user, account.id, changes))

    async def _renumbered(self, users: list[User], moved: list[AccountChange]) -> list[User]:
        """Those that are still missing when accounts are looked for whose idnumber somebody has taken
        away: Moodle's id and the e-mail address are those that it acknowledged.
        """
        known = {user.zoho_id: self._wanted.known(("student", user.zoho_id)) for user in users}
        ids = [k.moodle_id for k in known.values() if k.moodle_id]
        accounts = {str(account.id): account for account in await self._site.users_by("id", ids)}
        missing = []
        for user in users:
            account = accounts.get(known[user.zoho_id].moodle_id or "")
            was = values_of(known[user.zoho_id].done)
            if account is not None and not account.idnumber and account.email == was.get("email", ""):
                self.take(user, account, moved)
            else:
                missing.append(user)
        return missing

    async def _missing(self, missing: list[User], moved: list[AccountChange]) -> None:
        """Accounts that no idnumber names: found by username or e-mail address, or made. Where only a
        few are looked at, a taken username shows when the account is made.
        """
        holders = await self._by_email(missing)
        logins: dict[str, Account] = {}
        if self._draft.whole:
            accounts = await self._site.users_by("username", [user.username or "" for user in missing])
            logins = {account.username: account for account in accounts}
        emails: set[str] = set()
        names: set[str] = set()
        for user in missing:
            name = ("student", user.zoho_id)
            email, login = (user.values["email"] or "").lower(), user.username or ""
            hits = {a.id: a for a in holders.get(email, [])}
            if login in logins:
                hits[logins[login].id] = logins[login]
            elif hits:  # one more look before an account is taken over
                hits |= {a.id: a for a in await self._site.users_by("username", [login])}
            if email in emails or login in names:
                self._draft.block(name, EMAIL_TAKEN if email in emails else _USERNAME_TAKEN, user.asked)
                continue
            emails.add(email)
            names.add(login)
            if hits and await self._all_leave(hits.values(), email, login):
                hits = {}
            if not hits:
                self._plan.create_users.append(user)
            elif reason := self._not_theirs(list(hits.values())):
                self._draft.block(name, reason, user.asked)
            else:
                self.take(user, next(iter(hits.values())), moved)

    def _not_theirs(self, accounts: list[Account]) -> Reason | None:
        """Why accounts found by username or e-mail address cannot be taken over; None where there is
        just one, and it is nobody's.
        """
        if any(account.idnumber for account in accounts):
            return ID_OF_ANOTHER
        if len(accounts) > 1:
            return AMBIGUOUS
        return _RESERVED if accounts[0].id in self._reserved else None

    async def explain(self, user: User) -> Account | Reason | None:
        """Why no account could be made: the account that is the student's after all, why none is to
        be taken over, or None where no reason is to be found.
        """
        hits = {a.id: a for a in await self._site.users_by("username", [user.username or ""])}
        hits |= {a.id: a for a in await self._site.holders_of(user.values["email"] or "")}
        found = list(hits.values())
        if own := [account for account in found if account.idnumber == user.zoho_id]:
            return own[0]
        return (self._not_theirs(found) or found[0]) if found else None

    async def _by_email(self, users: Iterable[User]) -> dict[str, list[Account]]:
        """Accounts by the e-mail addresses of some users, in lower case. Moodle's look-up is exact, so
        both forms are asked for; where that was not enough before, any other form, too.
        """
        emails = {user.zoho_id: user.values["email"] or "" for user in users}
        exact = {form for email in emails.values() for form in (email, email.lower())}
        accounts = {account.id: account for account in await self._site.users_by("email", sorted(exact))}
        async for zoho_id, email in in_turns(emails.items()):
            if email and self._wanted.status(("student", zoho_id)) == FAILED:
                accounts |= {account.id: account for account in await self._site.holders_of(email)}
        found: dict[str, list[Account]] = {}
        for account in accounts.values():
            found.setdefault(account.email.lower(), []).append(account)
        return found

    async def _all_leave(self, accounts: Iterable[Account], email: str, login: str) -> bool:
        """Whether every account that holds an e-mail address is a student's who is to have another."""
        for account in accounts:
            if account.username == login or not await self._leaves(account, email):
                return False
        return True

    async def _leaves(self, account: Account, email: str) -> bool:
        if not account.idnumber or account.email.lower() != email:
            return False
        await self._load([("student", account.idnumber)])
        user = self._wanted.user(account.idnumber)
        wants = (user.values.get("email") or "").lower() if user is not None and not user.problem else ""
        if not wants or wants == email:
            return False
        await self.make([account.idnumber])
        return any(c.account_id == account.id and "email" in c.changes for c in self._plan.update_users)

    async def _moved(self, moved: list[AccountChange]) -> None:
        """Changes of e-mail addresses: each address must be free, or be left by whoever has it; who
        cannot leave keeps the next one waiting, and so on.
        """
        holders = await self._by_email(change.user for change in moved)
        self._plan.update_users += moved  # so that two who swap see each other leave
        pending, stay = list(moved), True
        while stay:
            stay = False
            for change in list(pending):
                email = change.changes["email"][1].lower()
                others = [a for a in holders.get(email, []) if a.id != change.account_id]
                if all([await self._leaves(account, email) for account in others]):
                    continue
                stay = True
                pending.remove(change)
                self._plan.update_users.remove(change)
                user = change.user
                self._draft.block(("student", user.zoho_id), EMAIL_TAKEN, user.asked, str(change.account_id))
