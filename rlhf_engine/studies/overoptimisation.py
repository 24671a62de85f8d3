"""The study of over-optimisation (Gao et al. 2022): a gold reward, proxies of it, and policies that maximise a proxy.

For each seed and number of labels, a proxy is trained on that many labels of the gold. Then a learner maximises the
proxy without a KL price, and best-of-n chooses by it; gold and proxy are measured on held-out prompts over the KL to
the start. An ensemble of proxies, mean less spread, is optimised in the same way.

The study is made of pieces: (labels, seed, kind). Each is a line of `pieces.jsonl` once it is done, and is not done
again. A kill loses at most the piece that was running; its proxies stay if they were done.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlhf_engine.data.tokenization import Prompt, encode_prompts
from rlhf_engine.errors import NotFinite, UserError, first_line, noop
from rlhf_engine.evaluation import best_of
from rlhf_engine.evaluation.best_of_curve import score_samples
from rlhf_engine.evaluation.compare import ScoreFunction, check_scores
from rlhf_engine.files import append_text, json_lines, read_lines, write_text
from rlhf_engine.measures import KL
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.generation import Sampling, prompt_room, sample, seeded_generator, text_of
from rlhf_engine.model.text_metrics import distinct
from rlhf_engine.rollout.rollout import make_rollout, measure
from rlhf_engine.studies.pieces import PIECES, Piece, plan, read_pieces
from rlhf_engine.studies.proxies import Label, Proxy, agreement, chosen_prompts, train_proxy
from rlhf_engine.studies.settings import StudySettings
from rlhf_engine.trainers.base import Diverged, fitted_learning_rate
from rlhf_engine.trainers.group import GroupLearner
from rlhf_engine.trainers.ppo import PPO

START = "start"
"""The role of the starting policy; there is none where that is the bare base."""
RATE_FACTOR = 2.0
"""Times the fitted learning rate of the stage, where the settings name no rate."""
LABEL_BLOCK = 64
"""Labels that are sampled together. Each block has a random generator of its own, so more labels begin alike."""
SAMPLED_TOGETHER = 128
SCALE_ROWS = 256
"""Samples of the start on which a proxy is normalised, at most."""
DIGITS = 4
"""Digits behind the point of what a piece holds of each prompt."""


class StartSamples(NamedTuple):
    """N samples of the start to each of P held-out prompts."""

    response_ids: list[list[list[int]]]
    """[P][N]: token ids."""
    gold: np.ndarray
    """[P, N], as the gold gives it."""


class Study:
    """Does the pieces of a study on one backbone.

    Args:
        backbone: has the role `START` unless the start is the bare base, and what the gold needs.
        gold: scores texts.
        prompts: to label and to train on.
        held_out: to measure on.
        settings: the settings.
        folder: is written to.
        on_microbatch: called between micro-batches; may raise an exception to end the study.

    Raises UserError where no response has room.
    """

    def __init__(self, backbone: Backbone, gold: ScoreFunction, prompts: list[Prompt], held_out: list[Prompt],
                 settings: StudySettings, folder: Path, *, on_microbatch: Callable[[], None] = noop):
        self.backbone = backbone
        self.gold = gold
        self.prompts = prompts
        self.held_out = held_out[:settings.prompts]
        self.settings = settings
        self.folder = folder
        self.on_microbatch = on_microbatch
        self.start = START if START in backbone.roles else None
        self.sampling = Sampling(settings.max_new_tokens, settings.temperature)
        self.room = prompt_room(backbone, settings.max_new_tokens, settings.max_tokens)
        self.held_out_ids = [row.ids for row in encode_prompts(backbone, self.held_out, self.room)[0]]
        stage_rate = settings.learner_config(0, 1.0).rate_scale * fitted_learning_rate(backbone.hidden_size)
        self.learning_rate = settings.learning_rate or RATE_FACTOR * stage_rate
        self.start_samples = lru_cache(maxsize=1)(self._start_samples)

    def run(self, say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
        """Do the pieces that are not done, and give each as it is done and written. `say` tells which one begins."""
        done = read_pieces(self.folder)
        if done:  # a kill may have left half a line at the end, to which nothing must be appended
            write_text(self.folder / PIECES, json_lines(done.values()))
        pieces = [piece for piece in plan(self.settings) if piece not in done]
        for number, piece in enumerate(pieces, 1):
            say(f"{number} of {len(pieces)}: {piece.name}")
            clock, processor = time.perf_counter(), time.process_time()
            row = {**piece._asdict(), **self.do(piece), "seconds": round(time.perf_counter() - clock, 1),
                   "processor_seconds": round(time.process_time() - processor, 1)}
            append_text(self.folder / PIECES, json_lines([row]))
            yield row

    def do(self, piece: Piece) -> dict[str, Any]:
        """The results of one piece."""
        settings = self.settings
        samples = self.start_samples(piece.seed)
        members = settings.ensemble if piece.kind == "ensemble" else 1
        folders = [self.proxy_folder(piece.labels, piece.seed, member) for member in range(members)]
        cost = settings.spread_cost if piece.kind == "ensemble" else 0.0
        proxy = Proxy(self.backbone, folders, self.scale_rows(samples), cost, on_microbatch=self.on_microbatch)
        try:
            if piece.kind == "best_of":
                return self.best_of(proxy, samples)
            return self.optimise(proxy, piece.seed, samples)
        finally:
            proxy.drop()

    # -- the start: samples, labels, proxies -------------------------------------------------------------------------

    def sample_start(self, prompts: list[list[int]], seed: int) -> list[list[int]]:
        """A response of the start to each prompt."""
        with self.backbone.use(self.start):
            return sample(self.backbone, prompts, self.sampling, seeded_generator(seed), batch=SAMPLED_TOGETHER,
                          on_microbatch=self.on_microbatch)

    def _start_samples(self, seed: int) -> StartSamples:
        """The samples of a seed on the held-out prompts: read from the study's folder, or sampled and written there."""
        path = self.folder / "samples" / f"seed-{seed}.jsonl"
        rows = read_lines(path) if path.exists() else []
        if len(rows) == len(self.held_out):
            return StartSamples([row["response_ids"] for row in rows], np.array([row["gold"] for row in rows]))
        count = self.settings.samples
        flat = self.sample_start([ids for ids in self.held_out_ids for _ in range(count)], stream(seed, 1))
        response_ids = [flat[first:first + count] for first in range(0, len(flat), count)]
        texts = [[text_of(self.backbone, ids) for ids in row] for row in response_ids]
        gold = score_samples(self.gold, self.held_out, self.held_out_ids, response_ids, texts)
        if gold.std() == 0:
            raise UserError(f"--gold gives all {gold.size} samples of the start the same score ({gold.flat[0]:.6g}): "
                            "give prompts that ask for what it prefers, or another gold")
        path.parent.mkdir(exist_ok=True)
        write_text(path, json_lines({"prompt": prompt, "response_ids": ids, "gold": scores.tolist()}
                                    for prompt, ids, scores in zip(self.held_out, response_ids, gold)))
        return StartSamples(response_ids, gold)

    def scale_rows(self, samples: StartSamples) -> list[list[int]]:
        """Token rows on which proxies are normalised: the first samples of each held-out prompt."""
        each = -(-SCALE_ROWS // len(self.held_out_ids))
        rows = [(prompt, ids) for prompt, row in zip(self.held_out_ids, samples.response_ids) for ids in row[:each]]
        return [prompt + ids for prompt, ids in rows]

    def labels(self, count: int, seed: int) -> list[Label]:
        """The first `count` labels of a seed: read from the study's folder, or sampled, scored and written there."""
        path = self.folder / "labels" / f"seed-{seed}.jsonl"
        rows = read_lines(path) if path.exists() else []
        path.parent.mkdir(exist_ok=True)
        if len(rows) < count:
            rows = rows[:len(rows) - len(rows) % LABEL_BLOCK]  # a kill may have left a part of a block
            write_text(path, json_lines(rows))
        while len(rows) < count:
            prompts = chosen_prompts(self.prompts, len(rows) + LABEL_BLOCK, seed)[len(rows):]
            block = self.label_block(prompts, stream(seed, 2 + len(rows) // LABEL_BLOCK))
            append_text(path, json_lines(block))
            rows += block
        return [Label(row["prompt"], tuple(row["responses"]), tuple(row["gold"])) for row in rows[:count]]

    def label_block(self, prompts: list[Prompt], seed: int) -> list[dict[str, Any]]:
        """A label for each prompt, as rows of a file."""
        prompt_ids = [row.ids for row in encode_prompts(self.backbone, prompts, self.room)[0]]
        twice = [ids for ids in prompt_ids for _ in range(2)]
        owners = [prompt for prompt in prompts for _ in range(2)]
        response_ids = self.sample_start(twice, seed)
        texts = [text_of(self.backbone, ids) for ids in response_ids]
        scores = self.gold(owners, twice, response_ids, texts)
        check_scores(scores, texts)
        pairs = [slice(first, first + 2) for first in range(0, len(texts), 2)]
        return [{"prompt": prompt, "responses": texts[pair], "gold": [float(score) for score in scores[pair]]}
                for prompt, pair in zip(prompts, pairs)]

    def proxy_folder(self, labels: int, seed: int, member: int) -> Path:
        """The folder of a trained proxy; one that is not there is trained first."""
        folder = self.folder / "proxies" / f"seed-{seed}-labels-{labels}-member-{member}"
        if not folder.exists():
            folder.parent.mkdir(exist_ok=True)
            config = self.settings.proxy_config(stream(seed, 100_000 + member) % 2**32, labels)
            train_proxy(self.backbone, self.labels(labels, seed), config, folder, self.start,
                        on_microbatch=self.on_microbatch)
        return folder

    # -- what the pieces measure -------------------------------------------------------------------------------------

    def best_of(self, proxy: Proxy, samples: StartSamples) -> dict[str, Any]:
        """Gold and proxy of the best of n samples of the start by the proxy, for n = 1, 2, 4 and so on.

        Each number is the unbiased mean over all subsets of n samples, for each prompt, and the KL that of best-of-n
        with its ties (`best_of.estimate_kl`), beside its upper bound `kl_bound`. n ends at half of the samples: the KL
        wants twice n.
        """
        def score(prompts, prompt_ids, response_ids, texts) -> list[float]:
            return proxy.score_rows([prompt + ids for prompt, ids in zip(prompt_ids, response_ids)]).tolist()

        empty = [["" for _ in row] for row in samples.response_ids]  # a proxy reads no texts
        scores = score_samples(score, self.held_out, self.held_out_ids, samples.response_ids, empty)
        gold = self.normal_gold(samples.gold, samples)
        points = []
        for n in sizes(scores.shape[1]):
            weights = np.array([best_of.best_of_weights(row, n) for row in scores])
            points.append({"n": n, "kl_bound": best_of.kl_bound(n),
                           "kl": rounded([best_of.estimate_kl(row, n) for row in scores]),
                           "gold": rounded((weights * gold).sum(1)), "proxy": rounded((weights * scores).sum(1))})
        return {"points": points, **agreement(scores, samples.gold)}

    def optimise(self, proxy: Proxy, seed: int, samples: StartSamples) -> dict[str, Any]:
        """Train a policy against the proxy, and measure it as it goes. The start is the first point."""
        with self.policy():
            config = self.settings.learner_config(seed, self.learning_rate)
            learner = GroupLearner if config.stage == "grpo" else PPO
            trainer = learner(self.backbone, self.prompts, proxy, config, on_microbatch=self.on_microbatch)  # pyright: ignore[reportArgumentType]
            points, ended = [self.look(0, proxy, seed, samples)], "all steps"
            wanted = self.steps_measured()
            try:
                for metrics in trainer:
                    self.on_microbatch()
                    far = metrics[KL] > self.settings.kl_limit
                    if far or metrics["step"] in wanted:
                        points.append(self.look(metrics["step"], proxy, seed, samples))
                    if far:
                        ended = f"a KL of {metrics[KL]:.0f} nats in step {metrics['step']}"
                        break
            except (NotFinite, Diverged) as error:
                ended = f"{type(error).__name__}: {first_line(error)}"
        return {"points": points, "ended": ended}

    def steps_measured(self) -> set[int]:
        """The steps after which a run is measured, the last one among them.

        They are denser at first, where the distance grows faster: the n-th of N is at (n / N)^1.5 of the run.
        """
        steps, count = self.settings.steps, self.settings.measurements
        return {max(1, round(steps * (number / count) ** 1.5)) for number in range(1, count + 1)}

    def look(self, step: int, proxy: Proxy, seed: int, samples: StartSamples) -> dict[str, Any]:
        """Gold, proxy and KL of the policy on each held-out prompt, on fresh samples; random numbers stay the same."""
        each = self.settings.per_prompt
        prompts = [prompt for prompt in self.held_out for _ in range(each)]
        prompt_ids = [ids for ids in self.held_out_ids for _ in range(each)]
        with self.backbone.use("policy"):
            response_ids = sample(self.backbone, prompt_ids, self.sampling, seeded_generator(stream(seed, 0)),
                                  batch=SAMPLED_TOGETHER, on_microbatch=self.on_microbatch)
        rollout = make_rollout(self.backbone, prompts, prompt_ids, response_ids)
        measure(self.backbone, rollout, "", temperature=self.settings.temperature, micro_batch=SAMPLED_TOGETHER // 4,
                on_microbatch=self.on_microbatch)
        scores = self.gold(prompts, prompt_ids, response_ids, rollout.responses)
        check_scores(scores, rollout.responses)
        gold = self.normal_gold(np.array(scores, dtype=float), samples)

        def by_prompt(values: np.ndarray) -> list[float]:
            return rounded(values.reshape(-1, each).mean(1))
        return {"step": step, "kl": by_prompt(rollout.kl().numpy()), "gold": by_prompt(gold),
                "proxy": by_prompt(proxy(rollout).numpy()), "length": float(rollout.mask.sum(1).mean()),
                "distinct_2": distinct(response_ids), "example": rollout.responses[0]}

    def normal_gold(self, gold: np.ndarray, samples: StartSamples) -> np.ndarray:
        """Gold scores of any shape on the scale of the start: mean 0, standard deviation 1 on its samples."""
        return (gold - samples.gold.mean()) / samples.gold.std()

    @contextmanager
    def policy(self) -> Iterator[None]:
        """A fresh role `policy` that begins as the start; the roles of a learner are gone afterwards."""
        try:
            if self.start:
                self.backbone.copy_role("policy", self.start)
            yield
        finally:
            for role in ("policy", "reference", "value"):
                self.backbone.drop_role(role)


def sizes(samples: int) -> list[int]:
    """Each n of best-of-n: the powers of two up to half of the samples, at least 1 and 2."""
    return [2**power for power in range(samples.bit_length()) if 2**power <= max(samples // 2, 2)]


def stream(seed: int, number: int) -> int:
    """The seed of the random numbers with this number, of a seed: no two streams of small seeds are the same."""
    return (seed * 1_000_003 + number) % 2**63


def rounded(values: Any) -> list[float]:
    return [round(float(value), DIGITS) for value in values]
