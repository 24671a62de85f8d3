"""The leaderboard on the Report page: checkpoints ranked by the votes of the workspace."""

import gradio as gr
from markupsafe import Markup

from playground.components import html as views
from playground.components.html import render
from playground.pages.report import text
from playground.workspace import Workspace
from rlhf_engine.errors import UserError, one_line
from rlhf_engine.evaluation.leaderboard.report import make_report
from rlhf_engine.evaluation.leaderboard.votes import Choice, load_events

STORE = "feedback.sqlite"


class LeaderboardPanel:
    """A button that ranks, and the tables. Ranking many votes takes seconds, so nothing is ranked unasked."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        with gr.Accordion(text.BOARD, open=False, elem_id="report-board"):
            gr.Markdown(text.BOARD_ABOUT, container=False)
            with gr.Row(elem_classes="controls"):
                self.blind = gr.Checkbox(True, label=text.BOARD_BLIND, elem_id="report-board-blind", container=False)
                self.rank = gr.Button(text.BOARD_RANK, size="sm", elem_id="report-board-rank")
            self.table = gr.HTML("", elem_id="report-board-table", apply_default_css=False)
        self.rank.click(self.show, self.blind, self.table, concurrency_id="board", show_progress_on=self.rank,
                        show_progress="minimal", trigger_mode="once", api_visibility="private")

    def show(self, blind: bool) -> Markup:
        """The tables, or a line that says why there is nothing to rank."""
        store = self.workspace.home / STORE
        if not store.exists():
            return views.empty(text.BOARD_NO_VOTES, status=True)
        try:
            return tables(make_report(load_events(store), Choice(blind=bool(blind))))
        except UserError as error:
            return views.empty(as_sentence(str(error)), status=True)


def tables(report: dict) -> Markup:
    """A table for each group of checkpoints that votes connect."""
    groups = []
    for group in report["leaderboard"]:
        rows = [{"name": row["checkpoint"], "values": cells(row)} for row in group["rows"]]
        groups.append({"about": text.BOARD_GROUP.format(count=group["clusters"]), "rows": rows})
    notes = [as_sentence(note) for note in report["notes"]]
    return render("report/leaderboard.html", groups=groups, heads=text.BOARD_HEADS, label=text.BOARD, notes=notes)


def cells(row: dict) -> list[str]:
    """The cells of a checkpoint: strength, its interval, ranks, votes, and Elo with its spread over orders."""
    ranks = f"{row['rank_low']}" if row["rank_low"] == row["rank_high"] else f"{row['rank_low']} to {row['rank_high']}"
    flags = ", ".join(str(text.BOARD_FLAGS.get(flag, flag)) for flag in row["flags"])
    return [f"{row['strength']:.0f}", f"{row['low']:.0f} to {row['high']:.0f}", ranks,
            f"{row['wins']} · {row['losses']} · {row['ties']}",
            f"{row['elo']:.0f} ({row['elo_low']:.0f} to {row['elo_high']:.0f})", flags]


def as_sentence(line: str) -> str:
    """A line of a message with a capital letter and a full stop."""
    line = one_line(line)
    return f"{line[:1].upper()}{line[1:].rstrip('.')}."
