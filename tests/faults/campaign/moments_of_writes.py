"""Dual-write workers, held between two statements while the application and a second worker go on. One version is live, and it serves."""

from __future__ import annotations

from tests.faults.campaign.stage import BRIEFLY, QUEUED, SOON, Scene, Stage


def old_text_comes_back(stage: Stage) -> None:
    """A worker has written the new text and has not committed; the old one comes back, and another worker finds it stored already."""
    (key,) = stage.documents(1)
    old = stage.ask("SELECT body FROM articles WHERE id = %s", key)
    stage.edit(key)
    writer = stage.holding("replace.written")
    stage.held(writer)
    stage.edit(key, old)
    other = stage.syncing(seconds=BRIEFLY)
    # Whoever hands the change to the version waits for the row that the writer holds.
    stage.blocked(other)
    stage.go(writer)
    stage.run.finish(other)
    stage.sync()


def deleted_and_born_again(stage: Stage) -> None:
    """A worker has read that a document is gone; it comes back, and another worker wants to write it."""
    (key,) = stage.documents(1)
    stage.delete(key)
    remover = stage.holding("dual_write.read")
    stage.held(remover)
    stage.insert(key, stage.text())
    stage.sync(BRIEFLY)
    stage.go(remover)
    stage.sync()


def zombie_finds_it_gone(stage: Stage) -> None:
    """A worker has read that a document is gone, and sleeps past its lease; the document comes back with a text that can have no vector."""
    (key,) = stage.documents(1)
    stage.delete(key)
    zombie = stage.holding("dual_write.read")
    stage.held(zombie)
    stage.freed()
    stage.insert(key, f"poison {stage.text()}")
    stage.sync()
    stage.go(zombie)


def zombie_writes(stage: Stage) -> None:
    """A worker sleeps past its lease with a vector in its hands; another one owns the document when it wakes: it writes nothing."""
    (key,) = stage.documents(1)
    before = stage.hash_of("v1", key)
    stage.edit(key)
    zombie = stage.holding("dual_write.embedded", seconds=BRIEFLY)
    stage.held(zombie)
    stage.freed()
    owner = stage.holding("dual_write.claimed")
    stage.held(owner)
    stage.go(zombie)
    if stage.hash_of("v1", key) != before:
        stage.problem(f"a worker whose claim was taken over has written {key}")
    stage.go(owner)


def zombie_after_the_owner(stage: Stage) -> None:
    """The same, and the new owner has written a later text before the first one wakes."""
    (key,) = stage.documents(1)
    stage.edit(key)
    zombie = stage.holding("dual_write.embedded", seconds=BRIEFLY)
    stage.held(zombie)
    stage.freed()
    stage.edit(key)
    stage.sync()
    stage.look()
    stage.go(zombie)


def counts_no_more(stage: Stage) -> None:
    """A worker is stopped with a document in its hands. Another one sees that it does not count on, and does its work."""
    (key,) = stage.documents(1)
    stage.edit(key)
    frozen = stage.freezing("dual_write.embedded")
    worker = stage.run.start("sync", "")
    stage.wait(lambda: stage.ask(QUEUED) == 0, "the work of a worker that has stopped, by another one,")
    worker.kill()
    stage.run.judge(worker)
    stage.wake(frozen)


def held_by_the_application(stage: Stage) -> None:
    """A transaction of the application holds the documents that a worker is to write: nobody waits for anybody."""
    first, second = stage.documents(2)
    stage.edit(first)
    stage.edit(second)
    with stage.transaction() as other:
        other.do("SELECT FROM articles WHERE id = ANY (%s) FOR UPDATE", [first, second])
        stage.sync()
        if stage.ask(QUEUED):
            stage.problem("a worker has not written documents that the application held")


def early_number_commits_late(stage: Stage) -> None:
    """A change is numbered early and committed late. The worker that has seen later ones does it all the same."""
    early, later = stage.documents(2)
    with stage.transaction() as late:
        late.do("UPDATE articles SET body = %s WHERE id = %s", stage.text(), early)
        worker = stage.run.start("sync", "")
        # So often that whoever keeps a place from which it looks has moved it.
        for _ in range(10):
            stage.edit(later)
            stage.wait(lambda: stage.ask(QUEUED) == 0, "the later change")
    stage.wait(lambda: stage.ask(QUEUED) == 0, "a change with an early number, by a worker that lives,", SOON)
    worker.kill()
    stage.run.judge(worker)
    stage.sync()


def deleted_under_an_old_snapshot(stage: Stage) -> None:
    """A strict transaction deletes a document whose vector a worker has written since the transaction's snapshot."""
    (key,) = stage.documents(1)
    text = stage.text()
    stage.edit(key, text)
    with stage.transaction("REPEATABLE READ") as strict:
        strict.do("SELECT count(*) FROM articles")
        stage.sync()
        strict.do("DELETE FROM articles WHERE id = %s", key)
    stage.hidden(str(key), f"scene\n\n{text}")
    stage.sync()


def frozen_in_its_write(stage: Stage) -> None:
    """A worker freezes in its write of a document that the application deletes."""
    (key,) = stage.documents(1)
    stage.edit(key)
    worker = stage.freezing("replace.locked")
    stage.in_time("DELETE FROM articles WHERE id = %s", key)
    stage.wake(worker)
    stage.sync()


def frozen_while_it_hands_over(stage: Stage) -> None:
    """A worker freezes with changes in its hands that no version has been told of. The application goes on, and so do others in the end."""
    first, second = stage.documents(2)
    stage.edit(first)
    frozen = stage.freezing("inbox.announced", "distribute")
    stage.in_time("DELETE FROM articles WHERE id = %s", first)
    stage.in_time("UPDATE articles SET body = %s WHERE id = %s", stage.text(), second)
    stage.sync()
    left = stage.ask(QUEUED)
    if left:
        stage.problem(f"{left} changes are left, which a frozen worker had in its hands")
    stage.look()
    stage.wake(frozen)


def changed_while_it_is_embedded(stage: Stage) -> None:
    """Of the documents that a worker embeds one is edited, one is deleted, and one becomes blank. It writes what it has: the newer changes
    are announced."""
    edited, deleted, blank = stage.documents(3)
    before = stage.hash_of("v1", edited)
    for key in (edited, deleted, blank):
        stage.edit(key)
    writer = stage.holding("dual_write.embedded", "one_batch")
    stage.held(writer)
    stage.edit(edited)
    stage.delete(deleted)
    stage.do("UPDATE articles SET title = '', body = '' WHERE id = %s", blank)
    # Two looks, and what was written between them: the next worker makes up for it.
    stage.look()
    stage.go(writer)
    if stage.hash_of("v1", edited) == before:
        stage.problem("a text that was overtaken was not written: a document that is edited all the time would never be")
    stage.look()
    stage.sync()


def derived_by_the_application(stage: Stage) -> None:
    """A trigger of the application's changes the text when another column is written."""
    (key,) = stage.documents(1)
    stage.do("UPDATE articles SET draft = %s WHERE id = %s", stage.text(), key)
    stage.sync()


def replicated(stage: Stage) -> None:
    """Written as logical replication does it: ordinary triggers do not fire."""
    edited, deleted = stage.documents(2)
    with stage.transaction() as applied:
        applied.do("SET LOCAL session_replication_role = replica")
        applied.do("UPDATE articles SET body = %s WHERE id = %s", stage.text(), edited)
        applied.do("DELETE FROM articles WHERE id = %s", deleted)
    stage.look()
    stage.sync()


def truncated(stage: Stage) -> None:
    """All documents go at once, also one that can have no vector."""
    key, other = stage.documents(2)
    text = stage.ask("SELECT body FROM articles WHERE id = %s", other)
    stage.do("UPDATE articles SET title = '', body = '' WHERE id = %s", key)
    stage.sync()
    stage.do("TRUNCATE articles")
    stage.hidden(str(other), f"scene\n\n{text}")
    stage.untouched.clear()
    stage.look()
    stage.documents(1)


def truncated_under_a_claim(stage: Stage) -> None:
    """All documents go while a worker has the vector of one in its hands. It writes it, and what it has written goes as well."""
    key, other = stage.documents(2)
    text = stage.text()
    stage.edit(key, text)
    writer = stage.holding("dual_write.embedded", "one_batch")
    stage.held(writer)
    stage.do("TRUNCATE articles")
    stage.untouched.clear()
    # Work under way is announced before what is stored is looked at.
    expanding = stage.holding("inbox.known", "distribute")
    stage.held(expanding)
    stage.look()
    stage.go(writer)
    stage.hidden(str(key), f"scene\n\n{text}")
    stage.look()
    stage.go(expanding)
    stage.hidden(str(key), f"scene\n\n{text}")
    stage.look()
    stage.insert(other, stage.text())
    stage.sync()


def truncated_in_a_hurry(stage: Stage) -> None:
    """A worker announces what has gone, and waits for another one that writes it. The application, which would rather fail than wait, gets
    its table."""
    key, _ = stage.documents(2)
    stage.edit(key)
    writer = stage.holding("replace.locked")
    stage.held(writer)
    stage.do("TRUNCATE articles")
    stage.untouched.clear()
    expanding = stage.run.start("distribute", "")
    stage.blocked(expanding)
    with stage.transaction() as hurried:
        hurried.do("SET LOCAL lock_timeout = '50ms'")
        hurried.do("TRUNCATE articles")
    stage.look()
    stage.go(writer)
    stage.run.finish(expanding)
    stage.sync()


SCENES: tuple[Scene, ...] = (
    deleted_and_born_again,
    old_text_comes_back,
    zombie_finds_it_gone,
    zombie_writes,
    zombie_after_the_owner,
    counts_no_more,
    held_by_the_application,
    early_number_commits_late,
    deleted_under_an_old_snapshot,
    frozen_in_its_write,
    frozen_while_it_hands_over,
    changed_while_it_is_embedded,
    derived_by_the_application,
    replicated,
    truncated,
    truncated_under_a_claim,
    truncated_in_a_hurry,
)
