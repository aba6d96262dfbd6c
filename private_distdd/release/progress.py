"""Rounds and matching steps on the card, against the ledgers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from private_distdd.privacy.ledger import History, Sealed
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.release.bill import rounds_of


def begun(card: Mapping[str, Any]) -> int:
    """Rounds in which clients may have been asked: those done, and one that was interrupted."""
    return int(min(card["progress"]["rounds_done"] + 1, card["progress"]["rounds_planned"]))


def progress_failures(
    card: Mapping[str, Any], plan: PrivacyPlan | None, histories: Mapping[str, History]
) -> Iterator[str]:
    """Rounds and matching steps against the ledgers: steps are taken in rounds in which somebody answered.

    Settings with "matchings" say that they are taken so often for several rounds together.
    """
    progress, settings, run_id = card["progress"], card["method"]["settings"], card["run_id"]
    done, planned, steps = progress["rounds_done"], progress["rounds_planned"], progress["matching_steps"]
    if not 0 <= done <= planned:
        yield f"card: {done} of {planned} rounds done"
    if done < planned and not progress["stopped_early"]:
        yield f"card: stopped_early is False with {done} of {planned} rounds done"
    if settings["rounds"] != planned:
        yield f"card: rounds is {settings['rounds']!r} in the settings, {planned} were planned"
    if plan is not None and plan.max_queries > planned:
        yield f"card: at most {plan.max_queries} queries a client in {planned} rounds"
    possible: set[int] = set()
    certain: set[int] = set()
    for name, history in histories.items():
        sealed = rounds_of(history, run_id, Sealed)
        possible |= {t for t in sealed if t < begun(card)}
        if card["clients"][name]["messages_used"] == len(sealed):
            certain |= {t for t in sealed if t < done - progress["stopped_early"]}  # the last one may be unfinished
    answers = sum(bill["messages_used"] for bill in card["clients"].values())
    if lost := card.get("unaccounted"):
        # Their ledgers do not say in which rounds they answered; those also billed were counted above.
        answers += sum(count for name, count in lost.items() if name not in histories)
        possible |= set(range(begun(card)))
    if "matching_steps" not in settings:  # another method: how many it takes is its own affair
        if steps < 0:
            yield f"card: {steps} matching steps"
        elif steps and not min(len(possible), answers):
            yield f"card: {steps} matching steps; by the ledgers, nobody answered"
        return
    told = min(len(possible), answers)
    matched = (len(certain), told)
    if "matchings" in settings:
        each_round = settings.get("surrogates") == "trained"
        if settings["matchings"] != (planned if each_round else 1 + bool(settings.get("refinement_rounds"))):
            yield f"card: S was matched {settings['matchings']!r} times, which its rounds do not say"
        most = settings["matchings"] if told else 0
        matched = (0 if progress["stopped_early"] else most, most)
    least, most = (n * settings["matching_steps"] for n in matched)
    if not least <= steps <= most:
        yield f"card: {steps} matching steps; by the ledgers, {least} to {most} were taken"
