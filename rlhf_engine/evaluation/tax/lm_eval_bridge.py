"""A bridge to EleutherAI's lm-evaluation-harness: its tasks ask our backbone, quantised base and adapters as they are.

The package `lm_eval` is optional, and imported when it is needed. What a model has to do for it stands in `Requests`;
`make_language_model` makes a subclass of its class of models from that.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rlhf_engine.errors import NotFinite, UserError, short_repr

if TYPE_CHECKING:
    from rlhf_engine.evaluation.tax.logprobs import Window
    from rlhf_engine.model.backbone import Backbone

PACKAGE = "lm_eval"
LONGEST = 2048
"""Tokens that are read at a time of a model that does not say how many it knows, as in the harness."""
GENERATED = 256
"""Tokens of an answer, at most, where the task does not say how many, as in the harness."""
LENGTH_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Names by which tasks say it. The first that is there counts."""
ROWS = 32
"""Answers that are sampled together."""
CHECK_EVERY = 8
"""Tokens after which the texts so far are searched for the ends that a task names."""


def make_language_model(backbone: "Backbone", role: str | None) -> Any:
    """A model for the harness (an `lm_eval.api.model.LM`): a role of the backbone, or the bare base (None)."""
    from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]
    model = type("BackboneModel", (Requests, LM), {})()
    model.backbone, model.role = backbone, role
    return model


class Requests:
    """What the harness asks of a model. A request has `args`.

    Texts become tokens as in its own `HFLM`: a context gets what the tokenizer puts in front of a text; an empty
    context is the BOS, or without one the end token. In `loglikelihood_rolling` there is one such token in front, where
    `HFLM` has two for tokenizers that add one themselves.
    """

    backbone: "Backbone"
    role: str | None

    @property
    def longest(self) -> int:
        """Tokens that are read at a time."""
        from rlhf_engine.model.frozen_base import UNLIMITED
        return LONGEST if self.backbone.longest >= UNLIMITED else self.backbone.longest

    @property
    def prefix_token(self) -> int:
        """The token before a text without a context. Raises UserError for a tokenizer without BOS and end token."""
        tokenizer = self.backbone.tokenizer
        token = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        if token is None:
            raise UserError(f"{self.backbone.name}: its tokenizer has neither BOS nor end token to put before a text")
        return token

    @property
    def tokenizer_name(self) -> str:
        """By which the harness keeps requests of other tokenizers apart."""
        return self.backbone.name.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The chat template, if it is to be used."""
        return self.backbone.tokenizer.chat_template if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as text."""
        return self.backbone.tokenizer.apply_chat_template(
            chat_history, tokenize=False, add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt)

    # -- likelihoods ---------------------------------------------------------------------------------------------------

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-probability of the continuation in nats, whether it is the greedy one) of each (context, continuation).

        Rows that are too long lose their beginning.
        """
        scores = self._scores([self.encode_pair(*request.args) for request in requests])
        return [(score.logprob, score.greedy) for score in scores]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each text, in nats. Long ones are cut into windows by the harness's own rule."""
        from lm_eval.utils import (  # pyright: ignore[reportMissingImports]
            get_rolling_token_windows,
            make_disjoint_window,
        )
        windows, owners = [], []
        for number, request in enumerate(requests):
            cut = get_rolling_token_windows(self.encode(request.args[0], special=False), self.prefix_token,
                                            self.longest, 1)
            for window in map(make_disjoint_window, cut):
                windows.append(window)
                owners.append(number)
        sums = [0.0] * len(requests)
        for owner, score in zip(owners, self._scores(windows)):
            sums[owner] += score.logprob
        return sums

    def _scores(self, windows: Sequence["Window"]) -> list[Any]:
        from rlhf_engine.evaluation.tax.logprobs import score_windows
        with self.backbone.use(self.role):
            scores = score_windows(self.backbone, windows)
        if not all(math.isfinite(score.logprob) for score in scores):
            raise NotFinite(f"{self.backbone.name}: a log-probability is not finite; take an earlier checkpoint or "
                            "another adapter, or load the base with --dtype fp32")
        return scores

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """The tokens of a text. With `special`, those that the tokenizer adds are there, unless the text has them."""
        tokenizer = self.backbone.tokenizer
        if tokenizer.bos_token and text.startswith(tokenizer.bos_token):
            special = False
        return list(tokenizer.encode(text, add_special_tokens=special))

    def encode_pair(self, context: str, continuation: str) -> "Window":
        """The tokens of a context and its continuation, cut on the left to what the model can read.

        A blank at the end of the context belongs to the continuation, as most tokenizers have it.
        """
        if not context:
            given, charged = [self.prefix_token], self.encode(continuation, special=False)
            if charged[:1] == given:
                charged = charged[1:]
        else:
            blanks = len(context) - len(context.rstrip())
            if blanks:
                context, continuation = context[:-blanks], context[-blanks:] + continuation
            given = self.encode(context)
            charged = self.encode(context + continuation)[len(given):]
            given = given or [self.prefix_token]
        room = self.longest + 1 - len(charged)
        return (given[-room:], charged) if room > 0 else (charged[-self.longest - 1:][:1], charged[-self.longest:])

    # -- answers -------------------------------------------------------------------------------------------------------

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The answer to each (context, settings): up to an end token or one of the texts that a task names as ends."""
        answers = [""] * len(requests)
        groups: dict[str, list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            groups[repr(request.args[1])].append(number)
        for numbers in groups.values():
            sampling, ends = read_settings(requests[numbers[0]].args[1])
            room = self.longest - sampling.max_new_tokens
            if room < 1:
                raise UserError(f"a task wants answers of {sampling.max_new_tokens} tokens, and {self.backbone.name} "
                                f"knows {self.longest}; choose another task")
            prompts = {i: (self.encode(requests[i].args[0]) or [self.prefix_token])[-room:] for i in numbers}
            order = sorted(numbers, key=lambda i: len(prompts[i]))
            for start in range(0, len(order), ROWS):
                part = order[start:start + ROWS]
                for i, text in zip(part, self._answers([prompts[i] for i in part], sampling, ends)):
                    answers[i] = text
        return answers

    def _answers(self, prompts: list[list[int]], sampling: Any, ends: Sequence[str]) -> list[str]:
        from rlhf_engine.model.generation import decode, seeded_generator, text_of
        ids: list[list[int]] = [[] for _ in prompts]
        with self.backbone.use(self.role):
            for step, drawn in enumerate(decode(self.backbone, prompts, sampling, seeded_generator(0)), 1):
                for row, token in drawn:
                    ids[row].append(token)
                going = [row for row, _ in drawn]
                if step % CHECK_EVERY == 0 and all(has_end(text_of(self.backbone, ids[i]), ends) for i in going):
                    break
        return [until(text_of(self.backbone, row), ends) for row in ids]


def has_end(text: str, ends: Sequence[str]) -> bool:
    """Whether a text holds one of its ends."""
    return any(end in text for end in ends)


def until(text: str, ends: Sequence[str]) -> str:
    """A text up to the first of its ends."""
    for end in ends:
        text = text.split(end)[0]
    return text


def read_settings(settings: dict[str, Any]) -> tuple[Any, list[str]]:
    """(how to sample, the texts that end an answer) of a task. Raises UserError for a setting that is not known."""
    from rlhf_engine.model.generation import Sampling
    settings = dict(settings)
    ends = settings.pop("until", None) or []
    lengths = [int(settings.pop(name)) for name in LENGTH_NAMES if settings.get(name) is not None]
    temperature = float(settings.pop("temperature", None) or 0.0)
    sampled = settings.pop("do_sample", temperature > 0)
    top_k, top_p = settings.pop("top_k", None) or 0, settings.pop("top_p", None) or 1.0
    left = [name for name, value in settings.items() if value not in (None, False, 1, 1.0)]
    if left:
        raise UserError(f"a task sets {short_repr(left[0])} for its answers, which is not known here; choose another "
                        "task, or take it out of the task's file")
    sampling = Sampling((lengths or [GENERATED])[0], (temperature or 1.0) if sampled else 0.0, int(top_k), float(top_p))
    return sampling, [ends] if isinstance(ends, str) else [str(end) for end in ends if end]
