"""What somebody met who walked through the whole page: each fault once, in one browser over one workspace."""

import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from playwright.sync_api import Page, expect

from playground.pages.train import text as train_text
from playground.server.link_preview import address_of_page
from rlhf_engine.config import PPOConfig, SFTConfig, TeachConfig
from rlhf_engine.feedback.store import Store
from rlhf_engine.runs.folder import Run
from tests.playground.browser import browsing, expect_no_sideways_scroll, go, needs_browser, serving, wait_until
from tests.playground.conftest import FakeWorker, ask, write_run, write_teach

pytestmark = needs_browser


class StartingWorker(FakeWorker):
    """Makes a run folder, as a worker does before it answers."""

    def __init__(self, home: Path):
        super().__init__()
        self.home = home

    def start(self, stage: str, config: dict, *, resume: bool = False, overwrite: bool = False) -> str:
        super().start(stage, config, resume=resume)
        name = Path(config.get("output") or "").name or f"begun-{len(self.log)}"
        kinds = {"teach": TeachConfig, "sft": SFTConfig}
        return str(write_run(self.home, name, kinds[stage](**{**config, "output": ""}), state="running", steps=0,
                             checkpoint=False).path)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A workspace with a run of a person that is done, older than all that comes."""
    home = tmp_path_factory.mktemp("home")
    write_teach(home, "mine", state="done")
    return home


@pytest.fixture(scope="module")
def worker(home) -> FakeWorker:
    return StartingWorker(home)


@pytest.fixture(scope="module")
def url(home, worker) -> Iterator[str]:
    with serving(home, worker) as url:
        yield url.rstrip("/")


@pytest.fixture(scope="module")
def page(url) -> Iterator[Page]:
    with browsing(url) as open_page:
        yield open_page()


@pytest.fixture
def run(home) -> Iterator[Run]:
    """A live run that asks, and that is gone after the test."""
    run = write_teach(home, "asking", queries=5, votes_first=24)
    yield run
    run.discard()


@pytest.fixture
def votes(home) -> Store:
    return Store(home / "feedback.sqlite")


def of(run: Run, votes: Store) -> list:
    return [(event.kind, event.value) for event in votes.events(run=run.id)]


def heights(page: Page, plot: str) -> list:
    """What is drawn in a plot: the values of each line."""
    return page.evaluate(f"(document.querySelector('#{plot} .live-plot').data || []).map((line) => line.y)")


DOUBLE_PRESS = 250  # milliseconds; a little more than in assets/js/vote_card.js


# -- Teach ---------------------------------------------------------------------------------------------------------------

def test_a_run_that_was_started_stays_in_front_when_it_is_over(page, home):
    go(page, "Teach")
    page.click("#begin-watch")
    expect(page.locator("#vote-status")).to_contain_text("begun-1")
    Run(home / "runs" / "begun-1").set_status(state="done")
    expect(page.locator("#vote-status .badge.done")).to_be_visible()
    expect(page.locator("#vote-status")).to_contain_text("begun-1")
    page.reload()
    expect(page.locator("#vote-status")).to_contain_text("begun-1")
    Run(home / "runs" / "begun-1").set_status(state="stopped")
    expect(page.locator("#vote-card .silent")).to_contain_text("It is stopped, before its first step.")
    Run(home / "runs" / "begun-1").discard()
    expect(page.locator("#vote-status")).to_contain_text("mine")


def test_a_recipe_is_chosen_and_started(page, worker, home):
    go(page, "Teach")
    page.locator("#begin-model input").click()
    page.get_by_role("option", name="SmolLM2 on two cores").click()
    expect(page.locator("#begin-about")).to_contain_text("an assistant that answers everyday requests")
    page.click("#begin-watch")
    wait_until(page, lambda: worker.log[-1][2].get("model") == "smollm2")
    run = Run(home / "runs" / f"begun-{len(worker.log)}")
    expect(page.locator("#vote-status")).to_contain_text(run.path.name)
    run.discard()
    expect(page.locator("#vote-status")).to_contain_text("mine")


def test_after_a_score_the_keys_vote_and_an_undo_takes_back_the_last_change(page, run, votes):
    expect(page.locator("#vote-card .prompt")).to_contain_text("prompt 4 ")
    for score in ("6", "4"):
        page.select_option("#score-1", score)
        expect(page.locator("#score-1.made")).to_have_value(score)
    expect(page.locator("#score-1")).to_be_focused()
    page.keyboard.press("u")
    expect(page.locator("#vote-card .done")).to_contain_text("“a 6 of 7” again")
    assert of(run, votes) == [("score", 6)]
    page.locator("#score-1").focus()
    page.keyboard.press("3")
    expect(page.locator("#vote-card .prompt")).to_contain_text("prompt 3 ")
    assert of(run, votes) == [("score", 6), ("ranking", (2, 2, 1, 2))]
    for answer in ("answer 3", "a 6 of 7"):
        page.keyboard.press("u")
        expect(page.locator("#vote-card .done")).to_contain_text(answer)
        page.wait_for_timeout(DOUBLE_PRESS)  # so long the same key is taken for the second half of a double press
    page.keyboard.press("u")
    expect(page.locator("#vote-card .done")).to_contain_text("There is no vote of yours in run asking to take back.")
    assert of(run, votes) == []


def test_the_votes_to_go_are_counted_at_once_and_what_they_teach_is_shown_before_the_first_step(page, run):
    (run.path / "metrics.jsonl").unlink()
    run.set_status(state="waiting", step=0, total_steps=22, advice="waiting for 19 more votes, then PPO starts", advice_kind="waiting")
    expect(page.locator("#vote-status")).to_contain_text("votes before PPO starts: 24 more")
    page.keyboard.press("1")
    expect(page.locator("#vote-status")).to_contain_text("23 more")
    page.keyboard.press("u")
    expect(page.locator("#vote-status")).to_contain_text("24 more")
    expect(page.locator("#vote-effect")).not_to_contain_text("What the reward has learned")
    for number in (1, 2):
        run.note("reward", step=1, consumed=[f"e{number}"], votes=number, new=1, guessed=number - 1, guesses=1, loss=1.0, drift=0.1, spread=0.2,
                 gain=1.0, likes=["dog"], dislikes=["cat"])
    expect(page.locator("#vote-effect")).to_contain_text("By now it likes “dog”")
    wait_until(page, lambda: heights(page, "vote-plot-1")[:1] == [[0, 0.5]])
    assert heights(page, "vote-plot-2") == [[0.1, 0.1], [0.2, 0.2]]


def test_each_guess_has_a_mark_from_the_first_votes_on_and_fits_a_phone(page, run):
    (run.path / "metrics.jsonl").unlink()
    run.set_status(state="waiting", step=0, total_steps=22, advice="waiting for 4 more votes, then PPO starts", advice_kind="waiting")
    for votes, predictions in ((8, [0.5] * 8), (20, [1.0, 0.0, None, 1.0] * 3)):
        guesses = [value for value in predictions if value is not None]
        run.note("reward", step=1, consumed=[f"v{i}" for i in range(len(predictions))], votes=votes, new=len(predictions), guessed=sum(guesses),
                 guesses=len(guesses), predictions=predictions, loss=1.0, drift=0.1, spread=0.2, gain=1.0, likes=["dog"], dislikes=["cat"],
                 likes_features=["about 50 words"], dislikes_features=["lists"])
    effect = page.locator("#vote-effect")
    expect(effect).to_contain_text("6 of 9 guesses were right: 67%")
    expect(effect).to_contain_text("By now it likes: about 50 words.")
    expect(effect.get_by_role("img", name="marks 11 to 17: 5 of 7")).to_be_visible()
    assert [effect.locator(f".signs .{kind}").count() for kind in ("hit", "miss", "none")] == [6, 3, 8]
    page.set_viewport_size({"width": 390, "height": 844})
    try:
        expect_no_sideways_scroll(page)
        expect(effect.locator(".strip")).to_be_visible()
    finally:
        page.set_viewport_size({"width": 1280, "height": 900})


def test_a_run_that_is_done_asks_no_more_and_says_what_one_can_do(page, run, votes):
    expect(page.locator("#vote-1")).to_be_visible()
    page.keyboard.press("1")
    expect(page.locator("#vote-card .prompt")).to_contain_text("prompt 3 ")
    run.set_status(state="done")
    expect(page.locator("#vote-card .silent")).to_contain_text("asking is done")
    expect(page.locator("#vote-card .silent")).to_contain_text("Chat tab")
    expect(page.locator("#vote-1")).to_have_count(0)
    page.keyboard.press("u")
    done = page.locator("#vote-card .done")
    expect(done).to_contain_text("is taken back.")
    expect(done).not_to_contain_text("Here is the question again")
    assert of(run, votes) == []
    ask(run, 9)
    page.wait_for_timeout(1000)  # a look later
    expect(page.locator("#vote-1")).to_have_count(0)


def test_a_long_name_ends_before_the_arrow_of_its_picker(page, home):
    long = write_teach(home, "taught-by-somebody-with-a-liking-for-names-that-fill-a-whole-line-and-more")
    page.locator("#vote-run input").click()
    page.get_by_role("option", name=long.path.name).click()
    expect(page.locator("#vote-status")).to_contain_text(long.path.name)
    room = page.evaluate("""() => {
      const field = document.querySelector('#vote-run input'), arrow = document.querySelector('#vote-run .icon-wrap');
      return arrow.getBoundingClientRect().left - field.getBoundingClientRect().right + parseFloat(getComputedStyle(field).paddingRight);
    }""")
    assert room >= 0
    long.discard()
    expect(page.locator("#vote-status")).not_to_contain_text(long.path.name)


# -- settings that change ------------------------------------------------------------------------------------------------

@pytest.fixture
def changed(home) -> Iterator[Run]:
    """A live run of twelve steps, planned with fourteen, whose KL target was lowered after step 6."""
    run = write_run(home, "changed", PPOConfig(reward="taste", steps=14), state="running", steps=10, checkpoint=False)
    run.set_status(total_steps=12)
    run.note("changed", step=6, name="kl_target", old=6.0, new=4.0)
    run.note("changed", step=8, name="steps", old=14, new=12)
    yield run
    run.discard()


def test_a_change_leaves_the_past_as_it_was_and_is_named(page, changed):
    go(page, "Train")
    expect(page.locator("#run-card")).to_contain_text("changed")
    target = [6.0, 4.0, 4.0]
    wait_until(page, lambda: any(target in heights(page, f"plot-{number}") for number in range(1, 5)))
    page.get_by_text(train_text.RUN_COMMAND).click()
    code = page.locator("#run-command")
    expect(code).to_contain_text("--kl-target: 4 from step 7 on")
    expect(code).to_contain_text("--steps 12")
    go(page, "Runs")
    table = page.locator("#runs-differences")
    expect(table).to_contain_text("6, from step 7 on 4")
    expect(table).to_contain_text("14, from step 9 on 12")


def test_a_rewind_needs_a_checkpoint_and_the_default_period_gives_short_runs_some(page, changed):
    go(page, "Train")
    page.locator("#live-controls").get_by_text(train_text.LIVE_CONTROLS).click()
    expect(page.locator("#rewind")).to_be_disabled()
    expect(page.locator("#live-controls")).to_contain_text("The first comes with step 3")
    with changed.checkpoint(9) as folder:
        (folder / "policy").mkdir()
    expect(page.locator("#rewind")).to_be_enabled()
    expect(page.locator("#live-controls")).not_to_contain_text("The first comes with")
    page.locator("#live-controls").get_by_text(train_text.LIVE_CONTROLS).click()


def test_a_yes_is_about_the_run_and_the_step_of_the_question(page, home, worker, changed):
    go(page, "Train")
    page.locator("#live-controls").get_by_text(train_text.LIVE_CONTROLS).click()
    for step in (3, 6):
        with changed.checkpoint(step) as folder:
            (folder / "policy").mkdir()
    choice = page.locator("#rewind-to input")
    expect(choice).to_have_value("step 6")
    choice.click()
    page.get_by_role("option", name="step 3").click()
    page.click("#rewind")
    expect(page.locator("#live-controls")).to_contain_text("back to step 3?")
    with changed.checkpoint(9) as folder:
        (folder / "policy").mkdir()
    choice.click()
    expect(page.get_by_role("option", name="step 9")).to_be_visible()
    page.keyboard.press("Escape")
    expect(choice).to_have_value("step 3")
    page.click("#rewind-yes")
    wait_until(page, lambda: worker.log[-1] == ("control", str(changed.path), "rewind", 3))
    page.click("#rewind")
    expect(page.locator("#rewind-yes")).to_be_visible()
    page.click("#discard")
    expect(page.locator("#discard-yes")).to_be_visible()
    newer = write_run(home, "newer", PPOConfig(reward="taste"), state="running", checkpoint=False)
    expect(page.locator("#run-card")).to_contain_text("newer")
    expect(page.locator("#rewind-yes")).to_be_hidden()
    page.click("#discard-yes")
    wait_until(page, lambda: worker.log[-1] == ("control", str(changed.path), "discard"))
    newer.discard()
    page.locator("#live-controls").get_by_text(train_text.LIVE_CONTROLS).click()


def test_the_form_says_what_is_changed_and_starts_the_run_that_its_command_names(page, home, worker):
    go(page, "Train")
    line = page.locator("#sft-preset-said")
    page.locator("#sft-preset input").click()
    page.get_by_role("option", name="A quick look").click()
    expect(line).to_contain_text("It sets")
    page.locator("#sft-preset input").click()
    page.get_by_role("option", name="Defaults").click()
    expect(line).to_have_text(train_text.DEFAULTS_SAY)
    page.locator("#sft-batch-size input").fill("4")
    expect(line).to_have_text("Not at their defaults: Batch size.")
    page.get_by_text(train_text.AS_COMMAND).click()
    expect(page.locator("#command")).to_contain_text("sft-1")
    before = len(worker.log)
    page.click("#start")
    wait_until(page, lambda: len(worker.log) > before)
    assert Path(worker.log[-1][2]["output"]).name == "sft-1"
    Run(home / "runs" / "sft-1").discard()


# -- around the pages ----------------------------------------------------------------------------------------------------

def test_the_export_follows_the_runs_that_are_shown_until_somebody_chooses(page, home):
    go(page, "Runs")
    page.locator("#take-along").get_by_text("Take it along").click()
    pick = page.locator("#take-pick input")
    expect(pick).to_have_value("SFT (bundled)")
    for name in ("older", "newer"):
        run = write_run(home, name, TeachConfig(labeler="short"))
        run.set_status(state="done")
    expect(pick).to_have_value("newer, newest checkpoint")
    page.locator("#runs-chosen input").click()
    page.get_by_role("option", name="older · Teach").click()
    expect(pick).to_have_value("older, newest checkpoint")
    pick.click()
    page.get_by_role("option", name="SFT (bundled)").click()
    page.locator("#runs-chosen input").click()
    page.get_by_role("option", name="newer · Teach").click()
    expect(page.locator("#runs-legend")).to_contain_text("newer")
    page.wait_for_timeout(1000)  # a look later
    expect(pick).to_have_value("SFT (bundled)")


def test_the_back_button_and_a_typed_address_open_the_tab(page):
    go(page, "Data")
    go(page, "Models")
    page.go_back()
    expect(page.get_by_role("tab", name="Data", exact=True)).to_have_attribute("aria-selected", "true")
    assert page.url.endswith("#data")
    page.evaluate("location.hash = '#train'")
    expect(page.get_by_role("tab", name="Train", exact=True)).to_have_attribute("aria-selected", "true")
    expect(page.locator("#run-card")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("tab", name="Data", exact=True)).to_have_attribute("aria-selected", "true")


def test_nothing_on_the_page_is_a_key_of_a_dictionary(page):
    go(page, "Chat")
    page.fill("#chat-input textarea", "Hello")
    page.click("#chat-send")
    expect(page.locator("#chat-left")).to_contain_text("none: Hel")
    page.wait_for_timeout(500)
    assert "common." not in page.evaluate("document.body.textContent")


def test_a_link_shows_our_own_title_and_a_picture_from_here(url):
    with urllib.request.urlopen(f"{url}/") as answer:  # noqa: S310
        html = answer.read().decode()
    head = html.split("</head>")[0]
    assert 'property="og:title" content="RLHF Playground"' in head and "try out the app" not in html and "raw.githubusercontent" not in html
    image = head.split('property="og:image" content="')[1].split('"')[0]
    assert image.startswith(url)
    with urllib.request.urlopen(image) as picture:  # noqa: S310
        assert picture.headers["content-type"] == "image/jpeg" and len(picture.read()) > 10_000
    request = urllib.request.Request(f"{url}/", headers={"X-Forwarded-Host": '"><script>x</script>', "X-Forwarded-Proto": "https"})  # noqa: S310
    with urllib.request.urlopen(request) as answer:  # noqa: S310
        assert '"><script>x' not in answer.read().decode().split("</head>")[0].split("gradio_config")[0]


def test_the_preview_of_a_page_under_a_folder_of_a_proxy_has_the_folder():
    scope = {"type": "http", "scheme": "http", "headers": [(b"host", b"localhost:7860"), (b"x-forwarded-host", b"a.example, b.example"),
                                                           (b"x-forwarded-proto", b"https, http")]}
    for root, address in (("", "https://a.example"), ("/play/", "https://a.example/play"), ("https://b.example/deep/", "https://b.example/deep")):
        assert address_of_page({**scope, "app": SimpleNamespace(root_path=root)}) == address
