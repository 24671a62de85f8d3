"""The Teach page as HTML: questions and remarks, what the reward has learned, and the numbers of a step in words."""

from playground import text as app_text
from playground.components import text as shared_text
from playground.components.formatting import conversation
from playground.components.html import escape
from playground.pages.teach import text
from rlhf_engine.feedback.events import Event
from rlhf_engine.feedback.kinds import SCORES

_HAND = ("M7 11v9H4a1 1 0 0 1-1-1v-7a1 1 0 0 1 1-1zm2 0 4-8c1.5 0 2.5 1 2.5 2.5L15 9h4.6c1.3 0 2.2 1.2 1.9 2.4l-1.7 7"
         "c-.2.9-1 1.6-2 1.6H11l-2-1z")
THUMB = {way: (f'<svg viewBox="0 0 24 24" width="18" height="18" aria-hidden="true"><path d="{_HAND}" fill="none" stroke="currentColor" '
               f'stroke-width="1.8" stroke-linejoin="round"{turn}/></svg>')
         for way, turn in (("up", ""), ("down", ' transform="rotate(180 12 12)"'))}
RECENT = 10
"""Votes over which the reward's guesses are counted."""


# -- the question ----------------------------------------------------------------------------------------------------

def question(prompt, responses: tuple[str, ...], said: str = "", remarks: dict | None = None) -> str:
    """A prompt and its responses, a button under each; `said` is a line about what was done last, `remarks` what this voter has said
    about single responses (`VotingService.remarks`)."""
    many = len(responses) > 2
    answers = "".join(f'<article class="answer" aria-label="{app_text.SAID_BEST.format(place=place)}">'
                      f'<p>{escape(response) or f"<em>{shared_text.EMPTY_RESPONSE}</em>"}</p>'
                      f'{remark_row(place, response, (remarks or {}).get(place, {}))}'
                      f'{vote_button(f"vote-{place}", str(place), str(place), f"<kbd>{place}</kbd> {shared_text.BEST[many]}")}</article>'
                      for place, response in enumerate(responses, 1))
    verdicts = "".join((vote_button("vote-tie", "tie", "t", with_key(shared_text.TIE[many], "t")),
                        vote_button("vote-both-bad", "both_bad", "b", with_key(shared_text.BOTH_BAD[many], "b")),
                        vote_button("skip", "skip", "s", with_key(text.SKIP, "s")), undo_button()))
    return (f'<section class="question" aria-label="{text.WHICH[many]}">{what_was_done(said)}<p class="which">{text.WHICH[many]}</p>'
            f'<p class="prompt">{escape(conversation(prompt))}</p><div class="answers">{answers}</div>'
            f'<div class="verdicts">{verdicts}</div></section>')


def remark_row(place: int, response: str, made: dict) -> str:
    """Thumbs, a score, and an edit of one response; those that are made are marked."""
    said = {kind: event.value for kind, event in made.items()}
    thumbs = "".join(f'<button type="button" id="thumb-{way}-{place}" data-choice="{way}:{place}" class="thumb" '
                     f'aria-pressed="{str(said.get("thumb") == way).lower()}" aria-label="{text.THUMBS[way].format(place=place)}" '
                     f'title="{text.THUMBS[way].format(place=place)}">{THUMB[way]}</button>' for way in THUMB)
    options = "".join(f'<option value="{n}"{" selected" if said.get("score") == n else ""}>{text.SCORES.get(n, n)}</option>'
                      for n in SCORES)
    label = text.SCORE_ANSWER.format(place=place)
    score = (f'<select id="score-{place}" data-score="{place}" class="{"made" if "score" in said else ""}" aria-label="{label}" '
             f'title="{label}"><option value="">{text.SCORE_NONE}</option>{options}</select>')
    edit = (f'<button type="button" id="edit-{place}" data-edit="{place}" aria-expanded="false" '
            f'aria-pressed="{str("edit" in said).lower()}" title="{text.EDIT_ABOUT}">{text.EDIT}</button>')
    form = (f'<form class="edit" id="edit-form-{place}" data-place="{place}" hidden><textarea rows="6" maxlength="20000" '
            f'aria-label="{text.EDIT_LABEL.format(place=place)}">{escape(said.get("edit", response))}</textarea><div><button type="submit">'
            f'{text.EDIT_SAVE}</button><button type="button" data-edit="{place}">{text.EDIT_CANCEL}</button></div></form>')
    return f'<div class="remarks">{thumbs}{score}{edit}</div>{form}'


def no_question(reason: str, said: str = "", *, undo: bool = True) -> str:
    """In place of a question, why there is none."""
    button = f'<div class="verdicts">{undo_button()}</div>' if undo else ""
    return f'<section class="question">{what_was_done(said)}<p class="silent" role="status">{escape(reason)}</p>{button}</section>'


def undo_button() -> str:
    return vote_button("undo", "undo", "u", with_key(text.UNDO, "u"))


def vote_button(elem_id: str, choice: str, key: str, label: str) -> str:
    return (f'<button type="button" id="{elem_id}" data-choice="{choice}" data-key="{key}" aria-keyshortcuts="{key.upper()}">'
            f'{label}</button>')


def with_key(label: str, key: str) -> str:
    return f'{label} <kbd aria-hidden="true">{key.upper()}</kbd>'


def what_was_done(said: str) -> str:
    return f'<p class="done" role="status">{escape(said)}</p>' if said else ""


def vote_status(name: str, status: dict, votes: int, wanted: int) -> str:
    """How many votes there are, and what the trainer is doing."""
    state, total = status["state"], status["total_steps"]
    doing = [shared_text.PROGRESS.format(step=status["step"], total=total)] if total else [shared_text.PREPARING] if state == "waiting" else []
    if state == "waiting" and status.get("advice"):
        doing.append(status["advice"])
    elif state in ("stopped", "failed"):
        doing.append(text.VOTES_KEPT)
    count = text.VOTES_SO_FAR.format(votes=votes, wanted=wanted) if votes <= wanted else text.VOTES_BEYOND.format(votes=votes, wanted=wanted)
    return (f'<section class="run-card"><div class="run-title"><strong>{count}</strong>'
            f'<span class="badge {escape(state)}">{escape(app_text.STATES.get(state, state))}</span>'
            f'<span class="facts">{escape(" · ".join([name, *doing]))}</span></div>'
            f'<div class="bar votes" role="progressbar" aria-label="{shared_text.VOTES}" aria-valuemin="0" aria-valuemax="{int(wanted)}" '
            f'aria-valuenow="{min(int(votes), int(wanted))}"><i style="width:{100 * min(votes / wanted, 1):.1f}%"></i></div></section>')


def fixed(rows: list[dict]) -> str:
    """The answers to the fixed prompts: of the policy that a run started from, and of the newest."""
    rows = [row for row in rows if row.get("fixed")]
    if not rows:
        return f'<p class="empty">{text.NO_FIXED}</p>'
    start, now = min(row["step"] for row in rows), max(row["step"] for row in rows)
    answers = {(conversation(row["prompt"]), row["step"]): row["response"] for row in rows}
    titles = (shared_text.FIXED_START, shared_text.FIXED_NOW.format(step=int(now)) if now > start else shared_text.FIXED_NOT_YET)

    def cells(prompt: str) -> str:
        """The titles are repeated in each cell, for narrow screens, where cells stand below each other."""
        texts = (escape(answers.get((prompt, start), "")), escape(answers.get((prompt, now), "")) if now > start else f"<em>{text.NOT_MOVED}</em>")
        return "".join(f'<td data-title="{title}">{said}</td>' for title, said in zip(titles, texts))

    heads = "".join(f'<th scope="col">{title}</th>' for title in (shared_text.FIXED_PROMPT, *titles))
    body = "".join(f'<tr><td class="prompt">{escape(prompt)}</td>{cells(prompt)}</tr>' for prompt in dict.fromkeys(p for p, _ in answers))
    return (f'<div class="samples fixed" tabindex="0" role="region" aria-label="{text.FIXED}"><table><thead><tr>{heads}</tr></thead>'
            f'<tbody>{body}</tbody></table></div>')


# -- what the votes do -----------------------------------------------------------------------------------------------

def watched(name: str, config: dict, row: dict | None) -> str:
    """In place of a question, the last vote of a simulated labeler (a row of samples.jsonl)."""
    likes = text.TASTES.get(config["labeler"], config["labeler"])
    if row is None:
        return no_question(text.TAUGHT_SOON.format(name=name, labeler=likes, first=config.get("votes_first", 1)), undo=False)
    vote = row["vote"]
    best = [i for i, rank in enumerate(vote) if rank == 1] if isinstance(vote, list) else {"left": [0], "right": [1]}.get(vote, [])
    if len(best) == len(row["responses"]):
        best = []
    answers = "".join(f'<article class="answer{" best" if i in best else ""}"><p>{escape(response) or f"<em>{shared_text.EMPTY_RESPONSE}</em>"}</p>'
                      f'{f"<strong>{text.PICKED}</strong>" if i in best else ""}</article>' for i, response in enumerate(row["responses"]))
    said = text.TAUGHT_BY.format(name=name, labeler=likes, step=row["step"])
    return (f'<section class="question"><p class="which" role="status">{escape(said)}</p>'
            f'<p class="prompt">{escape(conversation(row["prompt"]))}</p><div class="answers">{answers}</div></section>')


def effect(journal: list[dict], choices: int = 2, won: str = "") -> str:
    """What the votes have done to the reward, as it was measured when it learned them; `won` is what is known about the policy's wins."""
    rows = [row for row in journal if row.get("event") == "reward"]
    if not rows:
        return f'<p class="effect empty">{text.NO_EFFECT}</p>'
    guessed, guesses = 0.0, 0
    for row in reversed(rows):
        if guesses >= RECENT:
            break
        guessed, guesses = guessed + row["guessed"], guesses + row["guesses"]
    row = rows[-1]
    words = {name: ", ".join(f"“{word}”" for word in row.get(name, ())[:3]) for name in ("likes", "dislikes")}
    lines = [text.RECENT_GUESSES.format(guessed=guessed, guesses=guesses, choices=choices) if guesses else text.EFFECT_NO_GUESS.format(**row),
             text.EFFECT_WORDS.format(**words) if all(words.values()) else "", won, text.EFFECT_MOVED.format(**row)]
    return (f'<section class="effect"><h3>{text.TAKEN}</h3><ul>{"".join(f"<li>{escape(line)}</li>" for line in lines if line)}</ul></section>')


def duels(votes: list[Event]) -> tuple[float, int, float]:
    """(wins, votes, wins by chance) of answers of the policy, over the votes that were shown answers of the start as well."""
    won, count, chance = 0.0, 0, 0.0
    for vote in votes:
        roles = vote.roles
        if len(roles) != len(vote.ranks) or len(set(roles)) < 2:
            continue
        best = [role for role, rank in zip(roles, vote.ranks) if rank == min(vote.ranks)]
        won, count, chance = won + best.count("policy") / len(best), count + 1, chance + list(roles).count("policy") / len(roles)
    return won, count, chance


def wins(metrics: list[dict], votes: list[Event]) -> str:
    """How the policy does against the one it started from: by the score of a labeler that has one, else by the votes on both."""
    if scored := [row["gold/wins"] for row in metrics if "gold/wins" in row]:
        return text.WON_BY_SCORE.format(wins=scored[-1])
    won, count, chance = duels(votes)
    return text.WON_BY_VOTES.format(won=won, count=count, chance=chance) if count else ""


def formulas(config: dict, metrics: list[dict]) -> str:
    """The formulas of PPO with the newest step's numbers in them."""
    row = next((row for row in reversed(metrics) if "objective/kl_coef" in row), None)
    if row is None:
        return f'<p class="empty">{shared_text.NO_SAMPLES}</p>'
    scores, coef, kl = row["objective/scores"], row["objective/kl_coef"], row["objective/kl"]
    clip = config.get("clip", 0.2)
    lines = [(text.FORMULA_REWARD.format(scores=scores, coef=coef, kl=kl, total=scores - coef * kl), text.FORMULA_REWARD_ABOUT),
             (text.FORMULA_ADVANTAGE.format(variance=row.get("value/explained_variance", 0.0)), text.FORMULA_ADVANTAGE_ABOUT),
             (text.FORMULA_CLIP.format(low=1 - clip, high=1 + clip, clipped=row.get("policy/clipfrac", 0.0)), text.FORMULA_CLIP_ABOUT)]
    return f'<dl class="formulas">{"".join(f"<dt>{escape(formula)}</dt><dd>{escape(about)}</dd>" for formula, about in lines)}</dl>'


def extremes(rows: list[dict], recent: int = 48, count: int = 2) -> str:
    """Of the newest samples of PPO, those the reward scores highest and lowest."""
    rows = [row for row in rows if row.get("score") is not None][-recent:]
    if len(rows) < 2 * count:
        return f'<p class="empty">{text.NO_EXTREMES}</p>'
    order = sorted(rows, key=lambda row: -row["score"])
    cells = [(text.MOST, row) for row in order[:count]] + [(text.LEAST, row) for row in order[-count:]]
    body = "".join(f'<article class="answer {"most" if title == text.MOST else "least"}"><h4>{title} <span>{row["score"]:+.2f}</span></h4>'
                   f'<p>{escape(row["response"]) or f"<em>{shared_text.EMPTY_RESPONSE}</em>"}</p></article>' for title, row in cells)
    return f'<div class="answers">{body}</div>'


def path() -> str:
    steps = "".join(f"<li><strong>{title}</strong><p>{about}</p></li>" for title, about in text.PATH_STEPS)
    return f'<ol class="path">{steps}</ol><p class="empty">{text.PATH_NOTEBOOK}</p>'
