"""Bugs on purpose. Each is one small change to the source and the test that must fail for it.

A suite that cannot see these is not a suite. `test_planted.py` applies them to a copy, one at a
time.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Planted:
    """Replace `old`, which must occur once in `file`, by `new`; then `test` must fail."""

    name: str
    file: str
    old: str
    new: str
    test: str


_ACTIVATION, _COMMITTER = "actor/activation.py", "runtime/committer.py"
_SQLITE, _FILE, _ROUTE = "store/sqlite.py", "store/sqlite_file.py", "web/actor_route.py"
_GATE = "tests/unit/actor/test_gate.py"
_MESSAGES = "tests/unit/runtime/test_messages.py"
_TIMERS = "tests/unit/runtime/test_timers.py"
_UNIQUE = "tests/unit/runtime/test_unique.py"
_RULES = "tests/unit/actor/test_transaction_rules.py"
_ISOLATION = "tests/unit/actor/test_transaction_isolation.py"
_SQLITE_TEST = "tests/unit/store/test_sqlite.py"

PLANTED = (
    Planted(
        "replies leave before the commit",
        _COMMITTER,
        "            committed = await self._put(commit)",
        "            commit.open()\n            committed = await self._put(commit)",
        "tests/faults/test_kills.py::test_a_kill_at_every_point_of_a_commit_is_survived[before_fsync]",
    ),
    Planted(
        "an exception is not undone",
        _ACTIVATION,
        "                self._restore()",
        "                pass",
        "tests/unit/actor/test_turns.py::test_an_exception_leaves_no_trace",
    ),
    Planted(
        "the answer to an idempotency key is not committed",
        _ACTIVATION,
        "        commit.records.append((self, record))",
        "        pass",
        "tests/faults/test_kills.py::test_a_kill_at_every_point_of_a_commit_is_survived[after_fsync]",
    ),
    Planted(
        "a failed sync is ignored",
        _SQLITE,
        "        except (apsw.IOError, OSError) as error:\n            raise self._break(error)",
        "        except (apsw.IOError, OSError) as error:\n            return\n            raise",
        "tests/faults/test_disks.py::test_a_failed_sync_is_not_acknowledged_and_ends_the_process[7]",
    ),
    Planted(
        "commits are not synced",
        _FILE,
        "PRAGMA synchronous = FULL",
        "PRAGMA synchronous = NORMAL",
        f"{_SQLITE_TEST}::test_it_syncs_every_commit",
    ),
    Planted(
        "the version is not checked",
        "store/sqlite_batch.py",
        """ AND "{name}".version = new.column3 - 1'""",
        "'",
        "tests/contract/test_stores.py::TestSqliteStore::test_only_the_next_version_is_taken",
    ),
    Planted(
        "the mailbox has no bound",
        _ACTIVATION,
        "if len(self._mailbox) >= self._host.limits.mailbox_depth_max:",
        "if False:",
        "tests/unit/actor/test_turns.py::test_a_full_mailbox_refuses_at_once_and_loses_nothing",
    ),
    Planted(
        "the checksum of a row is ignored",
        "store/sqlite_reader.py",
        "if checksum != row_checksum(key, version, encoded):",
        "if False:",
        f"{_SQLITE_TEST}::test_a_row_edited_by_hand_is_refused",
    ),
    Planted(
        "two processes may own one directory",
        _FILE,
        "            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "            pass",
        "tests/faults/test_damage.py::test_a_second_server_on_the_same_directory_is_refused",
    ),
    Planted(
        "a descriptor of the database is closed, and with it all locks are lost",
        _FILE,
        "    if (size := path.stat().st_size) < expected:",
        '    path.open("rb").close()\n    if (size := path.stat().st_size) < expected:',
        f"{_SQLITE_TEST}::test_somebody_who_looks_in_takes_nothing_away",
    ),
    Planted(
        "a cut file is not noticed",
        _FILE,
        "    if 0 < size < _HEADER_BYTES:",
        "    if False:",
        f"{_SQLITE_TEST}::test_a_file_that_was_cut_anywhere_is_refused",
    ),
    Planted(
        "damage amid the WAL is not noticed",
        _FILE,
        "    refuse_damaged_wal(path",
        "    (lambda *_: None)(path",
        f"{_SQLITE_TEST}::test_a_flipped_bit_amid_the_wal_is_named_and_a_torn_tail_is_not",
    ),
    Planted(
        "commits behind a failed one go on",
        _COMMITTER,
        "        if self._filling is not None and not is_late:",
        "        if False:",
        f"{_GATE}::test_a_failed_commit_takes_the_later_ones_and_the_mailbox_with_it",
    ),
    Planted(
        "an activation survives its failed commit",
        _COMMITTER,
        "                    activation.kill(error)",
        "                    pass",
        f"{_GATE}::test_a_failed_commit_answers_with_the_error_and_the_truth_is_read_again",
    ),
    Planted(
        "an activation that was thrown away can save",
        _ACTIVATION,
        "        self._refuse_if_dead()  # its version may fit the store, but",
        "        # its version may fit the store, but",
        f"{_GATE}::test_a_turn_of_an_activation_that_was_thrown_away_cannot_save",
    ),
    Planted(
        "a read of uncommitted state does not wait",
        _ACTIVATION,
        "        if self.commit is not None:\n            self.commit.hold(turn, answer)",
        "        if self.commit is not None and isinstance(answer, BaseException):\n"
        "            self.commit.hold(turn, answer)",
        f"{_GATE}::test_a_read_of_uncommitted_state_waits_for_its_commit",
    ),
    Planted(
        "a refusal does not wait",
        _ACTIVATION,
        "self._answer(turn, error)  # the refusal, too, may rest on what is not durable",
        "turn.fail(error)",
        f"{_GATE}::test_a_refusal_that_saw_uncommitted_state_waits_too",
    ),
    Planted(
        "answers that wait for the commit being written are not counted",
        _COMMITTER,
        "self._filling, self._writing = None, commit",
        "self._filling = None",
        f"{_GATE}::test_answers_that_wait_for_a_slow_commit_are_bounded",
    ),
    Planted(
        "another request under the same idempotency key gets the old answer",
        "actor/answers.py",
        "    if record.fingerprint != _fingerprint(turn):",
        "    if False:",
        "tests/unit/actor/test_idempotency.py::test_another_request_under_the_same_id_is_refused",
    ),
    Planted(
        "an interleaving turn does not wait for its actor",
        "actor/interleaving.py",
        "    if activation.running is None:",
        "    if True:",
        "tests/unit/actor/test_interleave.py"
        "::test_a_stretch_never_sees_the_half_done_work_of_another_turn",
    ),
    Planted(
        "pages of other sites may call",
        "web/access.py",
        '        raise ForbiddenError("a page of another site may not call this")',
        "        pass",
        "tests/unit/runtime/test_asgi_app.py::test_posts_of_another_site_are_refused",
    ),
    Planted(
        "access rules are not asked",
        _ROUTE,
        "            await check_access(access, caller, key)",
        "            pass",
        "tests/unit/runtime/test_asgi_app.py::test_access_rules",
    ),
    Planted(
        "a known idempotency key is run again",
        _ACTIVATION,
        "                if isinstance(known, RequestRecord):",
        "                if False:",
        "tests/unit/actor/test_idempotency.py::test_a_repeat_has_no_effect_and_gets_the_first_answer",
    ),
    Planted(
        "messages are not written with their turn",
        _ACTIVATION,
        "        for message in effects.sent:",
        "        for message in effects.sent[:0]:",
        f"{_MESSAGES}::test_messages_arrive_in_order_and_once",
    ),
    Planted(
        "a message that was delivered stays in the store",
        _ACTIVATION,
        "            commit.taken.append((self, effects.taken))",
        "            pass",
        f"{_MESSAGES}::test_messages_arrive_in_order_and_once",
    ),
    Planted(
        "a message that fails lets the next one pass",
        "runtime/outbox.py",
        "        line.after_id = message.id - 1\n        self._park(line, wait_s)",
        "        self._under_way += 1\n        self._next(line)",
        f"{_MESSAGES}::test_a_failing_message_holds_its_own_line_only",
    ),
    Planted(
        "timers are in memory only",
        "actor/gate.py",
        "            timers=[timer for timer in timers.values() if timer is not None],",
        "            timers=[],",
        f"{_TIMERS}::test_a_timer_survives_a_restart_and_being_late",
    ),
    Planted(
        "a timer fires early",
        "runtime/scheduler.py",
        "self._heap[0][0] <= now_ms and",
        "self._heap[0][0] <= now_ms + 5_000 and",
        f"{_TIMERS}::test_set_again_moves_and_cancel_cancels",
    ),
    Planted(
        "a timer that has fired is not taken away",
        "runtime/scheduler.py",
        "        effects_of(self).timers[timer.name] = following(timer, self.activation.wall_ms())",
        "        effects_of(self)",
        f"{_TIMERS}::test_a_timer_fires_when_it_is_due_and_not_before",
    ),
    Planted(
        "a timer fires although it was cancelled",
        "runtime/scheduler.py",
        "        if current is None or current.due_at_ms != timer.due_at_ms:",
        "        if False:",
        f"{_TIMERS}::test_set_again_moves_and_cancel_cancels",
    ),
    Planted(
        "an actor that forgets itself keeps its row",
        _ACTIVATION,
        "            commit.states[self] = None\n",
        "",
        "tests/unit/runtime/test_expiry.py::test_a_forgotten_actor_starts_from_its_defaults",
    ),
    Planted(
        "a refused turn is told that it succeeded",
        _COMMITTER,
        "            self._refuse(commit, committed.refused)",
        "            pass",
        f"{_UNIQUE}::test_the_second_is_refused_by_field_and_leaves_nothing",
    ),
    Planted(
        "what is linked with a refused actor stays",
        "actor/gate.py",
        "                    errors.setdefault(other, errors[activation])",
        "                    pass",
        f"{_UNIQUE}::test_what_is_refused_takes_what_is_linked_with_it_along",
    ),
    Planted(
        "a participant of a transaction is not rolled back",
        "actor/locks.py",
        "            activation.restore(self.before)",
        "            pass",
        f"{_RULES}::test_an_exception_of_any_participant_undoes_all",
    ),
    Planted(
        "locks go before the states of a transaction join the commit",
        "actor/transaction.py",
        "        for activation, lock in self._held.items():\n            if lock.is_written or",
        "        for lock in self._held.values():\n            lock.release()\n"
        "        for activation, lock in self._held.items():\n            if lock.is_written or",
        f"{_ISOLATION}::test_transactions_and_calls_are_strictly_serializable",
    ),
    Planted(
        "participants are not linked",
        "actor/transaction.py",
        "            commit.links.append(everyone)",
        "            pass",
        f"{_RULES}::test_a_participant_that_was_only_read_takes_the_rest_along",
    ),
    Planted(
        "an error out of a transaction does not wait for what it has seen",
        "actor/transaction.py",
        "            self.roll_back()\n        await all_of(seen)",
        "            self.roll_back()",
        f"{_RULES}::test_an_error_out_of_the_block_waits_for_what_it_may_tell",
    ),
    Planted(
        "a deadlock of transactions is not looked for",
        "actor/transaction.py",
        "        if leads_back(target, chain.keys() | self._held.keys(), path, set()):",
        "        if False:",
        f"{_RULES}::test_of_two_bare_blocks_that_wait_for_each_other_one_is_told_at_once",
    ),
    Planted(
        "a transaction in a keyed call commits before its answer",
        "actor/transaction.py",
        "        if home is not None and (home.request_id is not None or home.is_delivery):",
        "        if False:",
        f"{_RULES}::test_with_an_idempotency_key_answer_and_transaction_are_one_commit",
    ),
    Planted(
        "who was forgotten in a full table of a rate begins anew",
        "base/gcra.py",
        "                self._floors[number] = max(self._floors[number], time_ns)",
        "                pass",
        "tests/unit/base/test_gcra.py"
        "::test_strangers_that_come_in_turns_have_no_more_than_their_limits",
    ),
    Planted(
        "guesses that are refused are not counted",
        _ROUTE,
        "            if method in self._rates:",
        "            if method in self._rates and caller is not None:",
        "tests/unit/web/test_rate_limits.py"
        "::test_who_is_refused_by_access_is_counted_by_address_and_so_are_guesses",
    ),
)
