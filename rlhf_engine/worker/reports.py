"""The reports that the worker makes between runs, on the base that it has loaded."""

import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_engine.commands import report as reports
from rlhf_engine.errors import UserError
from rlhf_engine.files import ASSETS
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.runs.resolve import fingerprint, locate, resolve_model
from rlhf_engine.worker.protocol import as_user_error
from rlhf_engine.worker.requests import ReportRequest

if TYPE_CHECKING:
    from rlhf_engine.worker.model_owner import ModelOwner

ROLES = ("report policy", "report start")
"""Their names are not those of a run or of a chat, which may be loaded at the same time."""


class Reports:
    """Makes reports for the owner of the model. Chats with the same base are answered meanwhile."""

    def __init__(self, owner: "ModelOwner"):
        self.owner = owner

    def make(self, request: ReportRequest) -> None:
        """Make a report; its folder, or what went wrong, is the request's result."""
        server = self.owner.server
        try:
            request.result.set_result(str(self._make(request)))
        except Exception as error:
            if not isinstance(error, UserError):
                traceback.print_exc()
            request.result.set_exception(as_user_error(error))
        finally:
            server.reporting = None
            # Chats that a run's policy is answering go on.
            kept = ("policy", *self.owner.chats.roles)
            self.owner.drop_roles([role for role in self.owner.roles() if role not in kept])

    def _make(self, request: ReportRequest) -> Path:
        plan = reports.check(reports.arguments_of(report_settings(self.owner.server.home, request)))
        backbone = self._backbone(plan.args.model)
        request.started = True

        def on_microbatch() -> None:
            request.tokens += 1
            if self.owner.server.closing:
                raise UserError("the worker is shutting down: make the report anew")
            self.owner.chats.advance_all()

        reports.make(plan, backbone, roles=ROLES, on_microbatch=on_microbatch)
        return plan.output

    def _backbone(self, model: str) -> Backbone:
        """The base of a report: the one that is loaded, if it is that."""
        loaded = self.owner.backbone
        if loaded and loaded.fingerprint == fingerprint(resolve_model(model)):
            return loaded
        return self.owner.replace_base(model, "auto")


def report_settings(home: Path, request: ReportRequest) -> dict:
    """The settings of a report about something in the workspace `home`, or in the gallery. Raises UserError.

    Its folder lies in `reports` of the workspace and has the name of what it is about; an older one is replaced.
    """
    folder = locate(home, request.adapter)
    if folder not in ("none", "bundled"):
        place = Path(folder).resolve()  # a link may lead out
        homes = [(home / "runs").resolve(), (ASSETS / "adapters").resolve()]
        if not any(parent in place.parents for parent in homes):
            raise UserError(f"{request.adapter!r} is neither a run of the workspace nor in the gallery; choose one "
                            "from the list")
    judges = [locate(home, judge) for judge in request.judges]
    name = request.adapter.replace("@", "-at-")
    return {"adapter": folder, "judge": judges, "output": str(home / "reports" / Path(name).name), "overwrite": True}
