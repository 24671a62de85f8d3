"""Prompts, demonstrations and preferences of the bundled model, made from word lists and the model's own samples.

    python assets/recipe/make_data.py prompts
    python assets/recipe/make_data.py demonstrations     # needs assets/storyteller
    python assets/recipe/make_data.py preferences        # needs assets/adapters/sft

No text of a training set is in these files. A demonstration is a story of the base model. Its opening was forced to
hold the thing that was asked for, and its end was forced to close. Of several tries that passed plain checks, the one
that the model finds most probable is kept. A preference pair is two samples of the SFT model, labelled by
`rules.cheerful`.
"""

import argparse
import json
import random
import re
from pathlib import Path

import torch
from rules import cheerful, mentions, words

from rlhf_engine.data.readers import read_prompts
from rlhf_engine.data.tokenization import encode_prompt
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.generation import Sampling, sample, text_of
from rlhf_engine.model.logprobs import pad_right, response_positions, token_logprobs

ASSETS = Path(__file__).resolve().parents[1]
ANIMALS = """dog cat bird bunny bear frog duck fish mouse lion fox horse cow pig sheep monkey elephant
    butterfly bee turtle owl puppy kitten squirrel dragon dinosaur penguin snake spider whale""".split()
PEOPLE = """girl boy farmer king queen princess baby teacher doctor fairy pirate robot monster snowman witch""".split()
THINGS = """ball car boat tree flower hat book box bike train truck kite toy doll cake apple cookie candy
    balloon bell key drum rock star shell leaf stick spoon cup blanket lamp clock crayon puzzle ladder bucket
    umbrella pumpkin banana carrot""".split()
PLACES = """park garden forest river lake farm beach castle hill store school zoo pond cave tower""".split()
SKIES = "rain snow wind sun moon storm rainbow".split()
ADJECTIVES = """little big red blue brave silly kind happy sleepy shiny funny old pretty lost tiny lonely""".split()
NAMES = {"girl": "Lily Mia Sue Anna Lucy Sara Jane Emma Amy Bella".split(),
         "boy": "Tim Tom Ben Max Sam Jack Bob Leo Billy Joe".split()}
ASK = ["Tell me a story about {a}.", "Write a short story about {a}.", "Can you tell me a story about {a}?",
       "I want to hear a story about {a}.", "Please tell a bedtime story about {a}.", "Make up a story with {a} in it.",
       "Tell me about {a}.", "Do you know a story about {a}?"]
BEING = ["Once upon a time, there was {a} named {name}.", "Once upon a time, there was {a} who lived near a {place}.",
         "One day, {a} named {name} went to the {place}.", "There was once {a}. The {thing} liked to",
         "In a big {place}, there lived {a} named {name}.", "One day, a {child} named {name} met {a}.",
         "{name} was {a}. {He} liked to", "Once there was {a} who wanted to"]
OBJECT = ["Once upon a time, there was a {child} named {name}. {He} had {a}.",
          "One day, a {child} named {name} found {a}.", "Once upon a time, there was {a}.",
          "{name} wanted {a}. {He} asked {his} mom for the {thing}.",
          "{name} had {a}. {He} loved {his} {thing} very much.", "One day, {name} saw {a} in the {place}.",
          "Once upon a time, a {child} named {name} got {a} from {his} grandma."]
PLACE = ["One day, a {child} named {name} went to {the}.",
         "Once upon a time, there was a {child} named {name} who liked {the}.",
         "{name} and {his} mom went to {the}.", "Once upon a time, there was a {child} who lived near {the}."]
SKY = ["One day, a {child} named {name} looked at the {thing}.",
       "Once upon a time, {name} went outside to see the {thing}.",
       "There was once a {child} named {name} who loved {the}.", "One day, {name} was in the garden. {He} saw {the}."]
CLOSINGS = [" In the end,", " From that day on,", " At the end of the day,", " They were", " After that,", " And",
            " {name}", " The {thing}", " They"]
END_WEIGHT = 0.05
"""Weight of the end's log-probability beside the mean of the text's: a story should sound finished where it ends."""


def write(name: str, rows: list[dict]) -> None:
    path = ASSETS / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{path.relative_to(ASSETS.parent)}: {len(rows)} rows")


def article(text: str) -> str:
    return ("an " if text[0] in "aeiou" else "a ") + text


def make_prompts(args) -> None:
    """Requests in several wordings for every thing. `thing` says what the story should mention."""
    rng = random.Random(args.seed)
    rows = []
    for kind, things in (("being", ANIMALS + PEOPLE), ("object", THINGS), ("place", PLACES), ("sky", SKIES)):
        for thing in things:
            for _ in range(10):
                if kind in ("place", "sky"):
                    noun = f"the {thing}"
                else:
                    noun = article(rng.choice(ADJECTIVES) + " " + thing if rng.random() < 0.5 else thing)
                rows.append({"prompt": rng.choice(ASK).format(a=noun), "thing": thing, "kind": kind, "noun": noun})
    unique = list({row["prompt"]: row for row in rows}.values())
    rng.shuffle(unique)
    write("prompts-heldout.jsonl", unique[:128])
    write("prompts.jsonl", unique[128:])


def opening(row: dict, rng: random.Random) -> str:
    child = rng.choice(("girl", "boy"))
    frame = rng.choice({"being": BEING, "object": OBJECT, "place": PLACE, "sky": SKY}[row["kind"]])
    return frame.format(a=row["noun"], the=row["noun"], thing=row["thing"], child=child, name=rng.choice(NAMES[child]),
                        place=rng.choice(PLACES), He="She" if child == "girl" else "He", his="her" if child == "girl"
                        else "his")


def sentences(text: str) -> list[str]:
    return re.findall(r"[^.!?]+[.!?]+[\"”]?\s*", text)


def acceptable(thing: str, story: str) -> bool:
    """Plain checks: it mentions the thing twice, repeats no sentence, closes its quotes and has a few sentences."""
    parts = [part.strip() for part in sentences(story)]
    return (len(re.findall(rf"\b{thing}", story.lower())) >= 2 and len(set(parts)) == len(parts)
            and 5 <= len(parts) <= 12
            and story.count('"') % 2 == 0 and story.isascii() and 40 <= len(words(story)) <= 90
            and "".join(sentences(story)).strip() == story)


@torch.no_grad()
def likelihood(backbone: Backbone, texts: list[str]) -> list[float]:
    """How likely the base finds raw stories, and that they end there: the mean log-probability of their tokens (nats),
    and that of the end after them, weighted by `END_WEIGHT`.
    """
    values: list[float] = []
    for i in range(0, len(texts), 64):
        rows = [backbone.tokenizer(text)["input_ids"] + [backbone.tokenizer.eos_token_id] for text in texts[i:i + 64]]
        ids = pad_right(rows, backbone.pad_id, backbone.device)
        lengths = [len(row) - 1 for row in rows]
        logprobs = token_logprobs(backbone, ids, *response_positions([1] * len(rows), lengths, ids.device))
        values += [(row[:-1].mean() + END_WEIGHT * row[-1]).item() for row in logprobs.split(lengths)]
    return values


def continue_stories(backbone: Backbone, texts: list[str], tokens: int, temperature: float,
                     generator) -> list[tuple[str, bool]]:
    """For each text: (the text with its continuation, whether the story ended by itself)."""
    prompts = [backbone.tokenizer(text)["input_ids"] for text in texts]
    answers = sample(backbone, prompts, Sampling(tokens, temperature), generator, batch=64)
    return [(text + text_of(backbone, ids), ids[-1] in backbone.stop_ids) for text, ids in zip(texts, answers)]


def forced_stories(backbone: Backbone, prompts: list[dict], temperature: float, rng: random.Random,
                   generator) -> list[str]:
    """A story of the base model for each prompt, with a forced opening and a forced end; empty where it has no end."""
    drafts = continue_stories(backbone, [opening(row, rng) for row in prompts], 60, temperature, generator)
    halves = []
    for row, (text, ended) in zip(prompts, drafts):
        whole = "".join(sentences(text)).rstrip()
        names = [name for name in sum(NAMES.values(), []) if re.search(rf"\b{name}\b", whole)]
        closing = rng.choice(CLOSINGS).format(thing=row["thing"], name=(names or ["They"])[0])
        halves.append(whole if ended else " ".join(s.strip() for s in sentences(whole)[:-1]) + closing)
    closed = continue_stories(backbone, halves, 24, temperature, generator)
    stories = []
    for (text, ended), half, (full, _) in zip(drafts, halves, closed):
        tail = sentences(full[len(half):])
        stories.append("".join(sentences(text)).strip() if ended else (half + tail[0].rstrip()) if tail else "")
    return stories


def answered_stories(backbone: Backbone, prompts: list[dict], tokens: int, temperature: float, generator) -> list[str]:
    """A story of the SFT model for each prompt; empty where it did not end in time."""
    rows = [encode_prompt(backbone.tokenizer, row["prompt"]).ids for row in prompts]
    with backbone.use("policy"):
        answers = sample(backbone, rows, Sampling(tokens, temperature), generator, batch=64)
    return [text_of(backbone, ids).strip() if ids[-1] in backbone.stop_ids else "" for ids in answers]


def make_demonstrations(args) -> None:
    """The likeliest acceptable stories of each prompt: of the base with forced ends, or of an SFT model (`--from`)."""
    rng, generator = random.Random(args.seed), torch.Generator().manual_seed(args.seed)
    backbone = Backbone.load(str(args.model))
    if args.source:
        backbone.load_role("policy", args.source)
    prompts = [json.loads(line) for line in (ASSETS / "prompts.jsonl").read_text(encoding="utf-8").splitlines()]
    found: dict[str, dict[str, float]] = {row["prompt"]: {} for row in prompts}
    for round_ in range(args.rounds):
        if args.source:
            stories = answered_stories(backbone, prompts, args.tokens, args.temperature, generator)
        else:
            stories = forced_stories(backbone, prompts, args.temperature, rng, generator)
        kept = [(row, story) for row, story in zip(prompts, stories) if acceptable(row["thing"], story)]
        for (row, story), value in zip(kept, likelihood(backbone, [story for _, story in kept])):
            found[row["prompt"]][story] = value
        print(f"round {round_ + 1}: {len(kept)} of {len(prompts)} acceptable, "
              f"{sum(map(bool, found.values()))} prompts answered", flush=True)
    rows = []
    for prompt, stories in sorted(found.items()):
        best = sorted(stories, key=lambda story: -stories[story])[:args.each]
        rows += [{"prompt": prompt, "completion": story} for story in best]
    write("demonstrations.jsonl", rows)


def make_preferences(args) -> None:
    generator = torch.Generator().manual_seed(args.seed)
    backbone = Backbone.load(str(args.model))
    backbone.load_role("policy", args.adapter)
    prompts = [prompt for prompt in read_prompts(str(ASSETS / "prompts.jsonl")) for _ in range(2)]
    rows = [encode_prompt(backbone.tokenizer, prompt).ids for prompt in prompts]
    with backbone.use("policy"):
        answers = [[text_of(backbone, ids).strip()
                    for ids in sample(backbone, rows, Sampling(args.tokens), generator, batch=64)]
                   for _ in range(2)]
    pairs = []
    for prompt, a, b in zip(prompts, *answers):
        difference = cheerful(prompt, a) - cheerful(prompt, b)
        if abs(difference) >= args.margin and a and b:  # nearly equal stories teach noise
            chosen, rejected = (a, b) if difference > 0 else (b, a)
            pairs.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    write("preferences.jsonl", pairs[:args.pairs])


def share_that_mention(args) -> None:
    """The share of held-out prompts whose story mentions the requested thing, with and without the SFT adapter."""
    backbone = Backbone.load(str(args.model))
    backbone.load_role("policy", args.adapter)
    rows = [json.loads(line) for line in (ASSETS / "prompts-heldout.jsonl").read_text(encoding="utf-8").splitlines()]
    prompts = [encode_prompt(backbone.tokenizer, row["prompt"]).ids for row in rows]
    result = {}
    for name, role in (("base", None), ("sft", "policy")):
        with backbone.use(role):
            answers = sample(backbone, prompts, Sampling(args.tokens), torch.Generator().manual_seed(args.seed),
                             batch=64)
        result[name] = round(sum(mentions(row["thing"], text_of(backbone, ids))
                                 for row, ids in zip(rows, answers)) / len(rows), 3)
        result[name + "_ended"] = round(sum(ids[-1] in backbone.stop_ids for ids in answers) / len(rows), 3)
    print(json.dumps(result))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["prompts", "demonstrations", "preferences", "mentions"])
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--adapter", default=ASSETS / "adapters" / "sft", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=6, help="tries per prompt for a demonstration")
    parser.add_argument("--each", type=int, default=3, help="most demonstrations of a prompt")
    parser.add_argument("--from", dest="source", type=Path, help="an SFT adapter whose stories become demonstrations")
    parser.add_argument("--temperature", type=float, default=0.8, help="at which demonstrations are sampled")
    parser.add_argument("--tokens", type=int, default=96, help="longest sampled story")
    parser.add_argument("--pairs", type=int, default=800)
    parser.add_argument("--margin", type=float, default=0.4, help="least difference of the rule's scores for a pair")
    args = parser.parse_args()
    {"prompts": make_prompts, "demonstrations": make_demonstrations, "preferences": make_preferences,
     "mentions": share_that_mention}[args.what](args)
