"""Free pages go back to the system every few steps, and only where the C library can."""

from __future__ import annotations

from twoway.training import trainer


def test_the_system_is_asked_every_few_steps(monkeypatch):
    asked = []
    monkeypatch.setattr(trainer, "_malloc_trim", lambda: asked.append)
    for step in range(1, 3 * trainer.RELEASE_EVERY + 1):
        trainer.release_free_memory(step)
    assert asked == [0, 0, 0]


def test_elsewhere_nothing_is_asked(monkeypatch):
    monkeypatch.setattr(trainer.sys, "platform", "darwin")
    trainer._malloc_trim.cache_clear()
    trainer.release_free_memory(trainer.RELEASE_EVERY)
    assert trainer._malloc_trim() is None
    trainer._malloc_trim.cache_clear()
