"""The HTML of the Teach page: the question, and what the votes do to the reward and to the policy."""

from pathlib import Path

from markupsafe import Markup

from playground import text as app_text
from playground.components import text as shared_text
from playground.components.charts import finite
from playground.components.formatting import conversation, takeover_kind
from playground.components.html import empty, progress_card, progress_facts, render
from playground.pages.teach import text
from playground.pages.teach.guesses import guess_strip
from rlhf_engine import measures
from rlhf_engine.config import LEARNER_TITLES
from rlhf_engine.feedback.events import Event
from rlhf_engine.feedback.kinds import SCORES
from rlhf_engine.runs.folder import ALIVE

RECENT = 10
"""Votes over which the reward's guesses are counted, at least."""
EXTREME_COUNT, EXTREME_ROWS = 2, 48
"""How many of the answers with the highest (and the lowest) scores are shown, among how many of the newest samples."""


# -- the question ----------------------------------------------------------------------------------------------------

def question(prompt, responses: tuple[str, ...], done: str = "", annotations: dict | None = None) -> Markup:
    """A prompt and its responses with their buttons.

    `done` is a line about what the voter has just done. `annotations` are the voter's thumbs, scores and edits, as
    `VotingService.annotations` returns them: position of the response (from 1) -> kind -> event.
    """
    many = len(responses) > 2
    annotations = annotations or {}
    answers = [answer_card(number, response, annotations.get(number, {}))
               for number, response in enumerate(responses, 1)]
    return render("teach/question.html", text=text, shared=shared_text, done=done, which=text.WHICH[many],
                  prompt=conversation(prompt), answers=answers, best=shared_text.BEST[many], tie=shared_text.TIE[many],
                  both_bad=shared_text.BOTH_BAD[many])


def answer_card(number: int, response: str, annotations: dict[str, Event]) -> dict:
    """The values of one response: its thumbs, its score and its edit, as the voter has set them."""
    values = {kind: event.value for kind, event in annotations.items()}
    thumbs = [{"way": way, "label": label.format(place=number), "pressed": true_or_false(values.get("thumb") == way)}
              for way, label in text.THUMBS.items()]
    scores = [{"value": score, "label": text.SCORES.get(score, score), "selected": values.get("score") == score}
              for score in SCORES]
    return {"number": number, "response": response, "label": app_text.SAID_BEST.format(place=number), "thumbs": thumbs,
            "score_label": text.SCORE_ANSWER.format(place=number), "scores": scores, "scored": "score" in values,
            "edit_label": text.EDIT_LABEL.format(place=number), "draft": values.get("edit", response),
            "edited": true_or_false("edit" in values)}


def true_or_false(value: bool) -> str:
    """A truth value as ARIA attributes have it."""
    return "true" if value else "false"


def no_question(reason: str, done: str = "", *, undo: bool = True) -> Markup:
    """What stands where a question would be: the `reason` why there is none."""
    return render("teach/no_question.html", text=text, reason=reason, done=done, undo=undo)


def watched(name: str, config: dict, row: dict | None, state: str = "running") -> Markup:
    """What stands where a question would be while a built-in labeler votes: its last vote.

    `row` is that vote, as samples.jsonl has it, or None before the first. state: of the run.
    """
    taste = labeler_words(config["labeler"])
    if row is None and state not in ALIVE:
        return no_question(text.TAUGHT_NEVER.format(name=name, labeler=taste, state=app_text.STATES[state]), undo=False)
    if row is None:
        return no_question(text.TAUGHT_SOON.format(name=name, labeler=taste, first=config.get("votes_first", 1)),
                           undo=False)
    best = best_of(row["vote"], len(row["responses"]))
    answers = [{"response": response, "best": index in best} for index, response in enumerate(row["responses"])]
    line = text.TAUGHT_BY.format(name=name, labeler=taste, step=row["step"])
    return render("teach/watched.html", text=text, shared=shared_text, line=line, prompt=conversation(row["prompt"]),
                  answers=answers)


def labeler_words(labeler: str) -> str:
    """A labeler as the page names it. Of a path only its last part is shown: visitors do not see the machine's folders.
    """
    kind, equals, place = labeler.partition("=")
    if not kind.isidentifier():  # a path, perhaps with this character in it
        kind, equals, place = "", "", labeler
    name = Path(place).name if Path(place).is_absolute() else place
    if kind == "replay":
        return text.REPLAYED.format(run=name)
    return text.TASTES.get(labeler, f"{kind}{equals}{name}")


def best_of(vote: list[int] | str, count: int) -> list[int]:
    """The indices of the responses that a vote put first; none where all `count` responses are equal.

    `vote` holds the ranks, or the value of a comparison.
    """
    if not isinstance(vote, list):
        return {"left": [0], "right": [1]}.get(vote, [])
    best = [index for index, rank in enumerate(vote) if rank == 1]
    return best if len(best) < count else []


def vote_status(name: str, status: dict, votes: int, wanted: int, waits: str = "") -> Markup:
    """How many of the votes that a run wants are in, and what its trainer is doing.

    waits: what it waits for (`waits_for`); empty takes the words of the trainer.
    """
    state = status["state"]
    facts = [name, *progress_facts(status)]
    if state == "waiting" and status.get("advice"):
        facts.append(waits or status["advice"])
    elif state in ("stopped", "failed"):
        facts.append(text.VOTES_KEPT)
    title = text.VOTES_SO_FAR if votes <= wanted else text.VOTES_BEYOND
    return progress_card(title.format(votes=votes, wanted=wanted), state, facts, label=shared_text.VOTES,
                         value=min(int(votes), int(wanted)), maximum=int(wanted), bar_class="votes")


def waits_for(status: dict, votes: int, config: dict) -> str:
    """What a run waits for, by the votes that are in now.

    The trainer's own words may be older: while it learns some votes, others come, or are taken back.
    """
    first = config["votes_first"]
    if status.get("advice_kind", "waiting") != "waiting":
        return status["advice"]
    if status["step"] or config.get("tamer"):
        return text.WAITS_FOR_VOTE
    learner = LEARNER_TITLES.get(config.get("learner", "ppo"), "PPO")
    words = text.VOTES_TO_START if votes < first else text.STARTS_NOW
    return words.format(learner=learner, count=first - votes)


# -- what the votes do -----------------------------------------------------------------------------------------------

def fixed(rows: list[dict]) -> Markup:
    """The answers to the fixed prompts: those of the policy that a run started from, beside those of the newest."""
    rows = [row for row in rows if row.get("fixed")]
    if not rows:
        return empty(text.NO_FIXED)
    steps = [row["step"] for row in rows]
    start, now = min(steps), max(steps)
    answers = {(conversation(row["prompt"]), row["step"]): row["response"] for row in rows}
    prompts = dict.fromkeys(prompt for prompt, _ in answers)
    lines = [{"prompt": prompt, "start": answers.get((prompt, start), ""), "now": answers.get((prompt, now), "")}
             for prompt in prompts]
    moved = now > start
    now_title = shared_text.FIXED_NOW.format(step=int(now)) if moved else shared_text.FIXED_NOT_YET
    return render("teach/fixed.html", text=text, shared=shared_text, rows=lines, moved=moved, now_title=now_title)


def effect(journal: list[dict], choices: int = 2, wins: str = "") -> Markup:
    """What the votes have done to the reward, as it was measured when it learned them.

    `wins` is the sentence about the wins of the policy (`wins_sentence`).
    """
    rows = [row for row in journal if row.get("event") == "reward"]
    strip = guess_strip(rows, choices)
    lines = effect_lines(journal, rows, choices, wins) if rows else []
    if strip and rows[-1]["guesses"]:
        lines = lines[1:]  # the strip says more about the guesses
    return render("teach/effect.html", text=text, strip=strip, lines=[line for line in lines if line])


def effect_lines(journal: list[dict], rows: list[dict], choices: int, wins: str) -> list[str]:
    """The sentences of `effect`; some may be empty. The first one is about the guesses.

    `rows` are the lines of the journal about the reward, of which there is at least one.
    """
    last = rows[-1]
    guessed, guesses = recent_guesses(rows)
    if guesses:
        guess_line = text.RECENT_GUESSES.format(guessed=guessed, guesses=guesses, choices=choices)
    else:
        guess_line = text.EFFECT_NO_GUESS.format(**last)
    tastes = taste_lines(last, larger_leads(journal))
    moved = text.EFFECT_MOVED.format(**last)
    return [guess_line, *tastes, wins, moved, turned_line(journal), takeover_line(journal)]


def taste_lines(row: dict, larger: bool) -> list[str]:
    """What the reward likes and dislikes by now: features in words, or single words where the line names no feature.

    larger: whether the larger reward leads, of which nobody can say what it likes.
    """
    liked, disliked = row.get("likes_features"), row.get("dislikes_features")
    if liked or disliked:
        return [text.EFFECT_LIKES[larger].format(features=listed(liked)) if liked else "",
                text.EFFECT_DISLIKES[larger].format(features=listed(disliked)) if disliked else ""]
    likes, dislikes = quoted(row.get("likes", ())), quoted(row.get("dislikes", ()))
    return [text.EFFECT_WORDS.format(likes=likes, dislikes=dislikes) if likes and dislikes else ""]


def larger_leads(journal: list[dict]) -> bool:
    """Whether the larger reward scores what PPO maximises."""
    row = last_of(journal, "takeover")
    return bool(row) and row["reward"] == "adapter"


def turned_line(journal: list[dict]) -> str:
    """That the voters have changed their mind, the last time; "" if they have not."""
    row = last_of(journal, "turned")
    if not row:
        return ""
    return (text.TURNED_OPPOSITE if row.get("opposite") else text.TURNED).format(**row)


def takeover_line(journal: list[dict]) -> str:
    """Which of the two rewards scores, if the larger one has ever taken over, else ""."""
    row = last_of(journal, "takeover")
    if not row:
        return ""
    return text.TAKEOVER[takeover_kind(row)].format(**row)


def last_of(journal: list[dict], event: str) -> dict | None:
    """The last line of a journal about an event."""
    return next((row for row in reversed(journal) if row.get("event") == event), None)


def recent_guesses(rows: list[dict]) -> tuple[float, int]:
    """(guessed right, guesses) over the newest lines of a journal that together hold at least `RECENT` guesses."""
    guessed, guesses = 0.0, 0
    for row in reversed(rows):
        if guesses >= RECENT:
            break
        guessed += row["guessed"]
        guesses += row["guesses"]
    return guessed, guesses


def listed(features: list[str], count: int = 3) -> str:
    """The first `count` phrases, which may hold commas."""
    return "; ".join(features[:count])


def quoted(words, count: int = 3) -> str:
    """The first `count` words in quotation marks."""
    return ", ".join(f"“{word}”" for word in words[:count])


def wins_against_start(votes: list[Event]) -> tuple[float, int, float]:
    """(wins, votes, wins by chance) of the policy, over the votes that compare its answers with answers of the start.

    Answers that share the first rank share the win.
    """
    wins, count, chance = 0.0, 0, 0.0
    for vote in votes:
        roles = vote.roles
        if len(roles) != len(vote.ranks) or len(set(roles)) < 2:
            continue
        winners = [role for role, rank in zip(roles, vote.ranks) if rank == min(vote.ranks)]
        wins += winners.count("policy") / len(winners)
        count += 1
        chance += roles.count("policy") / len(roles)
    return wins, count, chance


def wins_sentence(metrics: list[dict], votes: list[Event]) -> str:
    """How often the policy wins against the one it started from, in a sentence; "" where it is not known.

    The labeler's own score decides where it has one, else the votes that compare both.
    """
    by_score = [row[measures.GOLD_WINS] for row in metrics if measures.GOLD_WINS in row]
    if by_score:
        return text.WON_BY_SCORE.format(wins=by_score[-1])
    wins, count, chance = wins_against_start(votes)
    return text.WON_BY_VOTES.format(won=wins, count=count, chance=chance) if count else ""


def formulas(config: dict, metrics: list[dict]) -> Markup:
    """The formulas of PPO with the numbers of the newest step."""
    row = next((row for row in reversed(metrics) if measures.KL_COEF in row), None)
    if row is None:
        return empty(shared_text.NO_SAMPLES)
    scores, coef, kl = row[measures.SCORES], row[measures.KL_COEF], row[measures.KL]
    clip = config.get("clip", 0.2)
    reward = text.FORMULA_REWARD.format(scores=scores, coef=coef, kl=kl, total=scores - coef * kl)
    variance = finite(row.get(measures.EXPLAINED_VARIANCE)) or 0.0
    foresaw = text.FORESAW.format(variance=variance) if variance >= 0.005 else text.FORESAW_NOTHING
    advantage = text.FORMULA_ADVANTAGE.format(foresaw=foresaw)
    ratio = text.FORMULA_CLIP.format(low=1 - clip, high=1 + clip, clipped=row.get(measures.CLIP_FRACTION, 0.0))
    lines = [{"formula": reward, "about": text.FORMULA_REWARD_ABOUT},
             {"formula": advantage, "about": text.FORMULA_ADVANTAGE_ABOUT},
             {"formula": ratio, "about": text.FORMULA_CLIP_ABOUT}]
    return render("teach/formulas.html", lines=lines)


def extremes(rows: list[dict]) -> Markup:
    """Of PPO's newest samples, those that the reward scores highest and lowest."""
    rows = [row for row in rows if row.get("score") is not None][-EXTREME_ROWS:]
    if len(rows) < 2 * EXTREME_COUNT:
        return empty(text.NO_EXTREMES)
    best_first = sorted(rows, key=lambda row: -row["score"])
    answers = [extreme_card("most", text.MOST, row) for row in best_first[:EXTREME_COUNT]]
    answers += [extreme_card("least", text.LEAST, row) for row in best_first[-EXTREME_COUNT:]]
    return render("teach/extremes.html", shared=shared_text, answers=answers)


def extreme_card(kind: str, title: str, row: dict) -> dict:
    """The values of one answer of `extremes`."""
    return {"kind": kind, "title": title, "score": f"{row['score']:+.2f}", "response": row["response"]}


def path() -> Markup:
    """What the three stages do, in a few sentences."""
    steps = [{"title": title, "about": about} for title, about in text.PATH_STEPS]
    return render("teach/path.html", text=text, steps=steps)
