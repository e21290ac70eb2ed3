"""Dual-write workers, held between two statements while the application and a second worker go on. One version is live, and it serves."""

from __future__ import annotations

from tests.faults.campaign.stage import BRIEFLY, QUEUED, SHORT_LEASE, SOON, Scene, Stage


def old_text_comes_back(stage: Stage) -> None:
    """A worker has written the new text and has not committed; the old one comes back, and another worker finds it stored already."""
    (key,) = stage.documents(1)
    old = stage.ask("SELECT body FROM articles WHERE id = %s", key)
    stage.edit(key)
    writer = stage.holding("replace.written")
    stage.held(writer)
    stage.edit(key, old)
    stage.sync(BRIEFLY)
    stage.go(writer)
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
    zombie = stage.holding("dual_write.read", lease=SHORT_LEASE)
    stage.held(zombie)
    stage.expired()
    stage.insert(key, f"poison {stage.text()}")
    stage.sync()
    stage.go(zombie)


def zombie_writes(stage: Stage) -> None:
    """A worker sleeps past its lease with a vector in its hands; another one owns the document when it wakes: it writes nothing."""
    (key,) = stage.documents(1)
    before = stage.hash_of("v1", key)
    stage.edit(key)
    zombie = stage.holding("dual_write.embedded", lease=SHORT_LEASE, seconds=BRIEFLY)
    stage.held(zombie)
    stage.expired()
    owner = stage.holding("dual_write.claimed")
    stage.held(owner)
    stage.go(zombie)
    if stage.hash_of("v1", key) != before:
        stage.problem(f"a worker whose lease was taken over has written {key}")
    stage.go(owner)


def held_by_the_application(stage: Stage) -> None:
    """A worker has one document and wants another one that a transaction of the application holds, which wants the first one then."""
    first, second = stage.documents(2)
    stage.edit(first)
    stage.edit(second)
    with stage.transaction() as other:
        # So that it is the one to look for a deadlock, while the worker still waits.
        other.do("SET LOCAL deadlock_timeout = '20ms'")
        other.do("SELECT FROM articles WHERE id = %s FOR UPDATE", second)
        worker = stage.syncing(seconds=BRIEFLY)
        stage.blocked(worker)
        other.do("SELECT FROM articles WHERE id = %s FOR UPDATE", first)
    stage.run.finish(worker)
    stage.sync()


def early_number_commits_late(stage: Stage) -> None:
    """A change is numbered early and committed late. The worker that has seen later ones does it all the same."""
    early, later = stage.documents(2)
    with stage.transaction() as late:
        late.do("UPDATE articles SET body = %s WHERE id = %s", stage.text(), early)
        worker = stage.run.start("sync", "")
        stage.edit(later)
        stage.wait(lambda: stage.ask(QUEUED) == 0, "the later change")
    stage.wait(lambda: stage.ask(QUEUED) == 0, "a change with an early number, by a worker that lives,", SOON)
    worker.kill()
    stage.run.judge(worker)
    stage.sync()


def deleted_under_an_old_snapshot(stage: Stage) -> None:
    """A strict transaction deletes a document whose vector a worker has written since the transaction's snapshot."""
    (key,) = stage.documents(1)
    stage.edit(key)
    with stage.transaction("REPEATABLE READ") as strict:
        strict.do("SELECT count(*) FROM articles")
        stage.sync()
        strict.do("DELETE FROM articles WHERE id = %s", key)
    stage.sync()


def frozen_in_its_write(stage: Stage) -> None:
    """A worker freezes while it holds a document that the application deletes."""
    (key,) = stage.documents(1)
    stage.edit(key)
    worker = stage.freezing("replace.locked")
    stage.in_time("DELETE FROM articles WHERE id = %s", key)
    stage.wake(worker)
    stage.sync()


def changed_while_it_is_embedded(stage: Stage) -> None:
    """Of the documents that a worker embeds one is edited, one is deleted, and one becomes blank."""
    edited, deleted, blank = stage.documents(3)
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
    (key,) = stage.documents(1)
    stage.do("UPDATE articles SET title = '', body = '' WHERE id = %s", key)
    stage.sync()
    stage.do("TRUNCATE articles")
    stage.untouched.clear()
    stage.look()
    stage.documents(1)


SCENES: tuple[Scene, ...] = (
    deleted_and_born_again,
    old_text_comes_back,
    zombie_finds_it_gone,
    zombie_writes,
    held_by_the_application,
    early_number_commits_late,
    deleted_under_an_old_snapshot,
    frozen_in_its_write,
    changed_while_it_is_embedded,
    derived_by_the_application,
    replicated,
    truncated,
)
