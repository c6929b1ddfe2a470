"""Free pages go back to the system every few steps, and only where the C library can."""

from __future__ import annotations

from twoway.training import memory


def test_the_system_is_asked_every_few_steps(monkeypatch):
    asked = []
    monkeypatch.setattr(memory, "_trim", lambda: asked.append)
    for step in range(1, 3 * memory.EVERY + 1):
        memory.give_back(step)
    assert asked == [0, 0, 0]


def test_elsewhere_nothing_is_asked(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    memory._trim.cache_clear()
    memory.give_back(memory.EVERY)
    assert memory._trim() is None
    memory._trim.cache_clear()
