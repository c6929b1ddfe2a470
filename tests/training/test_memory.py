"""Free pages go back to the system every few steps, and only where the C library can."""

from __future__ import annotations

from twoway.training import trainer


def test_the_system_is_asked_every_few_steps(monkeypatch):
    asked = []
    monkeypatch.setattr(trainer, "_trim", lambda: asked.append)
    for step in range(1, 3 * trainer.EVERY + 1):
        trainer.give_back(step)
    assert asked == [0, 0, 0]


def test_elsewhere_nothing_is_asked(monkeypatch):
    monkeypatch.setattr(trainer.sys, "platform", "darwin")
    trainer._trim.cache_clear()
    trainer.give_back(trainer.EVERY)
    assert trainer._trim() is None
    trainer._trim.cache_clear()
